"""TwoRooms whose door opens and shuts at random: what comes cannot be known, but what may come can.

Importing `two_rooms_env` registers `jepa/StochasticDoor-v0`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from .two_rooms import Layout, Positions, RoomsBeneath, TwoRooms


@dataclass(frozen=True)
class DoorLayout(Layout):
    """As `Layout`; `open` is 1 where the door is open now, and 0 where it is shut."""

    open: Float[Tensor, " B"]

    def as_drawn(self) -> Layout:
        """The walls as they are now: the opening of a shut door is nowhere."""
        return Layout(wall=self.wall, door=self.door.where(self.open > 0.5, -torch.inf))


@dataclass(frozen=True, kw_only=True)
class StochasticDoor(RoomsBeneath):
    """The rules of the world: those of `rooms`, and before each step the door changes at random.

    A picture shows whether the door is open, and nothing foretells when that changes: a dot that
    sets out to the door will be in the other room, or stand before a wall.

    Args:
        flip: probability of a change, per step. The door does not shut on a dot in it.
        rooms: everything else.
    """

    flip: float = 0.05
    rooms: TwoRooms = field(default_factory=TwoRooms)

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability per step; got {self.flip}")

    def layouts(self, count: int, generator: torch.Generator) -> DoorLayout:
        """As those of `rooms`; each door is open or shut, both equally likely."""
        layout = self.rooms.layouts(count, generator)
        shut = torch.rand(count, generator=generator, device=generator.device) < 0.5
        return DoorLayout(wall=layout.wall, door=layout.door, open=1 - shut.to(layout.wall))

    def changed(
        self, layout: DoorLayout, positions: Positions, generator: torch.Generator
    ) -> DoorLayout:
        """The doors a moment later."""
        draws = torch.rand(len(positions), generator=generator, device=generator.device)
        flips = (draws < self.flip) & ~self.in_door(layout, positions)
        return DoorLayout(
            wall=layout.wall, door=layout.door, open=layout.open.where(~flips, 1 - layout.open)
        )

    def in_door(self, layout: DoorLayout, positions: Positions) -> Bool[Tensor, " B"]:
        """Which dots are between the rooms."""
        return (positions[:, 0] - layout.wall).abs() < self.rooms.wall_width / 2

    def across(self, positions: Positions, layout: DoorLayout, *, repeat: int) -> Positions:
        """Actions, each held for `repeat` steps, of dots that want to be in the other room and see
        no farther: at the wall as fast as they can, along it to the door, and on against the door
        where it is shut."""
        ahead = torch.where(positions[:, 0] < layout.wall, 1.0, -1.0)
        beside = (layout.door - positions[:, 1]) / repeat
        actions = torch.stack([ahead * self.max_action, beside], dim=1)
        return actions.clamp(-self.max_action, self.max_action)

    def step(self, positions: Positions, actions: Positions, layout: DoorLayout) -> Positions:
        """The positions after one step, the door being as it is."""
        return self.rooms.step(positions, actions, layout.as_drawn())

    def render(self, positions: Positions, layout: DoorLayout) -> UInt8[Tensor, "B size size 3"]:
        """RGB images; a shut door looks like the wall."""
        return self.rooms.render(positions, layout.as_drawn())
