"""Trajectories: episodes on disk, and windows of them for training.

A folder holds `manifest.json` and one `.npy` file per array and shard, e.g.
`00000.observations.npy` [E, T + 1, ...] and `00000.actions.npy` [E, T, A]; all episodes of a
shard are equally long.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from jepa import seeds

MANIFEST, VERSION = "manifest.json", 1


def write_trajectories(
    folder: str | Path,
    shards: Iterable[Mapping[str, np.ndarray]],
    *,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes shards of episodes to a new folder, which appears complete or not at all.

    Args:
        folder: must not exist.
        shards: arrays [E, ...] by name, among them `observations` [E, T + 1, ...] and `actions`
            [E, T, A]; every shard has the same names.
        about: kept in the manifest; JSON values.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose a new folder or delete it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        entries = []
        for number, arrays in enumerate(shards):
            _check(arrays)
            for name, array in arrays.items():
                np.save(scratch / f"{number:05d}.{name}.npy", array, allow_pickle=False)
            entries.append({name: list(array.shape) for name, array in arrays.items()})
        manifest = {"version": VERSION, "about": dict(about or {}), "shards": entries}
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1))
        os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder


def read_trajectories(folder: str | Path) -> list[dict[str, np.ndarray]]:
    """Shards of a folder as memory maps, by name; nothing is read until it is indexed."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {folder}: is it a folder of trajectories?")
    manifest = json.loads(path.read_text())
    if manifest.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, got {manifest.get('version')}")
    shards = []
    for number, shapes in enumerate(manifest["shards"]):
        shard = {
            name: np.load(Path(folder) / f"{number:05d}.{name}.npy", mmap_mode="r")
            for name in shapes
        }
        for name, shape in shapes.items():
            if list(shard[name].shape) != shape:
                raise ValueError(
                    f"{folder}: shard {number} `{name}` should be {shape}, is "
                    f"{list(shard[name].shape)}"
                )
        shards.append(shard)
    return shards


class Windows(Dataset):
    """All windows of L actions and L + 1 observations, of episodes of any kind of observation.

    Indexed with one number or, for speed, with a list of them: then a whole batch is gathered
    at once, `observations` [B, L + 1, ...] and `actions` [B, L, A].

    Args:
        shards: mappings with `observations` [E, T + 1, ...] and `actions` [E, T, A], arrays or
            tensors; T may differ between shards.
        length: actions per window, L.
    """

    def __init__(self, shards: Sequence[Mapping[str, np.ndarray | Tensor]], *, length: int) -> None:
        self.shards, self.length = shards, length
        index = []
        for number, shard in enumerate(shards):
            _check(shard)
            episodes, steps = shard["actions"].shape[:2]
            starts = torch.arange(max(0, steps - length + 1))
            grid = torch.cartesian_prod(torch.tensor([number]), torch.arange(episodes), starts)
            index.append(grid.reshape(-1, 3))
        self.index = torch.cat(index) if index else torch.empty(0, 3, dtype=torch.int64)
        if not len(self.index):
            raise ValueError(f"no episode has {length} actions: use shorter windows")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int | list[int]) -> dict[str, Tensor]:
        rows = self.index[torch.as_tensor(index).reshape(-1)]
        batch = {
            "observations": self._gather("observations", rows, self.length + 1),
            "actions": self._gather("actions", rows, self.length),
        }
        return batch if isinstance(index, list) else {k: v[0] for k, v in batch.items()}

    def _gather(self, name: str, rows: Tensor, length: int) -> Tensor:
        first = self.shards[0][name]
        kind = (
            first.dtype if isinstance(first, Tensor) else torch.from_numpy(first[:0].copy()).dtype
        )
        out = torch.empty((len(rows), length, *first.shape[2:]), dtype=kind)
        for number in rows[:, 0].unique().tolist():
            mine = rows[:, 0] == number
            episode, start = rows[mine, 1, None], rows[mine, 2, None] + torch.arange(length)
            array = self.shards[number][name]
            if isinstance(array, Tensor):
                out[mine] = array[episode, start]
            else:
                out[mine] = torch.from_numpy(array[episode.numpy(), start.numpy()])
        return out


class EpochSampler(RandomSampler):
    """A new order each epoch, a pure function of (seed, epoch number)."""

    def __init__(self, data: Windows, seed: int) -> None:
        super().__init__(data)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = seeds.generator(self.seed, "windows", self.epoch)
        yield from torch.randperm(len(self.data_source), generator=generator).tolist()


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
    order = SequentialSampler(windows) if seed is None else EpochSampler(windows, seed)
    return DataLoader(
        windows,
        sampler=BatchSampler(order, batch_size, drop_last=seed is not None),
        batch_size=None,
    )


def _check(shard: Mapping[str, np.ndarray | Tensor]) -> None:
    missing = {"observations", "actions"} - set(shard)
    if missing:
        raise ValueError(f"a shard needs observations and actions; missing: {sorted(missing)}")
    seen, done = shard["observations"].shape[:2], shard["actions"].shape[:2]
    if seen[0] != done[0] or seen[1] != done[1] + 1:
        raise ValueError(
            "observations must be [E, T + 1, ...] for actions [E, T, A]; got "
            f"{tuple(shard['observations'].shape)} and {tuple(shard['actions'].shape)}"
        )
