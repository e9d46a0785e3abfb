"""Scenes: shapes cut from photographs lie on other photographs, and every pixel has its class."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from jepa.seeds import generator

from .images import Split
from .photographs import CONTRAST, MEAN
from .sprites import distance
from .views import CHUNK, TILTED, draw_views, film

CLASSES = ("background", "disc", "ring", "square", "cross", "triangle")
IMAGES = {"train": 2000, "test": 500}
MOST = 3  # shapes in an image, at least one
RADIUS = (0.12, 0.25)  # of the image's side
STANDS_OUT = (25.0, 70.0)  # grey levels between the means of a shape and of the background
TEXTURE = 20.0  # standard deviation of both, in grey levels
VIEW = (30, 48)  # side of what is seen of a photograph, in its pixels


class Scenes(NamedTuple):
    """Grey images and the number in CLASSES of each pixel.

    groups: the tile that the background is from.
    """

    images: UInt8[Tensor, "n 1 S S"]
    masks: UInt8[Tensor, "n S S"]
    groups: Int64[Tensor, " n"]


@functools.lru_cache(maxsize=2)
def scenes(split: Split, *, image_size: int = 64, seed: int = 0) -> Scenes:
    """2,000 training and 500 test images of one to three shapes over a photograph.

    Shapes are filled with a photograph too, lighter or darker in the mean, turned by any angle,
    and later ones cover earlier ones; all are drawn independently. Training and test images take
    backgrounds and fillings from different tiles of the photographs, and share no pixel.

    What it is not: natural segmentation. The texture tells nothing of the class, the outline
    alone does; that there is a shape at all is told by brightness and texture.

    Args:
        image_size: side S in pixels.
        seed: of everything drawn.
    """
    n = IMAGES[split]
    source = generator(seed, "scenes", split)
    behind, groups = _photographs(split, n, image_size, seed, "scenes, backgrounds")
    fillings, _ = _photographs(split, n * MOST, image_size, seed, "scenes, fillings")
    fillings = fillings.unflatten(0, (n, MOST))
    kind = torch.randint(1, len(CLASSES), (n, MOST), generator=source)
    kind[torch.arange(MOST) >= torch.randint(1, MOST + 1, (n, 1), generator=source)] = 0
    draws = torch.rand(n, MOST, 5, generator=source)
    sign = (torch.randint(0, 2, (n, MOST), generator=source) * 2 - 1).float()
    radius = image_size * (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draws[..., 0])
    level = sign * (STANDS_OUT[0] + (STANDS_OUT[1] - STANDS_OUT[0]) * draws[..., 1])
    place = radius[..., None] + (image_size - 2 * radius[..., None]) * draws[..., 2:4]
    angle = 2 * math.pi * draws[..., 4]
    images, masks = behind, torch.zeros(n, image_size, image_size, dtype=torch.uint8)
    for i in range(MOST):
        for number, shape in enumerate(CLASSES[1:], 1):
            for rows in (kind[:, i] == number).nonzero()[:, 0].split(CHUNK):
                outside = _outside(
                    shape, place[rows, i], radius[rows, i], angle[rows, i], image_size
                )
                ahead = fillings[rows, i] + level[rows, i, None, None] - images[rows]
                images[rows] += ahead * (0.5 - outside).clamp(0, 1)
                masks[rows] = torch.where(outside < 0, number, masks[rows])
    return Scenes(images.round().clamp(0, 255).to(torch.uint8)[:, None], masks, groups)


def _photographs(
    split: Split, n: int, image_size: int, seed: int, purpose: str
) -> tuple[Float[Tensor, "n S S"], Int64[Tensor, " n"]]:
    """Views of photographs, all of about the same mean and contrast, and their tiles."""
    views = draw_views(split, n, sides=VIEW, reach=TILTED, seed=seed, purpose=purpose)
    still = torch.zeros(n, 1, dtype=torch.float64)
    levels = film(views, still[..., None].expand(-1, -1, 2), still, still, image_size)[:, 0]
    return (levels - MEAN) * (TEXTURE / CONTRAST) + MEAN, views.groups


def _outside(
    shape: str,
    place: Float[Tensor, "b 2"],
    radius: Float[Tensor, "b"],
    angle: Float[Tensor, "b"],
    image_size: int,
) -> Float[Tensor, "b S S"]:
    """Distance of every pixel from the outline of a turned shape, negative inside."""
    pixel = torch.arange(image_size) + 0.5
    y = (pixel - place[:, :1])[:, :, None]
    x = (pixel - place[:, 1:])[:, None, :]
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return distance(shape, cosine * y + sine * x, cosine * x - sine * y, radius[:, None, None])
