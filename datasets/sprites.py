"""Moving sprites: video of known direction, speed and shape; a frame tells the shape alone."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from jepa.seeds import generator

from .clips import InMemoryClips
from .images import Split
from .photographs import CONTRAST, MEAN
from .views import CHUNK, TILTED, draw_views, film

DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
SHAPES = ("disc", "ring", "square", "diamond", "cross", "triangle")
CLIPS = {"train": 10_000, "test": 2_000}
SPEED = (0.5, 2.5)  # px per frame
RADIUS = (0.1, 0.17)  # of the image's side
STANDS_OUT = (60.0, 120.0)  # grey levels between the sprite and the mean of the background
VIEW = (30, 48)  # side of the background, in pixels of its photograph


class Motion(NamedTuple):
    """Sprites in motion on a torus. Places are (y, x) in pixels, y downward."""

    shape: Int64[Tensor, " n"]
    radius: Float[Tensor, " n"]
    level: Float[Tensor, " n"]
    start: Float[Tensor, "n 2"]
    direction: Int64[Tensor, " n"]
    speed: Float[Tensor, " n"]

    def velocity(self) -> Float[Tensor, "n 2"]:
        """In pixels per frame."""
        angle = self.direction * (2 * math.pi / len(DIRECTIONS))
        return self.speed[:, None] * torch.stack([angle.sin(), angle.cos()], 1)

    def path(self, frames: int) -> Float[Tensor, "n T 2"]:
        """Centre of the sprite in every frame, not wrapped."""
        return self.start[:, None] + torch.arange(frames)[:, None] * self.velocity()[:, None]


def draw_motion(n: int, image_size: int, source: torch.Generator) -> Motion:
    """Directions in turn, everything else drawn independently of them and of one another.

    The start is uniform on the torus, hence so is the centre in every frame, whichever way the
    sprite moves: the distribution of frame t is the same for all directions and speeds.
    """

    def uniform(low: float, high: float) -> Float[Tensor, " n"]:
        return low + (high - low) * torch.rand(n, generator=source, dtype=torch.float64)

    sign = torch.randint(0, 2, (n,), generator=source) * 2 - 1
    return Motion(
        shape=torch.randint(0, len(SHAPES), (n,), generator=source),
        radius=uniform(*RADIUS) * image_size,
        level=MEAN + sign * uniform(*STANDS_OUT),
        start=image_size * torch.rand(n, 2, generator=source, dtype=torch.float64),
        direction=torch.arange(n) % len(DIRECTIONS),
        speed=uniform(*SPEED),
    )


def distance(
    shape: str,
    y: Float[Tensor, "*b H #W"],
    x: Float[Tensor, "*b #H W"],
    r: Float[Tensor, "*#b 1 1"],
) -> Float[Tensor, "*b H W"]:
    """Distance from the outline of a shape of radius r around 0, negative inside."""
    across, up = x.abs(), y.abs()
    match shape:
        case "disc":
            return (x * x + y * y).sqrt() - r
        case "ring":
            return ((x * x + y * y).sqrt() - 0.7 * r).abs() - 0.3 * r
        case "square":
            return torch.maximum(across, up) - 0.85 * r
        case "diamond":
            return (across + up) * math.sqrt(0.5) - 0.85 * r
        case "cross":
            arm, half = r, r / 3
            upright = torch.maximum(across - half, up - arm)
            return torch.minimum(upright, torch.maximum(across - arm, up - half))
        case "triangle":
            return torch.maximum(y - r / 2, math.sqrt(0.75) * across - y / 2 - r / 2)
    raise ValueError(f"no shape {shape!r}; there are {', '.join(SHAPES)}")


def render(
    motion: Motion, background: Float[Tensor, "n S S"], frames: int
) -> UInt8[Tensor, "n 1 T S S"]:
    """The clips: antialiased sprites over still backgrounds; what leaves on one side comes in on
    the other."""
    n, size = background.shape[:2]
    clips = torch.empty(n, frames, size, size, dtype=torch.uint8)
    pixel = torch.arange(size, dtype=torch.float64) + 0.5
    offset = pixel - motion.path(frames)[..., None]  # n T 2 S
    offset = ((offset + size / 2).remainder(size) - size / 2).float()
    radius, level = motion.radius.float(), motion.level.float()
    for number, shape in enumerate(SHAPES):
        for rows in (motion.shape == number).nonzero()[:, 0].split(CHUNK):
            y, x = offset[rows].unbind(2)
            outside = distance(shape, y[..., None], x[..., None, :], radius[rows, None, None, None])
            behind = background[rows, None]
            ahead = level[rows, None, None, None] - behind
            clips[rows] = (behind + ahead * (0.5 - outside).clamp(0, 1)).round().to(torch.uint8)
    return clips[:, None]


@functools.lru_cache(maxsize=4)
def sprites(
    split: Split,
    *,
    frames: int = 16,
    image_size: int = 32,
    clutter: float = 5.0,
    seed: int = 0,
) -> InMemoryClips:
    """10,000 training and 2,000 test clips of a grey sprite that moves over a still photograph.

    The label is one of 8 directions; `targets` are the speed in px per frame and the number of
    the shape in SHAPES. Training and test clips have backgrounds from different tiles of the
    photographs (`groups`), and are drawn under different seeds.

    What it is not: a frame tells nothing of direction or speed, but a set of frames without
    their order tells the axis of the motion and the speed, so that chance is 1/8 for one frame,
    and 1/2 for a bag of frames.

    Args:
        frames: T, at one frame a time step.
        image_size: side S in pixels.
        clutter: standard deviation of the background, in grey levels.
        seed: of everything drawn.
    """
    n = CLIPS[split]
    motion = draw_motion(n, image_size, generator(seed, "sprites", split))
    views = draw_views(split, n, sides=VIEW, reach=TILTED, seed=seed, purpose="sprites")
    still = torch.zeros(n, 1, dtype=torch.float64)
    behind = film(views, still[..., None].expand(-1, -1, 2), still, still, image_size)[:, 0]
    background = (behind - MEAN) * (clutter / CONTRAST) + MEAN
    return InMemoryClips(
        render(motion, background, frames),
        motion.direction,
        classes=DIRECTIONS,
        title=f"sprites/{split}",
        targets={"speed": motion.speed.float(), "shape": motion.shape.float()},
        groups=views.groups,
    )
