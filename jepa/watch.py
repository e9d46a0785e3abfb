"""Watches pretraining for collapse, and says so in words."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from jepa.diagnostics import feature_std, rankme

logger = logging.getLogger(__name__)

REMEDY = (
    "Remedies, likeliest first: a higher starting momentum of the target, a lower peak learning "
    "rate or a longer warm-up, gradient clipping; with masks larger target blocks and less "
    "context; with views a larger batch, or more weight on what spreads the embeddings."
)


def watched(
    context: Float[Tensor, "B Nc D"], target: Float[Tensor, "*B E"] | None
) -> dict[str, float]:
    """What is logged of one batch.

    context_std: spread over images of the mean-pooled context latents, mean over dimensions.
    context_rank: their effective rank (RankMe), at most min(B, D).
    target_std: where there is a target, spread over all that it said: layer-normed latents of
        target tokens, or embeddings of one length. 1 when they differ in everything, 0 when all
        are one.
    """
    pooled = context.float().mean(dim=1)
    values = {"context_std": feature_std(pooled), "context_rank": rankme(pooled)}
    if target is not None:
        values["target_std"] = feature_std(target.flatten(0, -2))
    return {name: value.item() for name, value in values.items()}


class CollapseWatch(Callback):
    """Logs `watch/context_std`, `watch/context_rank` and, where there is a target,
    `watch/target_std`, and warns once each.

    A number that falls below `share` of the highest value it has had in this process is a
    warning, which names the remedies.
    """

    def __init__(self, *, every_n_steps: int = 50, share: float = 0.1) -> None:
        if every_n_steps < 1 or not 0 < share < 1:
            raise ValueError(
                f"need every_n_steps >= 1 and 0 < share < 1; got {every_n_steps} and {share}"
            )
        self.every_n_steps, self.share = every_n_steps, share
        self.highest: dict[str, float] = {}
        self.warned: set[str] = set()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step % self.every_n_steps or "context" not in outputs:
            return
        values = watched(outputs["context"], outputs.get("target"))
        pl_module.log_dict({f"watch/{name}": value for name, value in values.items()})
        self.judge(values, trainer.global_step)

    def judge(self, values: Mapping[str, float], step: int) -> None:
        """Warn of every value that is not finite or has fallen too low."""
        for name, value in values.items():
            finite = math.isfinite(value)
            if finite:
                self.highest[name] = max(value, self.highest.get(name, value))
            highest = self.highest.get(name, value)
            if name not in self.warned and (not finite or value < self.share * highest):
                self.warned.add(name)
                logger.warning(
                    "collapse: %s is %.3g at step %d, down from %.3g. %s",
                    name,
                    value,
                    step,
                    highest,
                    REMEDY,
                )
