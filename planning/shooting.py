"""Planning by random shooting: the baseline of all planners that sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict

from .planner import Best, box_mean, first_candidates, score, uniform
from .protocols import ActionSpace, Energy, Generators, Plan, WarmStart, WorldModel


@dataclass(frozen=True, kw_only=True)
class RandomShooting:
    """The best of many plans that are uniform in the box, and of the warm start.

    Args:
        horizon: actions per plan, H.
        samples: candidates, S.
        chunk: rollouts in memory at once; None: all.
    """

    horizon: int = 12
    samples: int = 512
    chunk: int | None = None

    def __post_init__(self) -> None:
        if min(self.horizon, self.samples) < 1:
            raise ValueError(f"need horizon and samples of at least 1; got {self}")

    @torch.no_grad()
    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Diagnostics: `energy` [1, B]."""
        mean = box_mean(warm_start, len(state), self.horizon, action_space)
        given = torch.cat([mean[None], first_candidates(warm_start, mean, action_space)])
        given = given[: self.samples]
        batch, horizon, size = mean.shape
        drawn = uniform(self.samples - len(given), batch, horizon, size, generator)
        drawn = action_space.low + (action_space.high - action_space.low) * drawn
        best, actions = Best.of(mean), torch.cat([given, drawn])
        best.update(actions, score(world_model, state, energy, actions, self.chunk))
        return Plan(best.actions, best.energy, diagnostics={"energy": best.energy[None]})
