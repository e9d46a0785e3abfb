"""Energies: how bad an imagined future is; `0.7 * GoalDistance(goal) + 0.1 * ActionEffort()`.

They add up and take weights.

States are [*S, B, H] and actions [*S, B, H, A], with any number of sample dimensions in front of
the batch; what belongs to an environment, such as its goal, is [B, ...] and broadcasts over them.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .distances import DISTANCES, Norm


class ComposableEnergy:
    """Adds `+` and weights to an energy."""

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        raise NotImplementedError("an energy is called as energy(states, actions)")

    def __add__(self, other: ComposableEnergy) -> ComposableEnergy:
        return Sum(self, other)

    def __mul__(self, weight: float) -> ComposableEnergy:
        return Weighted(self, weight)

    __rmul__ = __mul__


class Sum(ComposableEnergy):
    """first + second."""

    def __init__(self, first: ComposableEnergy, second: ComposableEnergy) -> None:
        self.first, self.second = first, second

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return self.first(states, actions) + self.second(states, actions)


class Weighted(ComposableEnergy):
    """weight * energy."""

    def __init__(self, energy: ComposableEnergy, weight: float) -> None:
        self.energy, self.weight = energy, float(weight)

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return self.weight * self.energy(states, actions)


class GoalDistance(ComposableEnergy):
    """Distance between the imagined latents and the goal's.

    Args:
        goal: states [B].
        key: the entry of the state on which to measure: [B, D], or tokens [B, N, D].
        norm: see `distances`; of all numbers of a state.
        steps: "last" the end of the plan; "all" the mean over the plan; "closest" the least of it,
            for goals that need only be passed: a way around costs nothing.
        discount: with "all", step t counts discount^t in the mean; above 1, later steps count more.
    """

    def __init__(
        self,
        goal: TensorDict,
        *,
        key: str = "latent",
        norm: Norm = "l2",
        steps: Literal["last", "all", "closest"] = "last",
        discount: float = 1.0,
    ) -> None:
        if steps != "all" and discount != 1:
            raise ValueError(
                f'discount={discount} weighs the steps, so it needs steps="all"; got "{steps}"'
            )
        self.goal = goal[key].flatten(1).unsqueeze(1)  # [B, 1, D]
        self.key, self.steps, self.discount = key, steps, discount
        self.distance = DISTANCES[norm]

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        latents = states[self.key].flatten(states.batch_dims)
        if self.steps == "last":
            return self.distance(latents[..., -1:, :], self.goal).squeeze(-1)
        away = self.distance(latents, self.goal)
        if self.steps == "closest":
            return away.amin(dim=-1)
        return discounted_mean(away, self.discount)


class ActionEffort(ComposableEnergy):
    """Mean over the plan of the squared length of the actions."""

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return actions.square().sum(dim=-1).mean(dim=-1)


class ActionSmoothness(ComposableEnergy):
    """Mean squared length of the differences between one action and the next; 0 without any.

    Args:
        last: the action that was carried out last: then the first difference is from it.
    """

    def __init__(self, last: Float[Tensor, "B A"] | None = None) -> None:
        self.last = last

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        if self.last is not None:
            last = self.last.unsqueeze(1).expand_as(actions[..., :1, :])
            actions = torch.cat([last, actions], dim=-2)
        changes = actions.diff(dim=-2).square().sum(dim=-1)
        return changes.sum(dim=-1) / max(1, changes.shape[-1])


def discounted_mean(values: Float[Tensor, "*S H"], discount: float) -> Float[Tensor, "*S"]:
    """Mean over the steps t = 0, 1, ... with weights discount^t."""
    if discount == 1:
        return values.mean(dim=-1)
    weights = discount ** torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    return values @ (weights / weights.sum())
