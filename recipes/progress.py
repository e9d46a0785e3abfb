"""One bar over the optimiser steps of a whole run, with the time left."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from jepa.progress import bar


class StepProgress(Callback):
    """Steps done, time left, the loss and which share of the time went by waiting for data, for
    runs of `max_steps`; a line every 10 s in logs.

    Args:
        title: what is being trained.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: tqdm | None = None
        self._waiting, self._since, self._began = 0.0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._waiting, self._since = 0.0, time.perf_counter()
        self._began = self._since
        if trainer.is_global_zero:
            self.bar = bar(trainer.max_steps, self.title, "step", done=trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waiting += time.perf_counter() - self._since

    @property
    def waited(self) -> float:
        """Share of the time since the run began that it waited for its next batch."""
        return self._waiting / max(1e-9, time.perf_counter() - self._began)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._since = time.perf_counter()
        if self.bar is None:
            return
        if self.bar.update(trainer.global_step - self.bar.n) and outputs:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            told = {"loss": f"{float(loss):.4f}", "waiting": f"{self.waited:.0%}"}
            self.bar.set_postfix(told, refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.set_postfix(waiting=f"{self.waited:.0%}", refresh=False)
            self.bar.close()
            self.bar = None
