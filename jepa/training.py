"""Pretraining as a LightningModule: one step, its schedules, and the target's update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from jepa import seeds
from jepa.frozen import Normalize
from jepa.masks import MaskSampler
from jepa.model import JEPA
from jepa.schedules import cosine, linear, warmup_cosine
from jepa.shapes import Masks


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW, its schedules over optimiser steps, and the target's momentum.

    Args:
        steps: optimiser steps of the whole run.
        learning_rate: peak, after warm-up.
        warmup_steps: a line from `start_learning_rate` to the peak.
        start_learning_rate: at step 0.
        final_learning_rate: at the end of the cosine.
        weight_decay: (start, end) of a cosine; parameters with one dimension have none.
        betas: of AdamW.
        momentum: (start, end) of the target's momentum, on a line (Assran et al. 2023).
        gradient_clip: largest gradient norm; None clips nothing.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    start_learning_rate: float = 2e-4
    final_learning_rate: float = 1e-6
    weight_decay: tuple[float, float] = (0.04, 0.4)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: tuple[float, float] = (0.996, 1.0)
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                "need steps >= 1 and 0 <= warmup_steps <= steps; "
                f"got steps {self.steps}, warmup_steps {self.warmup_steps}"
            )
        if not all(0 <= m <= 1 for m in self.momentum):
            raise ValueError(f"the target's momentum lies in [0, 1]; got {self.momentum}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimiser step `step`, from 0."""
        return warmup_cosine(
            step,
            steps=self.steps,
            warmup=self.warmup_steps,
            start=self.start_learning_rate,
            peak=self.learning_rate,
            end=self.final_learning_rate,
        )

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of optimiser step `step`."""
        return cosine(step, self.steps, *self.weight_decay)

    def momentum_at(self, step: int) -> float:
        """Momentum of the target's update after optimiser step `step`."""
        return linear(step, self.steps, *self.momentum)


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Parameters to be decayed, and those of one dimension (biases, norms), which are not."""
    learnt = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learnt if p.ndim > 1], "decayed": True},
        {"params": [p for p in learnt if p.ndim <= 1], "decayed": False, "weight_decay": 0.0},
    ]


class Pretraining(LightningModule):
    """Trains a JEPA. Every draw is a pure function of (seed, step, rank): see jepa.seeds.

    Batches have a field `images`, uint8 or float in [0, 1]: [B, C, H, W], or clips
    [B, C, T, H, W]. The target encoder
    follows after every optimiser step, not after every batch.

    Args:
        model: encoder, predictor and target.
        masks: the mask sampler.
        normalize: pixels to what the encoder sees, on the device.
        optimisation: step sizes and schedules.
        seed: of the masks.
    """

    def __init__(
        self,
        *,
        model: JEPA,
        masks: MaskSampler,
        normalize: Normalize,
        optimisation: Optimisation,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.masks, self.normalize = model, masks, normalize
        self.optimisation, self.seed = optimisation, seed
        self._micro_batch = 0  # since the last optimiser step, with gradient accumulation

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One batch: {"loss", "context", "target"}; the last two detached, for those who watch."""
        images = self.normalize(batch.images)
        masks = self.draw_masks(images)
        output = self.model(images, masks)
        loss = torch.stack(list(output.losses.values())).sum()
        self.log_dict({f"loss/{name}": value.detach() for name, value in output.losses.items()})
        self.log("loss", loss.detach())
        self._micro_batch += 1
        seen = output.groups[0]
        return {"loss": loss, "context": seen.context.detach(), "target": seen.target}

    def draw_masks(self, images: Tensor) -> Masks | tuple[Masks, ...]:
        """Masks of the present step for normalised images [B, C, H, W] or clips [B, C, T, H, W]."""
        generator = seeds.generator(
            self.seed,
            "masks",
            self.global_step,
            self._micro_batch,
            self.global_rank,
            device=images.device,
        )
        return self.masks.sample(self.model.encoder.grid(images), len(images), generator)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over encoder and predictor, one fused call a step."""
        return torch.optim.AdamW(
            decay_groups(self.model),
            lr=self.optimisation.learning_rate,
            betas=self.optimisation.betas,
            fused=True,
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of all gradients, and logs it."""
        limit = self.optimisation.gradient_clip
        if limit is not None:
            learnt = [p for group in optimizer.param_groups for p in group["params"]]
            self.log("gradient_norm", nn.utils.clip_grad_norm_(learnt, limit))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Sets learning rate and decay of this step, takes it, and moves the target."""
        step, schedule = self.global_step, self.optimisation
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
            if group["decayed"]:
                group["weight_decay"] = schedule.weight_decay_at(step)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        momentum = schedule.momentum_at(step)
        self.model.target.update(self.model.encoder, momentum)
        self._micro_batch = 0
        self.log_dict({"learning_rate": schedule.learning_rate_at(step), "momentum": momentum})
