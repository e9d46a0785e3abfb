"""Probes while pretraining: is the representation getting better? Training never notices."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from jepa.diagnostics import lidar, rankme
from jepa.sharded import whole

from .knn import KNNProbe
from .linear import LinearProbe
from .trends import Estimate, Progress, accuracy, loss_without_gain

log = logging.getLogger(__name__)

PENALTY = 1.0  # C of the online linear probe: a search over it would cost more than it tells


class OnlineScore(NamedTuple):
    """One evaluation: `step` in optimiser steps, `seconds` of training, probing not counted."""

    step: int
    seconds: float
    values: dict[str, float]


class OnlineProbes(Callback):
    """What the student and its target are worth as they train: probes, and ranks without labels.

    Accuracy of kNN and linear probes, fitted on the bank, on held-out images; RankMe of the bank;
    LiDAR of augmented views. All of mean-pooled latents of the last layer, without gradients,
    before the first step, every so many optimiser steps, and at the end of training. Training is
    bit for bit what it would be without: weights, modes and random generators are left as found,
    and nothing goes into checkpoints. Only the first process evaluates.

    Warns once when the loss falls while no probe of the target (of the student, without one)
    rises: see `trends.loss_without_gain`.

    The module must have `model.encoders`, see `jepa.objective.Objective`, and `normalize`, and
    its `training_step` must give a dictionary with the loss.

    Args:
        bank_loader, held_out_loader: batches of (images uint8, labels, ...) without
            augmentation; both of *training* images. 5,000 and 2,000 are plenty.
        views_loader: batches with a field `views` uint8 [B, V, C, ...], V augmented views of each
            of some training images, the same in every pass; None: no LiDAR. 200 images of 10
            views show its course; for its value the paper takes 1,000.
        every_n_steps: optimiser steps between evaluations.

    Attributes:
        history: every OnlineScore of this process; values are `online/student/knn_top1`,
            `linear_top1`, `rankme` and `lidar`, and `online/target/...` where there is a target;
            loggers get them as well.
    """

    def __init__(
        self,
        bank_loader: Iterable,
        held_out_loader: Iterable,
        *,
        views_loader: Iterable | None = None,
        every_n_steps: int,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps counts optimiser steps, from 1; got {every_n_steps}")
        self.bank_loader = bank_loader
        self.held_out_loader = held_out_loader
        self.views_loader = views_loader
        self.every_n_steps = every_n_steps
        self.history: list[OnlineScore] = []
        self._evaluated = -1
        self._started = self._probing = 0.0
        self._losses: list[Tensor] = []  # since the last evaluation
        self._progress: list[Progress] = []
        self._warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; at step 0 this measures the encoder before any learning."""
        self._started, self._probing = time.perf_counter(), 0.0
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every `every_n_steps` optimiser steps; once a step under gradient accumulation."""
        if trainer.is_global_zero and outputs:
            self._losses.append(outputs["loss"].detach())
        if trainer.global_step % self.every_n_steps == 0:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once more at the last step."""
        self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: Trainer, pl_module: Any) -> None:
        step = trainer.global_step
        if step == self._evaluated:
            return
        self._evaluated = step
        begin = time.perf_counter()
        encoders = whole(pl_module.model).encoders
        if not trainer.is_global_zero:
            return
        values, probes = {}, {}
        with isolate_rng():
            for name, encoder in encoders.items():
                found, probes = self._measure(encoder, pl_module)
                values |= {f"online/{name}/{key}": value for key, value in found.items()}
            seconds = begin - self._started - self._probing
            self.history.append(OnlineScore(step, seconds, values))
            self.judge(Progress(step, self._mean_loss(), probes))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        log.info("step %d: %s", step, values)
        self._probing += time.perf_counter() - begin

    def _measure(
        self, encoder: nn.Module, pl_module: Any
    ) -> tuple[dict[str, float], dict[str, Estimate]]:
        """All numbers of one encoder, and its accuracies with their errors."""
        bank, labels = _features(encoder, pl_module, self.bank_loader)
        held_out, truth = _features(encoder, pl_module, self.held_out_loader)
        probes = {
            name: accuracy(float(probe.fit(bank, labels).score(held_out, truth)), len(truth))
            for name, probe in (("linear", LinearProbe(C=PENALTY)), ("knn", KNNProbe()))
        }
        values = {f"{name}_top1": probe.value for name, probe in probes.items()}
        values["rankme"] = rankme(torch.from_numpy(bank)).item()
        if self.views_loader is not None:
            values["lidar"] = lidar(_views(encoder, pl_module, self.views_loader)).item()
        return values, probes

    def _mean_loss(self) -> Estimate | None:
        """Over the steps since the last evaluation, which are forgotten; of finite losses."""
        if not self._losses:
            return None
        losses = torch.stack(self._losses).cpu().double()
        losses = losses[losses.isfinite()]
        if len(losses) < 2:
            return None
        self._losses.clear()
        return Estimate(losses.mean().item(), (losses.std() / len(losses) ** 0.5).item())

    def judge(self, progress: Progress) -> None:
        """Takes an evaluation into account; warns once when the loss falls in vain."""
        self._progress.append(progress)
        fault = None if self._warned else loss_without_gain(self._progress)
        if fault is not None:
            self._warned = True
            log.warning("%s", fault)


def _features(
    encoder: nn.Module, pl_module: Any, loader: Iterable
) -> tuple[Float32[np.ndarray, "n D"], Int64[np.ndarray, "n"]]:
    """Mean-pooled latents and labels of the whole loader."""
    rows, labels = [], []
    with _evaluating(encoder):
        for batch in loader:
            rows.append(_pooled(encoder, pl_module, batch[0]).numpy())
            labels.append(torch.as_tensor(batch[1]).cpu().numpy())
    return np.concatenate(rows), np.concatenate(labels)


def _views(encoder: nn.Module, pl_module: Any, loader: Iterable) -> Float32[Tensor, "n V D"]:
    """Mean-pooled latents of each view."""
    with _evaluating(encoder):
        return torch.cat(
            [
                _pooled(encoder, pl_module, batch.views.flatten(0, 1)).unflatten(
                    0, batch.views.shape[:2]
                )
                for batch in loader
            ]
        )


@torch.no_grad()
def _pooled(
    encoder: nn.Module, pl_module: Any, images: UInt8[Tensor, "n C *T H W"]
) -> Float32[Tensor, "n D"]:
    """Mean-pooled latents of the last layer, on the CPU; the encoder as precise as in training."""
    pixels = pl_module.normalize(images.to(pl_module.device))
    with pl_module.trainer.precision_plugin.forward_context():
        tokens = encoder(pixels)
    return tokens.float().mean(dim=1).cpu()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, then every submodule's own mode again."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
