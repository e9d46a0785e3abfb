"""DataLoaders over exactly resumable batches, for any number of worker processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from .loaders import Batches, CountedBatches
from .reading import UnreadableTally


def batch_loader(batches: Batches, steps: Iterable[int], workers: int) -> DataLoader:
    """batches[step] for each step, in order, made by `workers` processes (0: by this one)."""
    options: dict[str, Any] = {}
    if workers:
        options["prefetch_factor"] = 4
    return DataLoader(
        batches,
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or the workers' base seed comes from the global one
        **options,
    )


class TrainLoader:
    """Batches from `start()` on, without end and without length; counts unreadable samples.

    Not a DataLoader, so that Lightning leaves the order alone on many devices, and `start` is
    asked at every new iteration, so that an epoch goes on where the last one stopped.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        start: Callable[[], int] = lambda: 0,
        workers: int = 0,
        max_unreadable: float = 0.1,
    ) -> None:
        self.batches, self.start, self.workers = batches, start, workers
        self.unreadable = UnreadableTally(batches.total, max_unreadable, batches.noun)

    def __iter__(self) -> Iterator[Any]:
        for batch in batch_loader(self.batches, itertools.count(self.start()), self.workers):
            self.unreadable.add(batch.unreadable)
            yield batch


class EvaluationLoader:
    """All batches of a split once, in order; counts the unreadable samples."""

    def __init__(
        self, batches: CountedBatches, *, workers: int = 0, max_unreadable: float = 0.1
    ) -> None:
        self.batches, self.workers = batches, workers
        self.unreadable = UnreadableTally(batches.total, max_unreadable, batches.noun)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return self.only(range(len(self)))

    def only(self, numbers: Sequence[int]) -> Iterator[Any]:
        """The batches of these numbers, in their order."""
        for batch in batch_loader(self.batches, numbers, self.workers):
            self.unreadable.add(batch.unreadable)
            yield batch

    @property
    def described(self) -> Mapping[str, int | str]:
        """Which samples are shown, and how they become pixels."""
        return self.batches.described

    @property
    def batch_size(self) -> int:
        """How the samples are cut into batches."""
        return self.batches.batch_size
