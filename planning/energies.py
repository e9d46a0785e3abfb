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
        norm: "l2" Euclidean, "l1" sum of absolute differences, "mean_l1" their mean.
        steps: "last" the end of the plan, "all" the mean over the plan.
    """

    def __init__(
        self,
        goal: TensorDict,
        *,
        key: str = "latent",
        norm: Literal["l2", "l1", "mean_l1"] = "l2",
        steps: Literal["last", "all"] = "last",
    ) -> None:
        self.goal = goal[key].flatten(1).unsqueeze(1)  # [B, 1, D]
        self.key, self.steps, self.order = key, steps, 2 if norm == "l2" else 1
        self.divisor = self.goal.shape[-1] if norm == "mean_l1" else 1

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        latents = states[self.key].flatten(states.batch_dims)
        if self.steps == "last":
            latents = latents[..., -1:, :]
        away = torch.linalg.vector_norm(latents - self.goal, ord=self.order, dim=-1)
        return away.mean(dim=-1) / self.divisor


class ActionEffort(ComposableEnergy):
    """Mean over the plan of the squared length of the actions."""

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return actions.square().sum(dim=-1).mean(dim=-1)
