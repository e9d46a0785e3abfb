"""The store of trajectories: written while collecting, read while it grows, safe against kills.

A folder holds `about.json` and shards `00000/`, `00001/`, ...: `lengths.npy` [E], the actions of
each episode, and one flat array per field, `observations.npy` [sum(T + 1), ...], `actions.npy`
[sum(T), A]. A shard is made aside and renamed: it is whole or not there, and never changes.
"""

from __future__ import annotations

import fcntl
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from jepa.files import atomic_path

from .trajectories import Episode, EpisodeArrays, check_steps, groups_of, length_of

ABOUT, VERSION, LENGTHS = "about.json", 2, "lengths"
UNFINISHED, LOCK = ".unfinished", ".lock"
MOST_MAPS = 128  # each keeps a file open, of which systems allow a process 256 or 1024


class StoredTrajectories:
    """Reads a folder of shards; nothing but lengths is read until it is asked for.

    Args:
        folder: as `TrajectoryWriter` writes it, perhaps still growing.

    Raises FileNotFoundError for another folder, ValueError for a damaged shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about: dict[str, Any] = read_header(self.folder)["about"]
        self._mapped = functools.lru_cache(MOST_MAPS)(mapped)
        self._shards: list[EpisodeArrays] = []
        self._lengths = np.zeros(0, dtype=np.int64)
        self.refresh()

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.folder,)  # a worker maps the files itself

    def refresh(self) -> int:
        """Takes up the shards that have become complete; returns how many episodes there are."""
        while (path := shard_path(self.folder, len(self._shards))).is_dir():
            shard = read_shard(path, self._mapped)
            if self._shards and set(shard.names) != set(self.names):
                raise ValueError(
                    f"{path} has the fields {', '.join(sorted(shard.names))}, but the shards "
                    f"before it {', '.join(sorted(self.names))}"
                )
            self._shards.append(shard)
        self._lengths = np.concatenate([self._lengths[:0], *(s.lengths for s in self._shards)])
        return len(self._lengths)

    @property
    def names(self) -> tuple[str, ...]:
        """Fields; none before the first shard is there."""
        return self._shards[0].names if self._shards else ()

    @property
    def lengths(self) -> Int64[np.ndarray, " E"]:
        """Actions of each episode."""
        return self._lengths

    def read(
        self, name: str, episodes: Int64[np.ndarray, " B"], steps: Int64[np.ndarray, "B n"]
    ) -> Shaped[np.ndarray, "B n ..."]:
        """See `Trajectories`."""
        check_steps(self, name, episodes, steps)
        first = self._shards[0].arrays[name]
        out = np.empty((*steps.shape, *first.shape[1:]), dtype=first.dtype)
        ends = np.cumsum([len(shard.lengths) for shard in self._shards])
        for number, places in groups_of(np.searchsorted(ends, episodes, side="right")):
            shard = self._shards[number]
            before = ends[number] - len(shard.lengths)
            out[places] = shard.read(name, episodes[places] - before, steps[places])
        return out


class TrajectoryWriter:
    """Appends episodes to a folder: a context manager. Episodes that are there are kept.

        with TrajectoryWriter("data/cartpole", about={"seed": 0}) as writer:
            for number in range(len(writer), 1000):
                writer.append(episode_of(number))

    Killed at any moment and run again, this ends with the same bytes, if an episode depends on its
    number alone; at most the episodes of one shard are made again.

    Args:
        folder: a new one, or one to go on with.
        shard_episodes: episodes in memory until they become a shard.
        about: kept beside the data; JSON values.

    Raises ValueError when the folder was begun with other arguments, another process is
    writing to it, or an episode has other fields than those before it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        shard_episodes: int = 100,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.shard_episodes = Path(folder), shard_episodes
        header = {"version": VERSION, "shard_episodes": shard_episodes, "about": dict(about or {})}
        self._header = json.loads(json.dumps(header))
        self._waiting: list[dict[str, np.ndarray]] = []
        self._form: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def __enter__(self) -> TrajectoryWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / LOCK, "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._go_on()
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(f"another process is writing to {self.folder}") from error
        except BaseException:
            self._lock.close()
            raise
        return self

    def _go_on(self) -> None:
        """Takes up what is there."""
        if (self.folder / ABOUT).is_file():
            begun = read_header(self.folder)
            if begun != self._header:
                raise ValueError(
                    f"{self.folder} was begun as {begun}, now {self._header}: go on as it was, or "
                    "choose a new folder"
                )
        else:
            with atomic_path(self.folder / ABOUT) as temporary:
                temporary.write_text(json.dumps(self._header, indent=1))
        stored = StoredTrajectories(self.folder)
        self._shards, self._stored = len(stored._shards), len(stored.lengths)
        if stored.names:
            self._form = form_of(stored._shards[0].arrays)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._lock.close()

    def __len__(self) -> int:
        """Episodes so far."""
        return self._stored + len(self._waiting)

    def append(self, episode: Episode) -> None:
        """One more episode: `observations`, `actions`, and any other fields; see `trajectories`.
        Its arrays are copied, so that they may be written to for the next one."""
        length_of(episode)
        if odd := [n for n in episode if not re.fullmatch(r"[\w.-]+", n) or n == LENGTHS]:
            raise ValueError(f"names of fields become names of files; these cannot: {odd}")
        form = form_of(episode)
        self._form = self._form or form
        if form != self._form:
            raise ValueError(f"this episode has the fields {form}, those before it {self._form}")
        self._waiting.append({name: np.array(array) for name, array in episode.items()})
        if len(self._waiting) == self.shard_episodes:
            self._flush()

    def _flush(self) -> None:
        """The waiting episodes become a shard."""
        shard = EpisodeArrays.of(self._waiting)
        scratch = self.folder / UNFINISHED
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        for name, array in {LENGTHS: shard.lengths, **shard.arrays}.items():
            with atomic_path(scratch / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, array, allow_pickle=False)
        scratch.rename(shard_path(self.folder, self._shards))
        self._shards, self._stored = self._shards + 1, self._stored + len(self._waiting)
        self._waiting = []


def read_header(folder: Path) -> dict[str, Any]:
    """What `about.json` says. Raises FileNotFoundError or ValueError where it is none of ours."""
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f"no {ABOUT} in {folder}: is it a folder of trajectories?")
    try:
        header = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(header, dict) or header.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, got {header}")
    return header


def mapped(path: Path) -> np.ndarray:
    """The array of a file, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


class MappedArrays(Mapping[str, np.ndarray]):
    """The arrays in a folder by name, mapped when they are asked for."""

    def __init__(self, folder: Path, mapped: Callable[[Path], np.ndarray]) -> None:
        self._mapped = mapped
        self._paths = {path.stem: path for path in sorted(folder.glob("*.npy"))}
        self._paths.pop(LENGTHS, None)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._mapped(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def read_shard(path: Path, mapped: Callable[[Path], np.ndarray]) -> EpisodeArrays:
    """One shard. Raises ValueError where it is damaged."""
    try:
        lengths = np.load(path / f"{LENGTHS}.npy", allow_pickle=False)
        arrays = MappedArrays(path, mapped)
        for name in arrays:
            arrays[name]  # what is damaged is found now, not in the middle of a training
        return EpisodeArrays(lengths, arrays)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"the shard {path} is damaged ({error}): delete it and all after it, and collect again"
        ) from error


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"{number:05d}"


def form_of(episode: Episode) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of a row, by field."""
    return {name: (episode[name].dtype, episode[name].shape[1:]) for name in sorted(episode)}
