"""Augmented views of chosen samples, the same at every call: what does augmentation change?"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Int64, UInt8
from torch import Tensor

from jepa.seeds import derive

from .clip_loaders import TrainClipBatches
from .loaders import CountedBatches, TrainBatches, named_rows


class FixedViewBatch(NamedTuple):
    """views uint8, of images or clips; what is wrong with each sample that was skipped."""

    views: UInt8[Tensor, "B V C *T S S"]
    unreadable: list[str]


class FixedViews(CountedBatches):
    """V views of each sample in `rows`, as `batches` augments them, under seeds of their own.

    Args:
        batches: of the set, with its crops and flips.
        rows: indices of the samples.
        count: V, views of each.
        seed: of the augmentation of each sample, under the name `views`.
        batch_size: samples in a batch.
    """

    def __init__(
        self,
        batches: TrainBatches | TrainClipBatches,
        *,
        rows: Int64[Tensor, " rows"],
        count: int,
        seed: int,
        batch_size: int = 16,
    ) -> None:
        self.batches, self.rows, self.noun = batches, rows, batches.noun
        self.count, self.seed, self.batch_size = count, seed, batch_size
        self.described = {"rows": named_rows(rows), "views": count}

    @property
    def total(self) -> int:
        """Views that are made."""
        return len(self.rows) * self.count

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, batch: int) -> FixedViewBatch:
        rows = self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        each = rows.repeat_interleave(self.count)
        seeds = [
            derive(self.seed, "views", row, view)
            for row in rows.tolist()
            for view in range(self.count)
        ]
        made = self.batches.of(each, seeds)
        return FixedViewBatch(made.images.unflatten(0, (-1, self.count)), made.unreadable)
