"""Learned energies: a critic of where a plan ends, and predicted rewards along it."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor, nn

from .dynamics import Scales, mlp
from .energies import ComposableEnergy
from .training import adam


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


class RewardHead(nn.Module):
    """What was paid for an action, from the latent that it led to: the head of a `RewardModel`.

    Args:
        scales: of latents and actions.
        mean, std: of the rewards.
        hidden: width of the two hidden layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        scales: Scales,
        *,
        mean: Float[Tensor, ""],
        std: Float[Tensor, ""],
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.scales = scales
        inputs = len(scales.latent) + len(scales.action)
        self.layers = nn.Sequential(mlp(inputs, hidden), nn.Linear(hidden, 1))
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(
        self, latent: Float[Tensor, "*B D"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B"]:
        """Rewards."""
        return self.mean + self.std * self.layers(self.scales(latent, action)).squeeze(-1)


class RewardTraining(lightning.LightningModule):
    """Trains a head on windows of latents [B, L + 1, D], actions [B, L, A] and rewards [B, L].

    The loss is the mean squared error, in variances of the rewards; AdamW, linear warm-up and
    cosine decay to 0.

    Args:
        head: to be trained.
        learning_rate: highest.
        weight_decay: of AdamW.
        warmup: share of the steps.
    """

    def __init__(
        self,
        head: RewardHead,
        *,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        self.head = head
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """`batch` has `observations` (here latents), `actions` and `rewards`."""
        foreseen = self.head(batch["observations"][:, 1:], batch["actions"])
        loss = ((foreseen - batch["rewards"]) / self.head.std).square().mean()
        self.log("rewards/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        return adam(self, self.learning_rate, self.weight_decay, self.warmup)
