"""Training of the latent dynamics with Lightning: many steps foreseen from one latent."""

from __future__ import annotations

import math

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor, nn

from .planner import unroll


class DynamicsTraining(lightning.LightningModule):
    """Trains `dynamics` on windows of latents [B, L + 1, D] and actions [B, L, A].

    The loss is the mean over the L steps, each foreseen from the last, of the squared distance
    to the latent that came; latents have unit mean square distance from their mean, so that 1
    is the error of foreseeing the mean. Adam, linear warm-up and cosine decay to 0.

    Args:
        dynamics: (latent, action) to the next latent.
        learning_rate: highest.
        weight_decay: of AdamW.
        warmup: share of the steps.
    """

    def __init__(
        self,
        dynamics: nn.Module,
        *,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def errors(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> Float[Tensor, " L"]:
        """Mean squared distance after 1 ... L steps."""
        start = TensorDict({"latent": latents[:, 0]}, batch_size=[len(latents)])
        states = unroll(self._step, start, actions)
        return (states["latent"] - latents[:, 1:]).square().sum(dim=-1).mean(dim=0)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """`batch` has `observations` (here latents) and `actions`."""
        loss = self.errors(batch["observations"], batch["actions"]).mean()
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
        steps = int(self.trainer.estimated_stepping_batches)
        adam = torch.optim.AdamW(
            self.dynamics.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        rising = max(1, round(self.warmup * steps))

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

        schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)
        return {
            "optimizer": adam,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _step(self, state: TensorDict, action: Tensor) -> TensorDict:
        latent = self.dynamics(state["latent"], action)
        return TensorDict({"latent": latent}, batch_size=state.batch_size)
