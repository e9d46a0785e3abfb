"""Learned energies: a critic of where a plan ends, and predicted rewards along it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .energies import ComposableEnergy


class TerminalCritic(ComposableEnergy):
    """What is still to be paid after the plan, so that a short plan looks as far as a long one.

    Of a learned value, which is to be gained, take `-1.0 * TerminalCritic(value)`; after H
    discounted steps, `discount**H * TerminalCritic(cost)`.

    Args:
        critic: latents [..., D] to the cost to go, [...] or [..., 1].
        key: the entry of the state that it is given.
    """

    def __init__(self, critic: Callable[[Tensor], Tensor], *, key: str = "latent") -> None:
        self.critic, self.key = critic, key

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return self.critic(states[self.key][..., -1, :]).reshape(actions.shape[:-2])


class RewardModel(ComposableEnergy):
    """Minus the discounted sum of the predicted rewards.

    Step t = 0, 1, ... counts discount^t, times the probabilities that the episode went on after
    each of the steps before it.

    Args:
        reward: latents [..., D] that were reached, and the actions [..., A] that led there, to
            rewards, [...] or [..., 1].
        continues: latents [..., D] to the probability that the episode goes on from there, as
            `reward`; None: it always does.
        discount: see above.
        key: the entry of the state that both are given.
    """

    def __init__(
        self,
        reward: Callable[[Tensor, Tensor], Tensor],
        *,
        continues: Callable[[Tensor], Tensor] | None = None,
        discount: float = 1.0,
        key: str = "latent",
    ) -> None:
        self.reward, self.continues, self.discount, self.key = reward, continues, discount, key

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        latents, shape = states[self.key], actions.shape[:-1]
        rewards = self.reward(latents, actions).reshape(shape)
        on = torch.full_like(rewards, self.discount)
        if self.continues is not None:
            on = on * self.continues(latents).reshape(shape)
        weights = torch.cat([torch.ones_like(on[..., :1]), on[..., :-1]], dim=-1).cumprod(dim=-1)
        return -(weights * rewards).sum(dim=-1)
