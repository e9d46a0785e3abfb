"""Trajectories: episodes with named fields, and one way to read them whatever they are stored in.

An episode has T actions and T + 1 observations. The fields `actions`, `rewards`, `terminations` and
`truncations` have T rows; all others, e.g. `observations` or `infos.position`, have T + 1. Where
observations or actions are dictionaries, each part is a field: `observations.pixels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, Shaped

from jepa import seeds

Episode: TypeAlias = Mapping[str, np.ndarray]
PER_ACTION = ("actions", "rewards", "terminations", "truncations")


@runtime_checkable
class Trajectories(Protocol):
    """Episodes of different lengths, read by field, episode and step.

    names: of the fields.
    lengths: actions of each episode, T.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def lengths(self) -> Int64[np.ndarray, " E"]: ...

    def read(
        self, name: str, episodes: Int64[np.ndarray, " B"], steps: Int64[np.ndarray, "B n"]
    ) -> Shaped[np.ndarray, "B n ..."]:
        """Rows `steps` of the field, of one episode each. Raises ValueError for an unknown field,
        IndexError for episodes that are not there and steps that an episode does not have."""
        ...


class EpisodeArrays:
    """Episodes behind one another in flat arrays, in memory or memory-mapped.

    Args:
        lengths: actions of each episode, T.
        arrays: by field, with sum(T) rows, or sum(T + 1) where there is a row per observation.
    """

    def __init__(self, lengths: Int64[np.ndarray, " E"], arrays: Episode) -> None:
        self.lengths, self.arrays = lengths, arrays
        before = np.cumsum(lengths) - lengths
        self._first = {True: before, False: before + np.arange(len(lengths))}
        for name, array in arrays.items():
            wanted = int(rows(name, lengths).sum())
            if len(array) != wanted:
                raise ValueError(
                    f"`{name}` should have {wanted} rows for {len(lengths)} episodes of "
                    f"{lengths.sum()} actions; has {len(array)}"
                )

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> EpisodeArrays:
        """Episodes in memory, all with the same fields."""
        lengths = np.array([length_of(episode) for episode in episodes], dtype=np.int64)
        return cls(lengths, {n: np.concatenate([e[n] for e in episodes]) for n in episodes[0]})

    @property
    def names(self) -> tuple[str, ...]:
        """Fields."""
        return tuple(self.arrays)

    def read(
        self, name: str, episodes: Int64[np.ndarray, " B"], steps: Int64[np.ndarray, "B n"]
    ) -> Shaped[np.ndarray, "B n ..."]:
        """See `Trajectories`."""
        check_steps(self, name, episodes, steps)
        first = self._first[per_action(name)][episodes]
        return np.asarray(self.arrays[name][first[:, None] + steps])


def per_action(name: str) -> bool:
    """Whether a field has a row for each action, rather than for each observation."""
    return name.partition(".")[0] in PER_ACTION


def rows(name: str, lengths: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " E"]:
    """Rows of a field in episodes of these lengths."""
    return lengths if per_action(name) else lengths + 1


def length_of(episode: Episode) -> int:
    """Actions of an episode. Raises ValueError unless it has some, and as many rows as is right."""
    roots = {name.partition(".")[0] for name in episode}
    if missing := {"observations", "actions"} - roots:
        raise ValueError(f"an episode needs observations and actions; missing: {sorted(missing)}")
    length = len(next(array for name, array in episode.items() if per_action(name)))
    wrong = {
        name: len(array)
        for name, array in episode.items()
        if len(array) != length + (not per_action(name))
    }
    if wrong or not length:
        raise ValueError(
            f"an episode of T actions has T rows of {', '.join(PER_ACTION)}, and T + 1 of all "
            f"other fields; with T = {length} these differ: {wrong}"
        )
    return length


def read_episode(data: Trajectories, number: int) -> dict[str, np.ndarray]:
    """All fields of one episode."""
    episodes = np.array([number])
    counts = {name: int(rows(name, data.lengths[episodes])[0]) for name in data.names}
    return {name: data.read(name, episodes, np.arange(n)[None])[0] for name, n in counts.items()}


def check_steps(
    data: Trajectories,
    name: str,
    episodes: Int64[np.ndarray, " B"],
    steps: Int64[np.ndarray, "B n"],
) -> None:
    """What every reader refuses: see `Trajectories.read`."""
    if name not in data.names:
        raise ValueError(f"no field {name!r}; there are: {', '.join(data.names)}")
    outside = (episodes < 0) | (episodes >= len(data.lengths))
    if outside.any():
        raise IndexError(
            f"episodes are numbered 0 to {len(data.lengths) - 1}; asked for {episodes[outside][0]}"
        )
    limits = rows(name, data.lengths[episodes])[:, None]
    if ((steps < 0) | (steps >= limits)).any():
        worst = int(((steps < 0) | (steps >= limits)).any(axis=1).argmax())
        raise IndexError(
            f"episode {episodes[worst]} has rows 0 to {limits[worst, 0] - 1} of `{name}`; asked "
            f"for {steps[worst].min()} to {steps[worst].max()}"
        )


def split_episodes(
    count: int, *, seed: int, every: int = 10
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " held_out"]]:
    """Numbers of training and of held-out episodes: of each `every` neighbours one is held out.

    Which half an episode is in depends on its number and the seed alone, so that a data set that
    grows keeps its halves.
    """
    held = np.zeros(count, dtype=bool)
    for block in range(0, count, every):
        generator = seeds.generator(seed, "held_out_episodes", block)
        number = block + int(torch.randint(every, (), generator=generator))
        held[number : number + 1] = True
    if held.all() or not held.any():
        raise ValueError(
            f"{count} episodes have no two halves if one of {every} is held out: collect more"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def groups_of(numbers: Int64[np.ndarray, " B"]) -> Iterator[tuple[int, np.ndarray]]:
    """Each different number, and where it stands."""
    for number in np.unique(numbers).tolist():
        yield number, np.flatnonzero(numbers == number)
