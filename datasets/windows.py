"""Windows of trajectories for training: L actions and L + 1 observations, with any frame skip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler

from jepa import seeds

from .trajectories import Trajectories, per_action


class Windows(Dataset):
    """All windows of L blocks of `skip` steps that lie within one episode, from every step on.

    Indexed with one number or, for speed, with several: then a whole batch is gathered at once.
    Fields with a row per observation become [B, L + 1, ...], every `skip`-th row. Of those with a
    row per action each block becomes one: actions are put behind one another, [B, L, skip A]
    (as DINO-WM does, arXiv:2411.04983), rewards are summed, and a block ends an episode if one of
    its steps does. float64 becomes float32.

    Args:
        data: episodes of any form, as far as they are there now.
        length: blocks of actions per window, L.
        skip: environment steps per block.
        names: fields wanted.
        episodes: numbers of those that windows are taken from; None: all.
    """

    def __init__(
        self,
        data: Trajectories,
        *,
        length: int,
        skip: int = 1,
        names: Sequence[str] = ("observations", "actions"),
        episodes: Int64[np.ndarray, " some"] | None = None,
    ) -> None:
        if min(length, skip) < 1:
            raise ValueError(f"length and skip must be at least 1; got {length} and {skip}")
        if missing := [name for name in names if name not in data.names]:
            raise ValueError(f"no fields {missing}; there are: {', '.join(data.names)}")
        self.data, self.length, self.skip, self.names = data, length, skip, tuple(names)
        chosen = np.arange(len(data.lengths)) if episodes is None else episodes
        counts = np.maximum(data.lengths[chosen] - length * skip + 1, 0)
        self.episodes = np.repeat(chosen, counts)
        self.starts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        if not len(self.episodes):
            raise ValueError(f"no episode has {length * skip} actions: use shorter windows")

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(
        self, index: int | Sequence[int] | Int64[np.ndarray, " B"] | Int64[Tensor, " B"]
    ) -> dict[str, Tensor]:
        numbers = np.asarray(index, dtype=np.int64).reshape(-1)
        batch = {name: self._gather(name, numbers) for name in self.names}
        return batch if np.ndim(index) else {k: v[0] for k, v in batch.items()}

    def _gather(self, name: str, numbers: Int64[np.ndarray, " B"]) -> Tensor:
        single = per_action(name)
        offsets = np.arange(self.length * self.skip + (not single), step=1 if single else self.skip)
        steps = self.starts[numbers, None] + offsets
        found = self.data.read(name, self.episodes[numbers], steps)
        if single:
            blocks = found.reshape(len(numbers), self.length, self.skip, -1)
            if name == "rewards":
                found = blocks.sum(axis=(2, 3))
            elif name in ("terminations", "truncations"):
                found = blocks.any(axis=(2, 3))
            else:
                found = blocks.reshape(len(numbers), self.length, -1)
        return torch.from_numpy(found.astype(np.float32) if found.dtype == np.float64 else found)


class EpochBatches(Sampler[list[int]]):
    """Full batches in a new order each epoch, a pure function of (seed, epoch number).

    A sampler that Lightning finds: it tells `DataLoader.sampler` the epoch, and nothing within it.
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int) -> None:
        self.windows, self.batch_size, self.seed, self.epoch = windows, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.windows) // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = seeds.generator(self.seed, "windows", self.epoch)
        order = torch.randperm(len(self.windows), generator=generator)
        for batch in order[: len(self) * self.batch_size].split(self.batch_size):
            yield batch.tolist()


def window_loader(
    windows: Windows, *, batch_size: int, seed: int | None = None
) -> DataLoader[dict[str, Tensor]]:
    """Batches of windows: in a new order each epoch given a seed, else in their own order.

    Training batches are full; raises ValueError where there are too few windows for one.
    """
    if seed is not None and len(windows) < batch_size:
        raise ValueError(
            f"{len(windows)} windows of {windows.length} actions do not fill one batch of "
            f"{batch_size}: collect more episodes, or make batches or windows smaller"
        )
    batches = (
        BatchSampler(SequentialSampler(windows), batch_size, drop_last=False)
        if seed is None
        else EpochBatches(windows, batch_size, seed)
    )
    return DataLoader(windows, sampler=batches, batch_size=None)
