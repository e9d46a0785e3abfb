"""The oracle: the simulator itself as a world model. What a planner reaches with a perfect one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .energies import ComposableEnergy
from .maze import Maze
from .planner import unroll
from .two_rooms_env import Rooms


@dataclass(frozen=True, kw_only=True)
class TrueDynamics:
    """The rules of a world as a world model, over the observations of `TrueState`.

    Args:
        rooms: the rules.
        repeat: environment steps per decision; one action of the model is held for all.
    """

    rooms: Rooms
    repeat: int = 1

    @cached_property
    def _layout(self) -> Any:
        """Any layout: its kind, and the names of what is in it."""
        return self.rooms.layouts(1, torch.Generator())

    def encode(self, observation: Float[Tensor, "B N"]) -> TensorDict:
        """Entries `position` [B, 2], px, and those of the layout [B]."""
        entries = dict(zip(vars(self._layout), observation[:, 2:].unbind(1), strict=True))
        return TensorDict(
            {"position": observation[:, :2], **entries}, batch_size=[len(observation)]
        )

    def step(self, state: TensorDict, action: Float[Tensor, "B 2"]) -> TensorDict:
        """The state after `repeat` environment steps with the same action."""
        layout = type(self._layout)(**{name: state[name] for name in vars(self._layout)})
        position = state["position"]
        for _ in range(self.repeat):
            position = self.rooms.step(position, action, layout)
        return state.copy().update({"position": position})

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


class MazeWay(ComposableEnergy):
    """Mean over the plan of the length of the way to the goal in a maze, px.

    Args:
        maze: the world.
        goal: states [B] of `TrueDynamics`.
    """

    def __init__(self, maze: Maze, goal: TensorDict) -> None:
        self.maze, self.goal = maze, goal["position"].unsqueeze(1)  # [B, 1, 2]

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H 2"]
    ) -> Float[Tensor, "*S B"]:
        here = states["position"]
        way = self.maze.way(here.flatten(0, -2), self.goal.expand_as(here).flatten(0, -2))
        return way.view(here.shape[:-1]).mean(dim=-1)
