"""Mazes: the dot of TwoRooms among any walls, where the way may be much longer than the distance.

As `two_rooms`: coordinates are pixels, (x, y), y down; everything is a pure function of its
arguments, and `two_rooms_env.TwoRoomsVectorEnv(rooms=Maze())` makes gymnasium environments of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from .two_rooms import BACKGROUND, DOT, WALL, Positions

STOP = 1e-3  # how much of a step the dot stops before a wall
Wall: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom; px


def spiral(
    size: float = 32.0,
    border: float = 2.0,
    width: float = 3.0,
    thick: float = 2.0,
    turns: int = 2,
) -> list[Wall]:
    """Walls of a corridor that winds so many times around the room in the middle."""
    if (room := size - 2 * border - 2 * turns * (width + thick)) < width:
        raise ValueError(f"{turns} turns of {width} px leave {room} px in the middle: make fewer")
    walls: list[Wall] = []
    for i in range(turns):
        near = border + width + i * (width + thick)
        inner, far = near + thick, size - near
        walls += [
            (near - width - thick, near, far, inner),  # also ends the turn
            (far - thick, near, far, far),
            (near, far - thick, far, far),
            (near, inner + width, inner, far),
        ]
    return walls


@dataclass(frozen=True)
class NoLayout:
    """The walls of a maze are the same in every episode."""


@dataclass(frozen=True, kw_only=True)
class Maze:
    """The rules of the world. The dot is a point; walls stop it, or let it slide, but slowly.

    Args:
        walls: rectangles inside the outer wall, px; None: `spiral`. Walls that join must overlap:
            between two that only touch there is a way for a point.
        size: image side, px.
        border: thickness of the outer wall, px.
        dot_sigma: standard deviation of the drawn dot, px.
        max_norm: longest possible step, px: each action component is at most
            `max_norm / sqrt(2)`, so that the bounds are a box.
        slide: share of a motion along a wall that is left when the dot pushes against it: walls
            are rough.
        least, most: shortest and longest way from start to goal, px; None: any.
    """

    walls: Sequence[Wall] | None = None
    size: int = 32
    border: int = 2
    dot_sigma: float = 0.9
    max_norm: float = 0.6
    slide: float = 0.25
    least: float | None = None
    most: float | None = None

    @property
    def max_action(self) -> float:
        """Largest absolute value of an action component, px per step."""
        return self.max_norm / 2**0.5

    @cached_property
    def rectangles(self) -> Float[Tensor, "W 4"]:
        """All walls; the outer one is four that reach beyond the picture."""
        near, far, end = self.border, self.size - self.border, 2 * self.size
        outer = [(-end, -end, near, end), (far, -end, end, end), (-end, -end, end, near)]
        inner = spiral(float(self.size), float(self.border)) if self.walls is None else self.walls
        return torch.tensor([*outer, (-end, far, end, end), *inner], dtype=torch.float32)

    @cached_property
    def picture(self) -> Float[Tensor, "size size"]:
        """Share of each pixel, (row, column), that is wall; anti-aliased."""
        edges = torch.arange(self.size, dtype=torch.float32)
        left, top, right, bottom = self.rectangles.T

        def covered(low: Tensor, high: Tensor) -> Tensor:
            return ((edges + 1).minimum(high[:, None]) - edges.maximum(low[:, None])).clamp(0, 1)

        walls = covered(top, bottom)[:, :, None] * covered(left, right)[:, None, :]
        return 1 - (1 - walls).prod(dim=0)

    @cached_property
    def free(self) -> Int64[np.ndarray, "N 2"]:
        """Pixels without wall, (row, column)."""
        return np.argwhere(self.picture.numpy() == 0)

    @cached_property
    def number(self) -> Int64[np.ndarray, "size size"]:
        """Which of the `free` pixels each pixel is, (row, column), or is nearest to."""
        free = self.picture.numpy() == 0
        _, nearest = cast(tuple, distance_transform_edt(~free, return_indices=True))
        count = np.cumsum(free).reshape(free.shape) - 1
        return count[nearest[0], nearest[1]]

    @cached_property
    def ways(self) -> Float[np.ndarray, "N N"]:
        """Length of the way between the centres of any two of the `free` pixels, px: the shortest
        one by steps to the 8 neighbours, of which those at a corner need both beside it."""
        number = np.full((self.size + 1, self.size + 1), -1)
        number[tuple(self.free.T)] = np.arange(len(self.free))
        rows, columns, lengths = [], [], []
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            y, x = self.free.T
            there = number[y + down, x + right]
            open_ = (there >= 0) & (number[y + down, x] >= 0) & (number[y, x + right] >= 0)
            rows.append(number[y, x][open_])
            columns.append(there[open_])
            lengths.append(np.full(open_.sum(), (down**2 + right**2) ** 0.5))
        edges = (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns)))
        graph = coo_matrix(edges, shape=(len(self.free),) * 2)
        return dijkstra(graph.tocsr(), directed=False)

    def way(self, start: Positions, goal: Positions) -> Float[Tensor, " B"]:
        """Length of the way from the start's pixel to the goal's, px; from and to the nearest free
        one for points on the very face of a wall."""
        (x, y), (u, v) = (p.long().clamp(0, self.size - 1).numpy().T for p in (start, goal))
        return torch.from_numpy(self.ways[self.number[y, x], self.number[v, u]]).float()

    def layouts(self, count: int, generator: torch.Generator) -> NoLayout:
        """There is one."""
        return NoLayout()

    def starts(self, layout: NoLayout, count: int, generator: torch.Generator) -> Positions:
        """Uniform over all that is no wall."""
        return self._inside(torch.randint(len(self.free), (count,), generator=generator), generator)

    def pairs(
        self, layout: NoLayout, count: int, generator: torch.Generator
    ) -> tuple[Positions, Positions]:
        """Starts and goals: uniform over the pairs whose way is neither too short nor too long."""
        least, most = self.least or 0.0, self.most or np.inf
        allowed = np.flatnonzero((self.ways >= least) & (self.ways <= most))
        if not len(allowed):
            longest = self.ways[np.isfinite(self.ways)].max()
            raise ValueError(f"no way is {least} to {most} px long; the longest is {longest:.0f}")
        drawn = allowed[torch.randint(len(allowed), (count,), generator=generator).numpy()]
        start, goal = torch.from_numpy(np.stack(np.divmod(drawn, len(self.free))))
        return self._inside(start, generator), self._inside(goal, generator)

    def _inside(self, pixels: Int64[Tensor, " B"], generator: torch.Generator) -> Positions:
        """Anywhere in the pixels of these numbers."""
        corner = torch.from_numpy(self.free[pixels.numpy()]).flip(1)
        return corner + torch.rand((len(pixels), 2), generator=generator)

    def step(self, positions: Positions, actions: Positions, layout: NoLayout) -> Positions:
        """Move by `actions` px, cut to the bounds, as far as the first wall, however long the step;
        of what is left, the part along that wall goes on as far as the next, `slide` of it."""
        moves = actions.clamp(-self.max_action, self.max_action)
        positions, left = self._swept(positions, moves)
        return self._swept(positions, self.slide * left)[0]

    def _swept(self, positions: Positions, moves: Positions) -> tuple[Positions, Positions]:
        """Where the first wall stops the dots, and what is left of their moves along that wall.

        A segment meets a rectangle when it has come into its extent along both axes before it has
        left that along one. A dot stops a thousandth of the move before, so that it never is
        inside by rounding.
        """
        (x, y), (dx, dy) = positions.unbind(1), moves.unbind(1)
        left, top, right, bottom = self.rectangles.to(positions)[..., None].unbind(1)  # [W, 1]
        (a, b), (c, d) = ((left - x) / dx, (right - x) / dx), ((top - y) / dy, (bottom - y) / dy)
        enter_x, enter_y = a.minimum(b), c.minimum(d)
        enter = enter_x.maximum(enter_y)  # [W, B]
        leave = a.maximum(b).minimum(c.maximum(d))
        meets = (enter < leave) & (enter < 1) & (leave > STOP)
        until, which = torch.where(meets, enter, 1 + STOP).min(dim=0)
        until = (until - STOP).clamp(min=0)
        along_y = (enter_x > enter_y).gather(0, which[None])[0]  # the wall's face is upright
        axis = torch.stack([~along_y, along_y], dim=1)
        return positions + until[:, None] * moves, (1 - until)[:, None] * moves * axis

    def render(self, positions: Positions, layout: NoLayout) -> UInt8[Tensor, "B size size 3"]:
        """RGB images [B, H, W, C]; the dot is blended over the walls."""
        edges = torch.arange(self.size, dtype=positions.dtype)
        near = torch.exp(-((edges + 0.5 - positions[..., None]) ** 2) / (2 * self.dot_sigma**2))
        dot = (near[:, 1, :, None] * near[:, 0, None, :])[..., None]
        background, grey, orange = positions.new_tensor([BACKGROUND, WALL, DOT])
        empty = background + self.picture[..., None] * (grey - background)
        return (empty + dot * (orange - empty) + 0.5).to(torch.uint8)
