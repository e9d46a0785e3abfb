"""Probes while pretraining: is the representation getting better? Training never notices."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from .knn import KNNProbe
from .linear import LinearProbe

log = logging.getLogger(__name__)

PENALTY = 1.0  # C of the online linear probe: a search over it would cost more than it tells


class OnlineScore(NamedTuple):
    """One evaluation: `step` in optimiser steps, `seconds` of training, probing not counted."""

    step: int
    seconds: float
    values: dict[str, float]


class OnlineProbes(Callback):
    """Held-out accuracy of kNN and linear probes on the student and on its target, as it trains.

    Evaluates mean-pooled latents of the last layer, without gradients, before the first step,
    every so many optimiser steps, and at the end of training. Training is bit for bit what it
    would be without: weights, modes and random generators are left as found, and nothing goes
    into checkpoints. Only the first process evaluates.

    The module must have `model.encoders`, see `jepa.objective.Objective`, and `normalize`.

    Args:
        bank_loader, held_out_loader: batches of (images uint8, labels, ...) without
            augmentation; both of *training* images. 5,000 and 2,000 are plenty.
        every_n_steps: optimiser steps between evaluations.

    Attributes:
        history: every OnlineScore of this process; values are `online/student/knn_top1`, and
            `online/target/linear_top1` where there is a target, ...; loggers get them as well.
    """

    def __init__(
        self, bank_loader: Iterable, held_out_loader: Iterable, *, every_n_steps: int
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps counts optimiser steps, from 1; got {every_n_steps}")
        self.bank_loader = bank_loader
        self.held_out_loader = held_out_loader
        self.every_n_steps = every_n_steps
        self.history: list[OnlineScore] = []
        self._started = self._probing = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; at step 0 this measures the encoder before any learning."""
        self._started, self._probing = time.perf_counter(), 0.0
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every `every_n_steps` optimiser steps; once a step under gradient accumulation."""
        if trainer.global_step % self.every_n_steps == 0:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once more at the last step."""
        self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: Trainer, pl_module: Any) -> None:
        done = self.history and self.history[-1].step == trainer.global_step
        if done or not trainer.is_global_zero:
            return
        begin = time.perf_counter()
        values = {}
        with isolate_rng():
            for name, encoder in pl_module.model.encoders.items():
                with trainer.precision_plugin.forward_context():
                    bank = _features(encoder, pl_module, self.bank_loader)
                    held_out = _features(encoder, pl_module, self.held_out_loader)
                for probe_name, probe in (("linear", LinearProbe(C=PENALTY)), ("knn", KNNProbe())):
                    score = probe.fit(*bank).score(*held_out)
                    values[f"online/{name}/{probe_name}_top1"] = float(score)
        seconds = begin - self._started - self._probing
        self.history.append(OnlineScore(trainer.global_step, seconds, values))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        log.info("step %d: %s", trainer.global_step, values)
        self._probing += time.perf_counter() - begin


@torch.no_grad()
def _features(
    encoder: nn.Module, pl_module: Any, loader: Iterable
) -> tuple[Float32[np.ndarray, "n d"], Int64[np.ndarray, "n"]]:
    """Mean-pooled latents and labels of the whole loader."""
    rows, labels = [], []
    with _evaluating(encoder):
        for batch in loader:
            pixels = pl_module.normalize(batch[0].to(pl_module.device))
            rows.append(encoder(pixels).float().mean(dim=1).cpu().numpy())
            labels.append(torch.as_tensor(batch[1]).cpu().numpy())
    return np.concatenate(rows), np.concatenate(labels)


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
