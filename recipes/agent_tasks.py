"""The tasks of the whole agent in a maze: what each minds, and when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from ..planning.configurator import Task
from ..planning.energies import ActionEffort, ComposableEnergy
from ..planning.intrinsic import Away, Boundary, Effort, IntrinsicCost, Term
from ..planning.judged import Disc, Judged
from ..planning.maze import Maze
from ..planning.oracle import MazeWay
from ..planning.protocols import ActionSpace
from ..planning.readout import LinearReadout

USUAL = {"goal": 1.0, "effort": 0.0, "wall": 0.0}


@dataclass(frozen=True, kw_only=True)
class Chores:
    """Three tasks: "reach" a goal image; "sparing", with little effort; "clear" of some places.

    Args:
        most_effort: that counts as little, px^2.
        effort: weight of the effort then, beside a critic that does not mind it.
        dedicated_effort: the same for an agent whose critic was learnt with this weight.
        discs: the places: x, y and radius of each, px.
        margin: distance from them that is cared for, px.
        wall: weight of each px inside of them and their margins.
    """

    most_effort: float = 25.0
    effort: float = 1.0
    dedicated_effort: float = 2.0
    discs: Sequence[tuple[float, float, float]] = ((10.5, 14.0, 3.0), (21.5, 14.0, 3.0))
    margin: float = 1.5
    wall: float = 2.0

    @property
    def places(self) -> list[Disc]:
        """The discs."""
        return [Disc(x=x, y=y, radius=radius) for x, y, radius in self.discs]

    def tasks(self, *, dedicated: bool = False) -> dict[str, Task]:
        """As the agent is told them, or agents that were made for one of them."""
        effort = self.dedicated_effort if dedicated else self.effort
        return {
            "reach": Task(),
            "sparing": Task(weights={"effort": effort}),
            "clear": Task(weights={"wall": self.wall}),
        }

    def judged(self, env: VectorEnv, task: str) -> Judged:
        """The world that knows what is success."""
        return Judged(
            env,
            effort=self.most_effort if task == "sparing" else None,
            discs=self.places if task == "clear" else (),
        )

    def depth(self, positions: Float[Tensor, "*S 2"]) -> Float[Tensor, "*S"]:
        """How deep places are in the discs and their margins, px; at most 0 outside."""
        each = [replace(disc, radius=disc.radius + self.margin) for disc in self.places]
        return torch.stack([disc.depth(positions) for disc in each]).amax(dim=0)

    def oracle(self, task: str, maze: Maze, goal: TensorDict) -> ComposableEnergy:
        """What a planner minimises that knows the truth: the way, and what the task minds."""
        way = MazeWay(maze, goal)
        if task == "sparing":
            return way + 14.0 * ActionEffort()
        if task == "clear":
            inside = Boundary(lambda states: self.depth(states["position"]))
            return way + 10.0 * IntrinsicCost(terms={"wall": inside}, weights={"wall": 1.0})
        return way


def terms(near: float, chores: Chores, readout: LinearReadout) -> dict[str, Term]:
    """The intrinsic cost of all tasks."""

    def deep(states: TensorDict) -> Tensor:
        return chores.depth(readout(states["latent"]))

    return {
        "goal": partial(Away, width=near),
        "effort": lambda goal: Effort(),
        "wall": lambda goal: Boundary(deep),
    }


def largest(space: ActionSpace, chores: Chores) -> dict[str, float]:
    """The most that each term can cost in one step."""
    corner = space.low.abs().maximum(space.high.abs())
    deepest = max(disc.radius for disc in chores.places) + chores.margin
    return {"goal": 1.0, "effort": float(corner.square().sum()), "wall": deepest}
