"""The cost module: an intrinsic cost that nothing learnt can change, and a critic that foresees it.

LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 3.2: C(s) = IC(s) + TC(s).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .energies import ComposableEnergy
from .rewards import TerminalCritic


@runtime_checkable
class StepCost(Protocol):
    """What each step of a future costs, at least 0; energies are made of it."""

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B H"]:
        """Of the states [*S, B, H] and the actions that led there."""
        ...


Term: TypeAlias = Callable[[TensorDict], StepCost]
"""Makes a step's cost of a batch of goal states [B]."""
Critic: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Latents [*S, B, D] and goals [B, D] to the cost to go [*S, B]."""


class Away:
    """1 - exp(-d^2 / (2 width^2)) of the distance d from the goal: 0 there, 1 far from it.

    The saturating cost of PILCO (Deisenroth & Rasmussen 2011): its sum is about the number of
    steps until the goal is reached, so that a way around is not dearer than it is long.

    Args:
        goal: states [B]; an entry `attention` [B, D] weighs the squared differences.
        width: the distance that counts as near.
        key: the entry that is compared, [B, D].
    """

    def __init__(self, goal: TensorDict, *, width: float, key: str = "latent") -> None:
        if not width > 0:
            raise ValueError(f"width must be positive; got {width}")
        self.goal, self.width, self.key = goal[key].unsqueeze(1), width, key
        self.attention = goal["attention"].unsqueeze(1) if "attention" in goal else None

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B H"]:
        squares = (states[self.key] - self.goal).square()
        if self.attention is not None:
            squares = squares * self.attention
        return -torch.expm1(-squares.sum(dim=-1) / (2 * self.width**2))


class Effort:
    """The squared length of the action."""

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B H"]:
        return actions.square().sum(dim=-1)


class Boundary:
    """How far a state is where it should not be.

    Args:
        excess: states [*S, B, H] to [*S, B, H], positive where they are not allowed, as in
            `constraints.StateConstraint`.
    """

    def __init__(self, excess: Callable[[TensorDict], Tensor]) -> None:
        self.excess = excess

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B H"]:
        return self.excess(states).clamp(min=0)


class Unknown:
    """How unsure the world model is of a state; with a weight it keeps to what it knows.

    Args:
        key: the entry [B] or [B, ...] whose numbers are summed, as in `uncertain.Uncertainty`.
    """

    def __init__(self, key: str = "disagreement") -> None:
        self.key = key

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B H"]:
        return states[self.key].unsqueeze(-1).flatten(states.batch_dims).sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class IntrinsicCost(ComposableEnergy):
    """Weighted terms: the cost of each step, and as an energy their discounted sum over a plan.

    Args:
        terms: by name.
        weights: of some of them, at least 0; a term without one does not count.
        discount: step t = 0, 1, ... counts discount^t.
    """

    terms: Mapping[str, StepCost]
    weights: Mapping[str, float]
    discount: float = 1.0

    def __post_init__(self) -> None:
        check_weights(self.weights, self.terms)
        if not 0 < self.discount <= 1:
            raise ValueError(f"need 0 < discount <= 1; got {self.discount}")
        for name in ("terms", "weights"):  # copies that cannot be written
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def parts(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> dict[str, Float[Tensor, "*S B H"]]:
        """Weighted, by term; those of weight 0 are left out."""
        return {
            name: weight * self.terms[name](states, actions)
            for name, weight in self.weights.items()
            if weight
        }

    def steps(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B H"]:
        """The cost of each step."""
        parts = self.parts(states, actions)
        return sum(parts.values(), actions.new_zeros(actions.shape[:-1]))

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        steps = self.steps(states, actions)
        powers = torch.arange(steps.shape[-1], dtype=steps.dtype, device=steps.device)
        return steps @ self.discount**powers


def check_weights(weights: Mapping[str, float], known: Mapping[str, object]) -> None:
    """Raises ValueError for a weight of no term, or one that is negative or not finite."""
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"no term {name!r} of the intrinsic cost; there are {sorted(known)}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the weight of {name!r} must be at least 0 and finite; got {weight}")


@dataclass(frozen=True, kw_only=True)
class CostModule:
    """The intrinsic cost of a goal, and the critic's forecast of what is paid after a plan.

    Args:
        terms: makers of the terms, by name.
        discount: of both.
        critic: None: a plan is judged by its own steps alone.
    """

    terms: Mapping[str, Term]
    discount: float = 1.0
    critic: Critic | None = None

    def intrinsic(self, goal: TensorDict, weights: Mapping[str, float]) -> IntrinsicCost:
        """For goals [B]. Only terms with a weight are made."""
        check_weights(weights, self.terms)
        made = {name: self.terms[name](goal) for name, weight in weights.items() if weight}
        counted = {name: weights[name] for name in made}
        return IntrinsicCost(terms=made, weights=counted, discount=self.discount)

    def __call__(
        self, goal: TensorDict, weights: Mapping[str, float], *, trust: float = 1.0
    ) -> ComposableEnergy:
        """The energy of plans: intrinsic cost + trust * discount^H * critic of their ends."""
        intrinsic = self.intrinsic(goal, weights)
        if self.critic is None or not trust:
            return intrinsic
        rest = TerminalCritic(partial(to_goal, self.critic, goal["latent"]))
        return intrinsic + trust * Afterwards(rest, self.discount)


def to_goal(
    critic: Critic, goal: Float[Tensor, "B D"], latents: Float[Tensor, "*S B D"]
) -> Float[Tensor, "*S B"]:
    """The critic of one batch of goals."""
    return critic(latents, goal)


class Afterwards(ComposableEnergy):
    """discount^H times an energy of what follows a plan of H steps."""

    def __init__(self, energy: ComposableEnergy, discount: float) -> None:
        self.energy, self.discount = energy, discount

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return self.discount ** actions.shape[-2] * self.energy(states, actions)
