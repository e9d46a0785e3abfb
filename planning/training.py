"""Training of latent dynamics with Lightning: foreseen step by step, or from what came before."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor

from .calibration import gaussian_nll
from .dynamics import Dynamics


def squared_distance(states: TensorDict, truth: Float[Tensor, "B L D"]) -> Float[Tensor, "B L"]:
    """Of the foreseen latents from those that came."""
    return (states["latent"] - truth).square().sum(dim=-1)


def negative_log_likelihood(
    states: TensorDict, truth: Float[Tensor, "B L D"]
) -> Float[Tensor, "B L"]:
    """Of the latents that came, under the foreseen Gaussians; in nats."""
    return gaussian_nll(states["latent"], states["variance"], truth).sum(dim=-1)


def foresight_loss(
    dynamics: Dynamics,
    latents: Float[Tensor, "B L1 D"],
    actions: Float[Tensor, "B L A"],
    *,
    error: Callable[[TensorDict, Tensor], Tensor] = squared_distance,
    rollout: float = 1.0,
    teacher_forced: float = 0.0,
    history: int = 0,
) -> Float[Tensor, ""]:
    """Mean error over the L steps, in two ways, weighted and added up.

    Args:
        error: of states [B, L] and the latents that came.
        rollout: weight where each step is foreseen from the last, all from the first latent.
        teacher_forced: weight where each step is foreseen from the latents that came.
        history: decisions whose outcome is told first; the rollout is of those after them.
    """
    loss, truth = latents.new_zeros(()), latents[:, 1:]
    if rollout:
        state = dynamics.remember(latents[:, : history + 1], actions[:, :history])
        states = dynamics.rollout(state, actions[:, history:])
        loss = loss + rollout * error(states, truth[:, history:]).mean(dim=0).mean()
    if teacher_forced:
        states = dynamics.follow(latents[:, :-1], actions)
        loss = loss + teacher_forced * error(states, truth).mean(dim=0).mean()
    return loss


class DynamicsTraining(lightning.LightningModule):
    """Trains `dynamics` on windows of latents [B, L + 1, D] and actions [B, L, A].

    By default the loss is the mean over the L steps, each foreseen from the last, of the squared
    distance to the latent that came; latents have unit mean square distance from their mean, so
    that 1 is the error of foreseeing the mean. A Gaussian head learns by
    `negative_log_likelihood`, teacher-forced: its variance is that of one step. Adam, linear
    warm-up and cosine decay to 0.

    Args:
        dynamics: of latents; all members of an `Ensemble` learn at once, each from its own weights
            and all from the same windows (Lakshminarayanan et al. 2017, arXiv:1612.01474).
        error, rollout, teacher_forced, history: see `foresight_loss`.
        learning_rate: highest.
        weight_decay: of AdamW.
        warmup: share of the steps.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        *,
        error: Callable[[TensorDict, Tensor], Tensor] = squared_distance,
        rollout: float = 1.0,
        teacher_forced: float = 0.0,
        history: int = 0,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        if min(rollout, teacher_forced) < 0 or rollout + teacher_forced == 0:
            raise ValueError(
                "rollout and teacher_forced are weights, not both 0; got "
                f"{rollout} and {teacher_forced}"
            )
        self.dynamics = dynamics
        self.loss = partial(
            foresight_loss,
            error=error,
            rollout=rollout,
            teacher_forced=teacher_forced,
            history=history,
        )
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def errors(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> Float[Tensor, " L"]:
        """Mean squared distance after 1 ... L steps, each foreseen from the last."""
        states = self.dynamics.rollout(self.dynamics.start(latents[:, 0]), actions)
        return squared_distance(states, latents[:, 1:]).mean(dim=0)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """`batch` has `observations` (here latents) and `actions`."""
        loss = self.dynamics.learn(self.loss, batch["observations"], batch["actions"])
        self.log("dynamics/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Logs the error after the first and the last step."""
        errors = self.errors(batch["observations"], batch["actions"])
        size = len(batch["actions"])
        self.log("dynamics/error_first", errors[0], batch_size=size)
        self.log("dynamics/error_last", errors[-1], batch_size=size)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        return adam(self, self.learning_rate, self.weight_decay, self.warmup)


def adam(
    module: lightning.LightningModule, learning_rate: float, weight_decay: float, warmup: float
) -> OptimizerLRScheduler:
    """AdamW on all weights; over the whole training, a linear rise and a cosine down to 0.

    warmup: share of the steps that the rise takes.
    """
    steps = int(module.trainer.estimated_stepping_batches)
    optimiser = torch.optim.AdamW(
        [weight for weight in module.parameters() if weight.requires_grad],
        lr=learning_rate,
        weight_decay=weight_decay,
    )
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    return {
        "optimizer": optimiser,
        "lr_scheduler": {"scheduler": schedule, "interval": "step"},
    }
