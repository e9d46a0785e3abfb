"""Pretraining as a LightningModule: one step, its schedules, and the target's update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from jepa import seeds
from jepa.frozen import Normalize
from jepa.guard import Guard
from jepa.masks import MaskSampler
from jepa.model import JEPA
from jepa.objective import Objective, Output
from jepa.ranks import world_size
from jepa.schedules import cosine, linear, warmup_cosine
from jepa.shapes import Masks
from jepa.sharded import gathered, shard
from jepa.supervised import Supervised


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
        gradient_clip: largest gradient norm; None: the Trainer's, which clips nothing unless told.
        most_not_finite: batches whose loss may be NaN or infinite; they are kept, and their steps
            passed over.
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
    most_not_finite: int = 10

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
    """Trains an objective. Every draw is a pure function of (seed, step, rank): see jepa.seeds.

    For a JEPA batches have a field `images`, uint8 or float in [0, 1]: [B, C, H, W], or clips
    [B, C, T, H, W]. For joint embeddings they have a field `views`, [B, V, C, H, W]; where labels
    are learnt, `images` and `labels`. A target follows after every optimiser step, not after every
    batch.

    Args:
        model: what is trained, see `Objective`.
        masks: the mask sampler of a JEPA; no other objective has one.
        normalize: pixels to what the encoder sees, on the device.
        optimisation: step sizes and schedules.
        seed: of the masks, or of what else is drawn at each step.
        guard: against losses that are no numbers; None: they are learnt from like any others.
    """

    def __init__(
        self,
        *,
        model: Objective,
        masks: MaskSampler | None = None,
        normalize: Normalize,
        optimisation: Optimisation,
        seed: int = 0,
        guard: Guard | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, JEPA) != (masks is not None):
            raise ValueError(
                f"a JEPA is trained with masks, and nothing else is; got {type(model).__name__} "
                f"and masks {masks}. For other objectives: masks=null"
            )
        self.model, self.masks, self.normalize = model, masks, normalize
        self.optimisation, self.seed, self.guard = optimisation, seed, guard
        self._micro_batch = 0  # since the last optimiser step, with gradient accumulation
        self._passed_over = False  # whether the guard refuses one of these

    def configure_model(self) -> None:
        """Shares the weights among the ranks, where the strategy is Lightning's
        ModelParallelStrategy."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One batch: {"loss", "context"}, and "target" where there is one; these two detached.
        Only the loss where the guard has the step passed over."""
        output = self.outcome(batch)
        place = dict(step=self.global_step, micro_batch=self._micro_batch, rank=self.global_rank)
        self._micro_batch += 1
        losses = {name: value.detach() for name, value in output.losses.items()}
        loss = torch.stack(list(output.losses.values())).sum()
        self.log_dict({f"loss/{name}": value for name, value in losses.items()})
        self.log("loss", loss.detach())
        if self.guard is not None and not self.guard.passes(losses, batch, **place):
            self._passed_over = True
            return {"loss": loss}
        target = {} if output.target is None else {"target": output.target}
        return {"loss": loss, "context": output.context.detach()} | target

    def outcome(self, batch: Any) -> Output:
        """What the objective says of a batch, with what is drawn at the present step."""
        self.model.begin(self.global_step)
        if self.masks is not None:
            images = self.normalize(batch.images)
            return self.model(images, self.draw_masks(images))
        if isinstance(self.model, Supervised):
            return self.model(self.normalize(batch.images), batch.labels)
        views = self.normalize(batch.views.flatten(0, 1)).unflatten(0, batch.views.shape[:2])
        step = (self.global_step, self._micro_batch)
        return self.model(views, seeds.generator(self.seed, "step", *step, device=views.device))

    def draw_masks(self, images: Tensor) -> Masks | tuple[Masks, ...]:
        """Masks of the present step for normalised images [B, C, H, W] or clips [B, C, T, H, W].

        Drawn on the processor, the same for every device, which need not be waited for.
        The k batches of a step have the same masks whether k ranks have one each, or one process
        accumulates gradients over k.
        """
        part = self._micro_batch * world_size() + self.global_rank
        name = (self.seed, "masks", self.global_step, part, 0)
        assert self.masks is not None
        grid = self.model.encoder.grid(images)
        drawn = self.masks.sample(grid, len(images), seeds.generator(*name))
        if isinstance(drawn, Masks):
            return drawn.to(images.device)
        return tuple(masks.to(images.device) for masks in drawn)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all that learns, one fused call a step. It is not fused where float16 has the
        losses scaled, which that call would undo itself, after gradients are clipped; nor where
        the Trainer clips them, which refuses it."""
        trainer = self._trainer
        apart = trainer and (trainer.precision == "16-mixed" or trainer.gradient_clip_val)
        return torch.optim.AdamW(
            decay_groups(self.model),
            lr=self.optimisation.learning_rate,
            betas=self.optimisation.betas,
            fused=None if apart else True,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step that is passed over has no gradients: the same on all ranks, who have all gone
        through the backward pass, as DDP and FSDP2 expect of them."""
        if self._passed_over:
            optimizer.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of all gradients, and logs it; as the Trainer was told to, where
        `optimisation` has no limit."""
        limit = self.optimisation.gradient_clip
        if limit is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        learnt = [p for group in optimizer.param_groups for p in group["params"]]
        self.log("gradient_norm", gathered(nn.utils.clip_grad_norm_(learnt, limit)))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Sets learning rate and decay of this step, takes it, and lets the target follow."""
        step, schedule = self.global_step, self.optimisation
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
            if group["decayed"]:
                group["weight_decay"] = schedule.weight_decay_at(step)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        momentum = schedule.momentum_at(step)
        self.model.follow(momentum)
        self._micro_batch, self._passed_over = 0, False
        self.log("learning_rate", schedule.learning_rate_at(step))
        if "target" in self.model.encoders:
            self.log("momentum", momentum)
