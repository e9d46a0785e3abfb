"""TwoRooms: a dot in two rooms joined by a door, for many parallel copies, in torch.

After the two-rooms world of PLDM (Sobal et al. 2025, arXiv:2502.14819): 64 px instead of 65, a
Gaussian dot, steps of at most 2.45 px, 200 steps. Everything here is a pure function of its
arguments; `two_rooms_env.py` makes gymnasium environments of it.

Coordinates are pixels, (x, y), x to the right and y down, pixel centres at half-integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Positions = Float[Tensor, "B 2"]
ROUNDING = 1e-4  # px by which a dot that rests on a face may seem to be inside of the wall
BACKGROUND, WALL, DOT = (16, 20, 38), (112, 122, 150), (255, 176, 32)  # colours, RGB


@dataclass(frozen=True)
class Layout:
    """Where the wall and its door stand: centre x of the wall and centre y of the door, in px."""

    wall: Float[Tensor, " B"]
    door: Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class TwoRooms:
    """The rules of the world. The dot is a point; it slides along walls and never crosses them.

    Args:
        size: image side, px.
        border: thickness of the outer wall, px.
        wall_width: thickness of the wall between the rooms, px.
        door_width: opening of the door, px.
        dot_sigma: standard deviation of the drawn dot, px.
        max_norm: longest possible step, px: each action component is at most
            `max_norm / sqrt(2)`, so that the bounds are a box.
        random_layout: draw wall and door for every episode; otherwise both are in the middle.
    """

    size: int = 64
    border: float = 4.0
    wall_width: float = 4.0
    door_width: float = 10.0
    dot_sigma: float = 1.5
    max_norm: float = 2.45
    random_layout: bool = False

    def __post_init__(self) -> None:
        room = (self.size - 2 * self.border - self.wall_width) / 2
        if min(self.border, self.wall_width, self.door_width, self.dot_sigma, self.max_norm) <= 0:
            raise ValueError(f"all lengths must be positive; got {self}")
        if room < self.door_width:
            raise ValueError(
                f"rooms {room} px wide are narrower than the door ({self.door_width} px): "
                "use a larger size, or thinner walls and door"
            )

    @property
    def max_action(self) -> float:
        """Largest absolute value of an action component, px per step."""
        return self.max_norm / 2**0.5

    def layouts(self, count: int, generator: torch.Generator) -> Layout:
        """Layouts of `count` episodes; wall in the middle third, door anywhere along it."""
        middle = torch.full((count,), self.size / 2, device=generator.device)
        if not self.random_layout:
            return Layout(wall=middle, door=middle.clone())
        u, v = torch.rand((2, count), generator=generator, device=generator.device) - 0.5
        inside = self.size - 2 * self.border
        return Layout(
            wall=middle + u * inside / 3, door=middle + v * (inside - self.door_width - 4.0)
        )

    def positions(
        self, layout: Layout, right: Bool[Tensor, " B"], generator: torch.Generator
    ) -> Positions:
        """Uniform over the right room where `right`, else over the left one."""
        half = self.wall_width / 2
        low, high = self.border, self.size - self.border
        start = torch.where(right, layout.wall + half, low)
        stop = torch.where(right, high, layout.wall - half)
        u, v = torch.rand((2, len(right)), generator=generator, device=generator.device)
        return torch.stack([start + u * (stop - start), low + v * (high - low)], dim=1)

    def starts(self, layout: Layout, count: int, generator: torch.Generator) -> Positions:
        """Uniform over either room."""
        right = torch.rand(count, generator=generator) < 0.5
        return self.positions(layout, right, generator)

    def pairs(
        self, layout: Layout, count: int, generator: torch.Generator
    ) -> tuple[Positions, Positions]:
        """Starts and goals, in different rooms."""
        right = torch.rand(count, generator=generator) < 0.5
        start = self.positions(layout, right, generator)
        return start, self.positions(layout, ~right, generator)

    def step(self, positions: Positions, actions: Positions, layout: Layout) -> Positions:
        """Move by `actions` px, cut to the bounds; a blocked motion slides along the wall.

        Exact for the whole segment, however long: the dot meets the near face of the wall at
        the time `enter`; if it is not in the door's opening then, it stops there and only y goes
        on. Otherwise y is kept in the opening until the far face is behind, at `leave`. Motion
        is monotone, so that keeping y there is the same as sliding along the door's sides.
        """
        bound = self.max_action
        (x, y), (dx, dy) = positions.unbind(1), actions.clamp(-bound, bound).unbind(1)
        half, opening = self.wall_width / 2, self.door_width / 2
        across = (x - layout.wall) * dx.sign()  # along the motion; < 0: the wall is ahead
        enter, leave = (-half - across) / dx.abs(), (half - across) / dx.abs()
        between = (x - layout.wall).abs() < half - ROUNDING
        enter = torch.where(dx == 0, torch.where(between, -torch.inf, torch.inf), enter)
        leave = torch.where(dx == 0, torch.inf, leave)
        top, bottom = layout.door - opening, layout.door + opening

        meets = (-half - across >= -ROUNDING) & (enter < 1)
        at_face = y + enter.clamp(0, 1) * dy
        blocked = meets & ((at_face < top) | (at_face > bottom))
        in_door = ~blocked & (enter < 1) & (half - across > ROUNDING)
        until = leave.clamp(0, 1)
        through = (y + until * dy).maximum(top).minimum(bottom) + (1 - until) * dy
        face = layout.wall - half * dx.sign()
        moved = torch.stack(
            [torch.where(blocked, face, x + dx), torch.where(in_door, through, y + dy)], dim=1
        )
        return moved.clamp(self.border, self.size - self.border)

    def render(self, positions: Positions, layout: Layout) -> UInt8[Tensor, "B size size 3"]:
        """RGB images [B, H, W, C]; the wall is anti-aliased, the dot blended over it."""
        edges = torch.arange(self.size, device=positions.device, dtype=positions.dtype)

        def covered(low: Tensor, high: Tensor) -> Tensor:
            """Share of each pixel inside [low, high], along one axis."""
            width = (edges + 1).minimum(high[:, None]) - edges.maximum(low[:, None])
            return width.clamp(0, 1)

        half, opening = self.wall_width / 2, self.door_width / 2
        across = covered(layout.wall - half, layout.wall + half)
        along = 1 - covered(layout.door - opening, layout.door + opening)
        inside = covered(*positions.new_tensor([[self.border], [self.size - self.border]]))
        free = inside[:, :, None] * inside[:, None, :]
        wall = 1 - free * (1 - along[:, :, None] * across[:, None, :])
        near = torch.exp(-((edges + 0.5 - positions[..., None]) ** 2) / (2 * self.dot_sigma**2))
        dot = near[:, 1, :, None] * near[:, 0, None, :]
        background, grey, orange = positions.new_tensor([BACKGROUND, WALL, DOT])
        mix = torch.stack([wall, dot, wall * dot], dim=-1)
        colours = torch.stack([grey - background, orange - background, background - grey])
        return (mix @ colours + background + 0.5).to(torch.uint8)


class RoomsBeneath:
    """The rules of `rooms`, of which subclasses say layouts, steps and pictures anew."""

    rooms: TwoRooms

    @property
    def size(self) -> int:
        """Image side, px."""
        return self.rooms.size

    @property
    def max_action(self) -> float:
        """Largest absolute value of an action component, px per step."""
        return self.rooms.max_action

    def starts(self, layout: Layout, count: int, generator: torch.Generator) -> Positions:
        """Uniform over either room."""
        return self.rooms.starts(layout, count, generator)

    def pairs(
        self, layout: Layout, count: int, generator: torch.Generator
    ) -> tuple[Positions, Positions]:
        """Starts and goals, in different rooms."""
        return self.rooms.pairs(layout, count, generator)
