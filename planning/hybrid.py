"""Planning by samples first and gradients after: find the valley, then its bottom."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from tensordict import TensorDict

from .gradient import GradientPlanner
from .icem import ICEM
from .protocols import ActionSpace, Energy, Generators, Plan, Planner, WarmStart, WorldModel


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """One planner's plan and its best candidates are where a gradient planner starts.

    Samples see over the hills between local minima, and need no gradients; gradients end at the
    bottom. The horizons must be equal.

    Args:
        first: any planner; its candidates are the gradient planner's first restarts.
        then: the gradient planner.
    """

    first: Planner = field(default_factory=ICEM)
    then: GradientPlanner = field(default_factory=GradientPlanner)

    @property
    def horizon(self) -> int:
        """Actions per plan."""
        return self.then.horizon

    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Diagnostics: the second's, and the first's as `first_<name>`."""
        options = (world_model, state, energy, action_space)
        rough = self.first.plan(*options, warm_start, generator)
        start = WarmStart(rough.actions, candidates=rough.candidates)
        fine = self.then.plan(*options, start, generator)
        better = (fine.energy <= rough.energy)[:, None, None]
        return Plan(
            torch.where(better, fine.actions, rough.actions),
            torch.minimum(fine.energy, rough.energy),
            std=rough.std,
            candidates=rough.candidates,
            diagnostics=fine.diagnostics
            | {f"first_{name}": values for name, values in rough.diagnostics.items()},
        )
