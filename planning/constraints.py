"""State constraints: planning by the augmented Lagrangian, around any planner.

For inequalities g <= 0: Nocedal & Wright 2006, Numerical Optimization, section 17.3; Rockafellar
1973.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .energies import ComposableEnergy
from .planner import finite
from .protocols import ActionSpace, Energy, Generators, Plan, Planner, WarmStart, WorldModel


@dataclass(frozen=True, kw_only=True)
class StateConstraint(ComposableEnergy):
    """Demands excess(states) <= 0 at every step of the plan.

    As an energy it is the sum over the steps of (max(0, m + p g)^2 - m^2) / (2 p), with the
    multiplier m, the penalty p and the excess g: without multipliers the quadratic penalty
    p/2 max(0, g)^2, which alone always leaves a little violation; with the right ones the
    constraint holds. `Constrained` finds them.

    Args:
        excess: states [*S, B, H] to [*S, B, H], positive where they are not allowed.
        penalty: p.
        multiplier: m >= 0, in energy per unit of excess; None: 0.
    """

    excess: Callable[[TensorDict], Tensor]
    penalty: float = 10.0
    multiplier: Float[Tensor, "B H"] | None = None

    def __post_init__(self) -> None:
        if self.penalty <= 0:
            raise ValueError(f"penalty must be positive; got {self.penalty}")

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        held = 0.0 if self.multiplier is None else self.multiplier.square()
        return ((self._pressure(states).square() - held) / (2 * self.penalty)).sum(dim=-1)

    def tightened(self, states: TensorDict, growth: float) -> StateConstraint:
        """With the multipliers after a plan through these states [B, H], and a larger penalty."""
        pressure = self._pressure(states)
        pressure = torch.where(pressure.isfinite(), pressure, 0.0)
        return replace(self, multiplier=pressure, penalty=self.penalty * growth)

    def _pressure(self, states: TensorDict) -> Float[Tensor, "*S B H"]:
        held = 0.0 if self.multiplier is None else self.multiplier
        return (held + self.penalty * self.excess(states)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Constrained:
    """A planner that keeps to constraints: it plans, raises what violations cost, and plans again.

    Every round starts from the last one's plan. Multipliers are those of one call, for each
    environment and step; nothing is kept between calls.

    Args:
        planner: any; its time budget is that of one round.
        constraints: all of them must hold.
        rounds: calls of the planner.
        growth: of the penalties from one round to the next, at least 1.
        tolerance: excess that counts as none.
    """

    planner: Planner
    constraints: Sequence[StateConstraint]
    rounds: int = 6
    growth: float = 2.0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.growth < 1 or self.tolerance < 0 or not self.constraints:
            raise ValueError(
                "need a constraint, rounds >= 1, growth >= 1 and tolerance >= 0; got "
                f"{len(self.constraints)}, {self.rounds}, {self.growth} and {self.tolerance}"
            )

    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Of the rounds' plans, the one of least energy that keeps to the
        constraints, or else the one of least excess; its energy is without them.

        Diagnostics: of the plans of the rounds, `energy` [I, B] and `excess` [I, B], the largest.
        """
        constraints, plans, excesses = list(self.constraints), [], []
        for _ in range(self.rounds):
            total = summed([energy, *constraints])
            found = self.planner.plan(
                world_model, state, total, action_space, warm_start, generator
            )
            with torch.no_grad():
                states = world_model.rollout(state, found.actions)
                plans.append(replace(found, energy=finite(energy(states, found.actions))))
                excesses.append(finite(largest_excess(constraints, states)))
                constraints = [one.tightened(states, self.growth) for one in constraints]
            warm_start = WarmStart(found.actions, candidates=found.candidates)
        energies, excess = torch.stack([one.energy for one in plans]), torch.stack(excesses)
        wrong = (excess - self.tolerance).clamp(min=0)
        which = torch.where(wrong == wrong.amin(dim=0), energies, torch.inf).argmin(dim=0)
        episodes = torch.arange(len(which), device=which.device)
        return replace(
            plans[-1],
            actions=torch.stack([one.actions for one in plans])[which, episodes],
            energy=energies[which, episodes],
            diagnostics={"energy": energies, "excess": excess},
        )


def summed(energies: Sequence[Energy]) -> Energy:
    """Their sum."""

    def total(states: TensorDict, actions: Float[Tensor, "*S B H A"]) -> Float[Tensor, "*S B"]:
        return torch.stack([one(states, actions) for one in energies]).sum(dim=0)

    return total


def largest_excess(
    constraints: Sequence[StateConstraint], states: TensorDict
) -> Float[Tensor, " B"]:
    """Over the steps and the constraints."""
    return torch.stack([one.excess(states) for one in constraints]).amax(dim=(0, -1))
