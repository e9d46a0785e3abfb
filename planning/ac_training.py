"""Training of V-JEPA 2-AC's predictor with Lightning: given frames, and frames foreseen so far."""

from __future__ import annotations

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from jepa.schedules import linear
from jepa.training import decay_groups

from .ac_predictor import ActionConditionedPredictor
from .ac_world import normed


def foresight_losses(
    predictor: ActionConditionedPredictor,
    tokens: Float[Tensor, "B T N D"],
    actions: Float[Tensor, "B T1 A"],
    states: Float[Tensor, "B T P"],
    extrinsics: Float[Tensor, "B T E"] | None = None,
    *,
    steps: int = 2,
) -> dict[str, Float[Tensor, ""]]:
    """Mean absolute errors of the published objective (arXiv:2506.09985, section 3).

    Args:
        tokens: of every frame, layer-normed; predictions are normed before they are compared.
        actions: between the frames, T - 1.
        states: of the robot, at every frame; the rollout is given them, too.
        extrinsics: the camera's pose at every frame.
        steps: frames foreseen one after the other, at most T - 1.

    Returns:
        "teacher_forced": each frame from the true ones before it; "rollout": frames 2 to
        `steps` + 1 from the first alone, each from those foreseen so far.
    """
    if not 1 <= steps < tokens.shape[1]:
        raise ValueError(
            f"a rollout of {steps} steps needs {steps + 1} frames or more; got {tokens.shape[1]}"
        )
    camera = None if extrinsics is None else extrinsics[:, :-1]
    forced = normed(predictor(tokens[:, :-1], actions, states[:, :-1], camera))
    seen, pasts, foreseen = tokens[:, None, :1], [], []
    for t in range(steps):
        camera = None if extrinsics is None else extrinsics[:, None, t : t + 1]
        action, state = (x[:, None, t : t + 1] for x in (actions, states))
        after, past = predictor.extend(seen, action, state, camera, pasts)
        seen = normed(after)
        pasts.append(past)
        foreseen.append(seen[:, 0])
    return {
        "teacher_forced": F.l1_loss(forced, tokens[:, 1:]),
        "rollout": F.l1_loss(torch.cat(foreseen, dim=1), tokens[:, 1 : steps + 1]),
    }


class ActionConditionedTraining(lightning.LightningModule):
    """Trains the predictor on windows of encoded frames; the encoder is not part of it.

    Batches have `observations` (tokens), `actions`, `states` and, if used, `extrinsics`, see
    `foresight_losses`, whose sum is minimised. AdamW; the rate rises linearly, stays, and falls
    linearly to 0. The defaults are the published ones, of 315 epochs with 256 windows a step.

    Args:
        predictor: action-conditioned.
        learning_rate: the highest; the first is `start` of it.
        weight_decay: of AdamW; parameters with one dimension have none.
        steps: frames foreseen one after the other.
        start: share of the learning rate at the first step.
        warmup: share of the optimiser steps in which the rate rises.
        anneal: share in which it falls.
    """

    def __init__(
        self,
        predictor: ActionConditionedPredictor,
        *,
        learning_rate: float = 4.25e-4,
        weight_decay: float = 0.04,
        steps: int = 2,
        start: float = 0.75 / 4.25,
        warmup: float = 15 / 315,
        anneal: float = 15 / 315,
    ) -> None:
        super().__init__()
        if min(warmup, anneal) < 0 or warmup + anneal > 1:
            raise ValueError(
                f"warmup and anneal are shares of the steps; got {warmup} and {anneal}"
            )
        self.predictor = predictor
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.steps, self.start, self.warmup, self.anneal = steps, start, warmup, anneal

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """The sum of both losses."""
        losses = foresight_losses(
            self.predictor,
            batch["observations"],
            batch["actions"],
            batch["states"],
            batch.get("extrinsics"),
            steps=self.steps,
        )
        for name, loss in losses.items():
            self.log(f"dynamics/{name}", loss)
        return torch.stack(list(losses.values())).sum()

    def rate(self, step: int, steps: int) -> float:
        """Share of the highest learning rate at a step."""
        rising, falling = self.warmup * steps, self.anneal * steps
        if step < rising:
            return linear(step, round(rising), self.start, 1.0)
        return linear(max(0, step - round(steps - falling)), round(falling), 1.0, 0.0)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        steps = int(self.trainer.estimated_stepping_batches)
        adam = torch.optim.AdamW(
            decay_groups(self.predictor), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: self.rate(step, steps))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
