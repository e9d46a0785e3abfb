"""Short-term memory: what was seen, wanted, done and paid, read by content and by time.

Of LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 3 and figure 2: perception
and world model write, the critic learns from it (section 3.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from jepa import seeds
from jepa.files import read_safetensors, write_safetensors

FORMAT = "jepa-toolkit/memory/1"
PLACE = ("episode", "time")  # where a row belongs; int64


@dataclass(frozen=True)
class Recollection:
    """What came to mind of a batch of questions.

    rows: the nearest, nearest first, [B, K].
    weights: how much each counts; they sum to 1, [B, K].
    """

    rows: TensorDict
    weights: Float[Tensor, "B K"]

    def mean(self, key: str) -> Float[Tensor, "B *F"]:
        """An entry of the rows, weighted."""
        values = self.rows[key]
        weights = self.weights.view(*self.weights.shape, *[1] * (values.ndim - 2))
        return (weights * values).sum(dim=1)


class ShortTermMemory:
    """A ring of rows: the newest `capacity` of them are kept, in any number of episodes at once.

    A row is one decision: `episode` and `time` [B] int64 say where it belongs; what else it has is
    decided by the first rows that are written, such as `latent` and `goal` [B, D], `action`
    [B, A] and the intrinsic `cost` [B].

    Args:
        capacity: rows.
        device: where they are kept.
    """

    def __init__(self, capacity: int, *, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"a memory needs a capacity of at least 1 row; got {capacity}")
        self.capacity, self.device = capacity, torch.device(device)
        self.written = 0  # rows ever
        self._store: TensorDict | None = None
        self._order: Tensor | None = None

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    @property
    def rows(self) -> TensorDict:
        """All rows [n], in the order in which they were written."""
        store = self._filled()
        first = self.written % self.capacity if self.written > self.capacity else 0
        return store[(torch.arange(len(self), device=self.device) + first) % self.capacity]

    def write(self, rows: TensorDict) -> None:
        """Adds rows [B]; where there is no place, the oldest give way.

        Raises ValueError for entries or shapes other than those of the rows before.
        """
        rows = rows.detach().to(self.device)
        if self._store is None:
            self._check_places(rows)
            self._store = rows[:1].expand(self.capacity).clone()
        wanted, given = described(self._store), described(rows)
        if wanted != given:
            raise ValueError(f"this memory has rows of {wanted}; got {given}")
        count, kept = len(rows), rows[-self.capacity :]
        start = self.written + count - len(kept)
        where = (start + torch.arange(len(kept), device=self.device)) % self.capacity
        self._store[where] = kept
        self.written += count
        self._order = None

    def read(
        self,
        query: Float[Tensor, "B D"],
        *,
        width: float,
        count: int = 16,
        key: str = "latent",
        time: Float[Tensor, " B"] | None = None,
        span: float = 16.0,
    ) -> Recollection:
        """What is like the questions, and happened at about their time.

        A row counts exp(-d^2 / (2 width^2) - |t - time| / span), normalised over the `count` rows
        for which this is largest: attention with a Gaussian kernel over contents and an
        exponential one over times.

        Args:
            query: what to look for.
            width: of the kernel, in units of the distance d between contents.
            count: rows for each question; all of them if there are fewer.
            key: the entry that is compared.
            time: [B]; None: whenever.
            span: in the unit of `time`.
        """
        store = self._filled()
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(query.to(self.device), store[key], compute_mode=exact)
        logits = -distance.square() / (2 * width**2)
        if time is not None:
            gap = store["time"].to(logits) - time.to(logits)[:, None]
            logits = logits - gap.abs() / span
        best, which = logits.topk(min(count, len(self)), dim=1)
        return Recollection(store[which], best.softmax(dim=1))

    def windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """Windows [count, length] of consecutive times of one episode each, uniform over all.

        Raises ValueError if no episode is that long.
        """
        store, order = self._filled(), self._ordered()
        episode, time = store["episode"][order], store["time"][order]
        ahead = length - 1
        until = len(order) - ahead
        whole = (episode[ahead:] == episode[: max(until, 0)]) & (
            time[ahead:] - time[: max(until, 0)] == ahead
        )
        starts = whole.nonzero().squeeze(1)
        if not len(starts):
            raise ValueError(
                f"no episode in memory has {length} decisions in a row; it has {len(self)} rows of "
                f"{len(episode.unique())} episodes: write more, or ask for shorter windows"
            )
        drawn = torch.randint(len(starts), (count,), generator=generator)
        places = starts[drawn.to(starts.device), None] + torch.arange(length, device=self.device)
        return store[order[places]]

    def save(self, path: str | Path) -> None:
        """Writes a `.safetensors`, whole or not at all."""
        about = {"format": FORMAT, "capacity": str(self.capacity), "written": str(self.written)}
        write_safetensors(path, self._filled().to_dict(), about)

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> ShortTermMemory:
        """What `save` has written; it goes on exactly as the saved one would.

        Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
        """
        about, tensors = read_safetensors(path)
        if about.get("format") != FORMAT:
            raise ValueError(f"{path} is no memory: format {about.get('format')!r}, not {FORMAT!r}")
        memory = cls(int(about["capacity"]), device=device)
        rows = TensorDict(tensors, batch_size=[len(tensors["time"])], device=memory.device)
        memory.write(rows)
        memory.written = int(about["written"])
        return memory

    def _filled(self) -> TensorDict:
        """The rows, in their places."""
        if self._store is None:
            raise RuntimeError("nothing is in memory yet: call write(rows) first")
        return self._store[: len(self)]

    def _ordered(self) -> Tensor:
        """The rows by episode and then by time; computed once after each write."""
        order = self._order
        if order is None:
            store = self._filled()
            by_time = store["time"].argsort(stable=True)
            order = self._order = by_time[store["episode"][by_time].argsort(stable=True)]
        return order

    def _check_places(self, rows: TensorDict) -> None:
        for key in PLACE:
            if key not in rows or rows[key].dtype != torch.int64 or rows[key].ndim != 1:
                raise ValueError(f"rows need `{key}` [B], int64; got {described(rows)}")


def described(rows: TensorDict) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape of a row and type, by entry."""
    entries = rows.to_dict()
    return {key: (tuple(entries[key].shape[1:]), entries[key].dtype) for key in sorted(entries)}


class RememberedWindows(IterableDataset[dict[str, Tensor]]):
    """Batches of windows [B, L] by entry, each a function of the seed and its number; endless.

    Args:
        memory: to draw from.
        batch_size: windows per batch.
        length: see `ShortTermMemory.windows`.
        seed: of the draws.
    """

    def __init__(
        self, memory: ShortTermMemory, *, batch_size: int, length: int, seed: int = 0
    ) -> None:
        self.memory, self.batch_size, self.length, self.seed = memory, batch_size, length, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in itertools.count(first, stride):
            draws = seeds.generator(self.seed, "remembered", number)
            yield self.memory.windows(self.batch_size, self.length, draws).to_dict()
