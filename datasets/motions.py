"""Real photographs that pan, zoom, turn, circle and bounce: classes that only time can tell."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa.seeds import generator

from .clips import InMemoryClips
from .images import Split
from .views import TILTED, draw_views, film

CLASSES = (
    "pan right",
    "pan left",
    "pan down",
    "pan up",
    "zoom in",
    "zoom out",
    "rotate clockwise",
    "rotate counterclockwise",
    "circle clockwise",
    "circle counterclockwise",
    "bounce sideways",
    "bounce up and down",
)
PER_CLASS = {"train": 800, "test": 200}
VIEW = (24, 30)  # side of what is seen at mid-clip, in pixels of the photograph
TRAVEL = (0.25, 0.9)  # mean way of the picture's points in a clip, in sides of the view
ZOOM = 0.3  # a zoom's travel over that of the others
TURNS = (1.0, 1.5)  # of a circle, or periods of a bounce, in a clip
ARM = (math.sqrt(2) + math.asinh(1)) / 6  # mean distance from the centre, in sides of a square
REACH = TILTED + TRAVEL[1] / 2 + 0.05  # from mid-view to what is seen at most, in sides


class Moves(NamedTuple):
    """How each picture moves on the screen; see `CLASSES`."""

    kind: Int64[Tensor, " n"]
    travel: Float[Tensor, " n"]
    turns: Float[Tensor, " n"]
    phase: Float[Tensor, " n"]

    def at(
        self, time: Float[Tensor, " T"]
    ) -> tuple[Float[Tensor, "n T 2"], Float[Tensor, "n T"], Float[Tensor, "n T"]]:
        """Shift (x, y) in sides of the view, logarithm of the zoom, and angle in rad, clockwise.

        Times are -1/2 at the clip's beginning and 1/2 at its end; at 0 nothing has moved. The
        two moves of a pair (kinds 2k and 2k + 1) are each other's time reversal; a bounce is
        its own.
        """
        family, second = (self.kind // 2)[:, None], (self.kind % 2)[:, None]
        way = torch.where(second == 0, 1.0, -1.0) * self.travel[:, None] * time
        angle = 2 * math.pi * (self.phase[:, None] + self.turns[:, None] * time)
        begin = 2 * math.pi * self.phase[:, None]
        radius = self.travel[:, None] / (2 * math.pi * self.turns[:, None])
        turned = torch.where(second == 0, angle, 2 * begin - angle)
        bounce = math.pi / 2 * radius * (triangle(angle) - triangle(begin))
        x = (
            way * (family == 0)
            + radius * (turned.cos() - begin.cos()) * (family == 4)
            + bounce * ((family == 5) & (second == 0))
        )
        y = (
            way * (family == 1)
            + radius * (turned.sin() - begin.sin()) * (family == 4)
            + bounce * ((family == 5) & (second == 1))
        )
        return torch.stack([x, y], -1), way / ARM * (family == 2), way / ARM * (family == 3)


def triangle(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The triangle wave between -1 and 1, in phase with the cosine."""
    return 1 - 2 / math.pi * torch.arccos(torch.cos(angle))


def draw_moves(n: int, source: torch.Generator) -> Moves:
    """Kinds in turn; everything else, but the slower zooms, is independent of them."""
    kind = torch.arange(n) % len(CLASSES)
    travel, turns, phase = torch.rand(3, n, generator=source, dtype=torch.float64)
    travel = TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * travel
    return Moves(
        kind,
        travel * torch.where(kind // 2 == 2, ZOOM, 1.0),
        TURNS[0] + (TURNS[1] - TURNS[0]) * turns,
        phase,
    )


@functools.lru_cache(maxsize=4)
def motions(
    split: Split, *, frames: int = 16, image_size: int = 32, seed: int = 0
) -> InMemoryClips:
    """9,600 training and 2,400 test clips made over 17 photographs, with 12 classes of motion.

    Names say how the picture moves on the screen. Each clip shows a tile of a photograph, tilted
    by any angle, with the mean and contrast of its middle set. `targets` holds the speed: the
    mean over the view of how far the picture's points move, in px per frame. Training and test
    clips are made over different tiles (`groups`), which they never leave.

    What a model without time can know: at mid-clip the distribution of a frame is the same for
    all classes. A bag of frames without order tells pans from zooms from turns, but not the two
    of a pair, which are each other's time reversal: at most 7 of 12. The beginning or end of a
    zoom hints at its sense, as it must: there is no smallest scale that is seen as often
    before as after. Zooms are slower than the others, to stay within a tile.

    Args:
        frames: T; the way that is travelled in a clip is the same for all T.
        image_size: side S in pixels.
        seed: of everything drawn.
    """
    n = PER_CLASS[split] * len(CLASSES)
    moves = draw_moves(n, generator(seed, "motions", split))
    views = draw_views(split, n, sides=VIEW, reach=REACH, seed=seed, purpose="motions")
    time = torch.linspace(-0.5, 0.5, frames, dtype=torch.float64)
    if frames == 1:
        time = torch.zeros(1, dtype=torch.float64)
    return InMemoryClips(
        film(views, *moves.at(time), image_size)[:, None],
        moves.kind,
        classes=CLASSES,
        title=f"motions/{split}",
        targets={"speed": (moves.travel * image_size / max(frames - 1, 1)).float()},
        groups=views.groups,
    )
