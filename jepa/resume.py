"""Runs that can be killed at any moment and go on to the identical result."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer

from jepa.files import atomic_path, load_tensors_only
from jepa.guard import NonFiniteError
from jepa.ranks import largest

logger = logging.getLogger(__name__)

AGREEMENT = 10  # batches after which several ranks ask one another whether to stop, at a step's end


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically and read without unpickling code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a neighbour, then rename: the previous checkpoint survives a failure.

        Raises OSError, which says what is free.
        """
        try:
            with atomic_path(path) as temporary:
                torch.save(checkpoint, temporary)
        except (RuntimeError, OSError) as error:  # torch's writer raises the former
            free = shutil.disk_usage(Path(path).parent).free >> 20
            raise OSError(
                f"cannot write {path}, with {free} MiB free on its disk: {error}. The file that "
                "was there before is kept"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Tensors and plain containers only; see jepa.files.load_tensors_only."""
        return load_tensors_only(path)


class ResumePoint(Callback):
    """Saves `path` every `every_n_steps` optimiser steps, at the end, and when told to stop.

    The first SIGTERM or Ctrl-C lets the running step finish, saves, and ends training with
    `interrupted` set; a second Ctrl-C interrupts at once. In a job of SLURM, SIGUSR1 does so too,
    and has the job queued again. Several ranks stop together, after at most `AGREEMENT` batches, or
    one step of more. Nothing is saved in the middle of a step, while gradients accumulate.

    Weights that are NaN or infinite are not saved: NonFiniteError, and the file before is kept.
    """

    def __init__(self, path: str | Path, *, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1; got {every_n_steps}")
        self.path, self.every_n_steps = Path(path), every_n_steps
        self.interrupted: signal.Signals | None = None
        self._step = 0  # optimiser steps that had ended at the batch before
        self._unsaved = False  # whether one has just ended
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if trainer.is_global_zero:  # what kills in the middle of writing have left
            for part in self.path.parent.glob(".*.part"):
                part.unlink(missing_ok=True)
        numbers = [signal.SIGINT, signal.SIGTERM]
        for number in [*numbers, signal.SIGUSR1] if SLURMEnvironment.detect() else numbers:
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
        step = trainer.global_step
        self._unsaved = step != self._step
        if not self._unsaved:  # in the middle of a step
            return
        self._step = step
        last, stop = all_steps_taken(trainer), self._agreed(trainer)
        if last or stop or step % self.every_n_steps == 0:
            self._save(trainer, pl_module)
        if stop and not last:
            trainer.should_stop = True

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any rank was told to stop; then `interrupted` is set on all of them."""
        if trainer.world_size > 1:
            if trainer.global_step % max(1, AGREEMENT // trainer.accumulate_grad_batches):
                return False
            number = largest(self.interrupted or 0, trainer.strategy.root_device)
            self.interrupted = signal.Signals(number) if number else None
        return self.interrupted is not None

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        unsound = [name for name, p in pl_module.named_parameters() if not p.isfinite().all()]
        if unsound:
            raise NonFiniteError(
                f"at step {step} there is NaN or infinity in {len(unsound)} weights, of which "
                f"{unsound[0]} is the first; the last sound step is kept in {self.path}. A lower "
                "learning rate, a longer warm-up or gradient clipping may help"
            )
        trainer.save_checkpoint(self.path)
        self._unsaved = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._unsaved:  # nobody knows the last step of a run of epochs before
            self._save(trainer, pl_module)
        self._restore_handlers()
        unfinished = not all_steps_taken(trainer)
        if self.interrupted == signal.SIGUSR1 and unfinished and trainer.is_global_zero:
            requeue()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()


def all_steps_taken(trainer: Trainer) -> bool:
    """Whether this was the last step; never of a run that only its epochs limit."""
    return 0 <= trainer.max_steps <= trainer.global_step


def requeue() -> None:
    """Has SLURM run this job again, from its beginning."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    logger.warning("queueing job %s again", job)
    asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if asked.returncode:
        logger.error("job %s was not queued again: %s", job, asked.stderr.strip())
