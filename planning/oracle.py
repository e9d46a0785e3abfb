"""The oracle: the simulator itself as a world model. What a planner reaches with a perfect one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .energies import ComposableEnergy
from .planner import unroll
from .two_rooms import Layout, TwoRooms


@dataclass(frozen=True, kw_only=True)
class TrueDynamics:
    """TwoRooms as a world model over (x, y, wall, door), the observations of `TrueState`.

    Args:
        rooms: the rules of the world.
        repeat: environment steps per decision; one action of the model is held for all.
    """

    rooms: TwoRooms
    repeat: int = 1

    def encode(self, observation: Float[Tensor, "B 4"]) -> TensorDict:
        """Entries `position` [B, 2], `wall` and `door` [B], px."""
        position, wall, door = observation.split([2, 1, 1], dim=1)
        return TensorDict(
            {"position": position, "wall": wall[:, 0], "door": door[:, 0]},
            batch_size=[len(observation)],
        )

    def step(self, state: TensorDict, action: Float[Tensor, "B 2"]) -> TensorDict:
        """The state after `repeat` environment steps with the same action."""
        layout, position = Layout(wall=state["wall"], door=state["door"]), state["position"]
        for _ in range(self.repeat):
            position = self.rooms.step(position, action, layout)
        return TensorDict(
            {"position": position, "wall": layout.wall, "door": layout.door},
            batch_size=state.batch_size,
        )

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H 2"]) -> TensorDict:
        """The states [*S, B, H] after each action."""
        return unroll(self.step, state, actions)


class WayToGoal(ComposableEnergy):
    """Mean over the plan of the length of the way to the goal, px: straight in the goal's half
    of the picture, else through the centre of the door.

    Args:
        goal: states [B] of `TrueDynamics`.
    """

    def __init__(self, goal: TensorDict) -> None:
        self.goal = goal["position"].unsqueeze(1)  # [B, 1, 2]
        self.door = torch.stack([goal["wall"], goal["door"]], dim=1).unsqueeze(1)

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H 2"]
    ) -> Float[Tensor, "*S B"]:
        here = states["position"]
        straight = (here - self.goal).norm(dim=-1)
        around = (here - self.door).norm(dim=-1) + (self.door - self.goal).norm(dim=-1)
        same_side = (here - self.door)[..., 0] * (self.goal - self.door)[..., 0] > 0
        return torch.where(same_side, straight, around).mean(dim=-1)
