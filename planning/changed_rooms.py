"""TwoRooms after a change: the door has moved, or the same actions move the dot otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from .two_rooms import Layout, Positions, RoomsBeneath, TwoRooms


@dataclass(frozen=True, kw_only=True)
class ChangedRooms(RoomsBeneath):
    """The rules of a world that was `rooms` once. A picture shows the door, but not the motion.

    Args:
        door: how far the door has moved, px, y down.
        gain: factor of all actions.
        drift: what is added to every step, (x, y), px.
        rooms: the world before; starts and goals are the same for the same generator.
    """

    door: float = 0.0
    gain: float = 1.0
    drift: tuple[float, float] = (0.0, 0.0)
    rooms: TwoRooms = field(default_factory=TwoRooms)

    def __post_init__(self) -> None:
        if not self.rooms.random_layout:
            most = (self.rooms.size - self.rooms.door_width) / 2 - self.rooms.border
            if abs(self.door) > most:
                raise ValueError(
                    f"the door can move {most:g} px before it meets the border; got {self.door:g}"
                )

    def layouts(self, count: int, generator: torch.Generator) -> Layout:
        """As before, with the door where it is now."""
        layout = self.rooms.layouts(count, generator)
        return Layout(wall=layout.wall, door=layout.door + self.door)

    def step(self, positions: Positions, actions: Positions, layout: Layout) -> Positions:
        """Actions, cut to the bounds, times the gain, and the drift."""
        bound = self.max_action
        moves = self.gain * actions.clamp(-bound, bound) + actions.new_tensor(self.drift)
        return replace(self.rooms, max_norm=math.inf).step(positions, moves, layout)

    def render(self, positions: Positions, layout: Layout) -> UInt8[Tensor, "B size size 3"]:
        """RGB images."""
        return self.rooms.render(positions, layout)
