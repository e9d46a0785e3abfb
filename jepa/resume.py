"""Runs that can be killed at any moment and go on to the identical result."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer

from jepa.files import atomic_path, load_tensors_only

logger = logging.getLogger(__name__)


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically and read without unpickling code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a neighbour, then rename: the previous checkpoint survives a failure."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Tensors and plain containers only; see jepa.files.load_tensors_only."""
        return load_tensors_only(path)


class ResumePoint(Callback):
    """Saves `path` every `every_n_steps` optimiser steps, at the end, and when told to stop.

    The first SIGTERM or Ctrl-C lets the running step finish, saves, and ends training with
    `interrupted` set; a second Ctrl-C interrupts at once.
    """

    def __init__(self, path: str | Path, *, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1; got {every_n_steps}")
        self.path, self.every_n_steps = Path(path), every_n_steps
        self.interrupted: signal.Signals | None = None
        self._saved_step = -1
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.interrupted = signal.Signals(number)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step, last = trainer.global_step, trainer.global_step >= trainer.max_steps
        due = last or self.interrupted is not None or step % self.every_n_steps == 0
        if due and step != self._saved_step:
            trainer.save_checkpoint(self.path)
            self._saved_step = step
        if self.interrupted is not None and not last:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()
