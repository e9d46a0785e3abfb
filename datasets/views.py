"""Tilted views of the photographs, still or moving; training and test views share no pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from jepa.seeds import derive, generator

from .images import Split
from .photographs import (
    CONTRAST,
    FLAT,
    MEAN,
    PHOTOGRAPHS,
    draw_boxes,
    load_photograph,
    moments,
    places_of,
    tile_numbers,
)

TILTED = math.sqrt(0.5)  # from the middle of a square to its corners, in sides
CHUNK = 64  # clips sampled at once, so that they stay in the processor's cache


@dataclass(frozen=True)
class Views:
    """Where on which photograph each view is, before anything moves.

    photograph: number in PHOTOGRAPHS.
    boxes: (top, left, side, side) in pixels of the photograph, before the tilt.
    tilt: angle of the photograph on the screen, clockwise, in rad.
    groups: the tile that each view is in; different for different photographs.
    """

    photograph: Int64[Tensor, " n"]
    boxes: Int64[Tensor, "n 4"]
    tilt: Float[Tensor, " n"]
    groups: Int64[Tensor, " n"]


def draw_views(
    split: Split, n: int, *, sides: tuple[int, int], reach: float, seed: int, purpose: str
) -> Views:
    """Views of photographs, and at places and tilts, that are drawn uniformly.

    Args:
        sides: least and largest side, in pixels of the photograph; log-uniform.
        reach: how far around its middle a view may be sampled, in sides: nothing nearer leaves
            the tile.
        purpose: name of the draw; other purposes give other views of the same tiles.
    """
    source = generator(seed, "views", purpose, split)
    photograph = torch.randint(0, len(PHOTOGRAPHS), (n,), generator=source)
    tilt = 2 * math.pi * torch.rand(n, generator=source, dtype=torch.float64)
    boxes, groups = torch.empty(n, 4, dtype=torch.int64), torch.empty(n, dtype=torch.int64)
    for number, name in enumerate(PHOTOGRAPHS):
        pixels, rows = load_photograph(name), (photograph == number).nonzero()[:, 0]
        rng = np.random.default_rng(derive(seed, "views", purpose, split, name))
        places = places_of(name, split, seed)
        drawn = draw_boxes(pixels, places, len(rows), rng, sides=sides, margin=reach - 0.5)
        boxes[rows] = torch.from_numpy(drawn)
        groups[rows] = torch.from_numpy(tile_numbers(pixels, drawn)) + 1000 * number
    return Views(photograph, boxes, tilt, groups)


def film(
    views: Views,
    shift: Float[Tensor, "n T 2"],
    zoom: Float[Tensor, "n T"],
    angle: Float[Tensor, "n T"],
    image_size: int,
) -> UInt8[Tensor, "n T S S"]:
    """Clips of the views, sampled bilinearly; mean and contrast are set by the unmoved view.

    Args:
        shift: of the picture on the screen, (x, y) in sides of the view.
        zoom: logarithm of the magnification.
        angle: by which the picture is turned clockwise about the middle, in rad.
    """
    n, frames = zoom.shape
    slope, offset = to_photograph(views, shift, zoom, angle)
    screen = (torch.arange(image_size) + 0.5) / image_size - 0.5
    clips = torch.empty(n, frames, image_size, image_size, dtype=torch.uint8)
    for number, name in enumerate(PHOTOGRAPHS):
        pixels, shown = load_photograph(name), (views.photograph == number).nonzero()[:, 0]
        levels = torch.from_numpy(pixels.astype(np.float32))[None, None]
        mean, spread = (
            torch.from_numpy(m).float() for m in moments(pixels, views.boxes[shown].numpy())
        )
        contrast = CONTRAST / spread.clamp_min(FLAT)
        brightness = MEAN - mean * contrast
        for some in torch.arange(len(shown)).split(CHUNK):
            rows = shown[some]
            across = slope[rows, ..., 0, None] * screen + offset[rows, ..., None]
            down = slope[rows, ..., 1, None] * screen
            place = (across[..., None, :] + down[..., None]).flatten(0, 1).permute(0, 2, 3, 1)
            taken = F.grid_sample(levels.expand(len(place), -1, -1, -1), place, align_corners=False)
            taken = taken.unflatten(0, (-1, frames))[:, :, 0] * contrast[some, None, None, None]
            taken += brightness[some, None, None, None]
            clips[rows] = taken.round_().clamp_(0, 255).to(torch.uint8)
    return clips


def to_photograph(
    views: Views,
    shift: Float[Tensor, "n T 2"],
    zoom: Float[Tensor, "n T"],
    angle: Float[Tensor, "n T"],
) -> tuple[Float[Tensor, "n T 2 2"], Float[Tensor, "n T 2"]]:
    """slope, offset: a point (x, y) of the screen, in sides from its middle, shows the place
    slope @ (x, y) + offset of the photograph, where -1 and 1 are its edges."""
    turn = -(angle + views.tilt[:, None])
    sine, cosine = turn.sin() / zoom.exp(), turn.cos() / zoom.exp()
    back = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))
    extents = [load_photograph(name).shape[::-1] for name in PHOTOGRAPHS]
    extent = torch.tensor(extents, dtype=torch.float64)[views.photograph]
    corner, side = views.boxes[:, [1, 0]], views.boxes[:, 2:3]
    slope = (2 * side / extent)[:, None, :, None] * back
    middle = 2 * (corner + side / 2) / extent - 1
    offset = middle[:, None] - (slope @ shift[..., None])[..., 0]
    return slope.float(), offset.float()
