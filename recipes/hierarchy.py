"""A maze whose far goals lie beyond a flat planner's horizon: levels learnt, planned with, compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict

from jepa import seeds
from jepa.files import write_arrays

from ..planning.agent import PlanningAgent, RandomAgent, Replanning, action_space_of
from ..planning.dynamics import LatentWorldModel
from ..planning.energies import ComposableEnergy, GoalDistance
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.hierarchy import HierarchicalAgent, Level, SeenFromAbove
from ..planning.icem import ICEM
from ..planning.levels import macro_space
from ..planning.maze import Maze
from ..planning.protocols import ActionSpace
from ..planning.readout import LinearReadout
from ..planning.two_rooms_env import TwoRoomsVectorEnv
from ..probes.intervals import wilson
from .fit import Hardware
from .latent import Dynamics, Joint, learn_world, with_observations
from .embedding import Latent
from .levels import Upper, learn_level, risen
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rooms import approach
from .world import Experience, gather, position_readout, walks_in


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How the agents are compared.

    Args:
        ways: limits of the lengths of ways from start to goal, px, in rising order.
        far: from this length on a pair is far; one of the limits.
        episodes: start-goal pairs between each two limits, the same for all agents.
        max_steps: environment steps per episode.
        haste: weight of the mean distance beside the closest approach.
        seed: of the start-goal pairs; settings were chosen on those of seed 0.
    """

    ways: Sequence[float] = (10, 60, 120, 180, 240, 300)
    far: float = 120
    episodes: int = 20
    max_steps: int = 480
    haste: float = 0.05
    seed: int = 1000

    def __post_init__(self) -> None:
        if list(self.ways) != sorted(set(self.ways)) or self.far not in self.ways[:-1]:
            raise ValueError(
                f"ways must rise, and `far` be one of them but the last; got {self.ways}, {self.far}"
            )


@dataclass(frozen=True)
class Played:
    """Evaluations of one agent, one for each two limits of ways; of those of far pairs the sums."""

    parts: list[Evaluation]
    far: list[Evaluation]

    @property
    def success(self) -> Measured:
        """Share of far goals that were reached."""
        reached, episodes = (
            sum(getattr(part, name) for part in self.far) for name in ("successes", "episodes")
        )
        return Measured(**wilson(reached, episodes)._asdict())

    @property
    def model_calls(self) -> float:
        """States foreseen per decision and environment, of far pairs."""
        return sum(p.cost.transitions for p in self.far) / sum(p.cost.plans for p in self.far)


def hierarchy(
    *,
    out: Path,
    maze: Maze = Maze(),  # noqa: B008
    experience: Experience = Experience(),  # noqa: B008
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    levels: Sequence[Upper] = (Upper(),),
    planner: ICEM = ICEM(horizon=10, samples=64, iterations=2, std=2.0),  # noqa: B008
    flat: ICEM = ICEM(horizon=32, samples=128, iterations=3, std=2.0),  # noqa: B008
    play: Distances = Distances(),  # noqa: B008
    budgets: Mapping[str, float] | None = None,
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "hierarchy",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Plan in a maze on several levels, beside a flat planner on the same world model.

    Args:
        out: folder of the run; must be empty unless resuming.
        maze: the world.
        experience: what is collected.
        latent, joint, dynamics: of the lowest level; see `jepa rooms`.
        levels: those above it, from low to high.
        planner: of actions, under other levels.
        flat: of actions, alone.
        play: the comparison.
        hardware: device, precision and threads of the trainings.
        name: of the recipe, in results.
        seed: of everything but the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    ...
