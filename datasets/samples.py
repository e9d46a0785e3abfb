"""Which sample of a set stands at each place of a run: a pure function of (seed, step, rank).

Sample `position` counts all samples of a run: step s of rank r of w holds the B positions from
(s * w + r) * B on. Position p shows sample `permutation(p // n)[p % n]` of the n, augmented
under the seed of p.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from jepa.seeds import derive, generator

from .images import UnreadableImageError
from .reading import TooManyUnreadableError

Read = TypeVar("Read")


@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, n: int) -> Int64[Tensor, " n"]:
    """The order of n samples in one pass over them. Shared by all callers: do not write to it."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def order(seed: int, first: int, count: int, n: int) -> Int64[Tensor, " count"]:
    """Indices at the sample positions first ... first + count - 1."""
    parts: list[Tensor] = []
    while count:
        epoch, offset = divmod(first, n)
        part = permutation(seed, epoch, n)[offset : offset + count]
        parts.append(part)
        first, count = first + len(part), count - len(part)
    return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of every training batch.

    Args:
        n: samples in the set.
        batch_size: B, samples per step and rank.
        seed: of the order and of the augmentations.
        rank, world_size: which part of the global batch of B * world_size samples.
    """

    n: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"need 0 <= rank < world_size; got rank {self.rank} of {self.world_size}"
            )
        if self.batch_size < 1 or self.n < 1:
            raise ValueError(f"cannot make batches of {self.batch_size} from {self.n} samples")

    def at(self, step: int) -> tuple[Int64[Tensor, " B"], list[int]]:
        """Index of each sample of a batch, and the seed of each one's augmentation."""
        first = (step * self.world_size + self.rank) * self.batch_size
        indices = order(self.seed, first, self.batch_size, self.n)
        return indices, [derive(self.seed, "augment", first + i) for i in range(self.batch_size)]


def read_or_next(
    read: Callable[[int], Read], index: int, n: int, unreadable: list[str]
) -> tuple[Read, int]:
    """What is at `index`, or at the next readable index of n, and that index; appends what was
    skipped."""
    for i in range(index, index + n):
        try:
            return read(i % n), i % n
        except UnreadableImageError as problem:
            unreadable.append(str(problem))
    raise TooManyUnreadableError(f"none of the {n} samples can be read")
