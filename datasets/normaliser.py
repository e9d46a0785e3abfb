"""Normalisation of actions and state vectors, fitted on the training episodes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa.files import atomic_path

from .trajectories import Trajectories, rows


@dataclass(frozen=True)
class Normaliser:
    """Takes vectors to mean 0 and deviation 1, and back.

    What is k vectors behind one another, such as the block of actions of `Windows`, is treated
    vector by vector. Components that never change are only shifted.

    mean, std: of each component, by field.
    """

    mean: Mapping[str, Float[np.ndarray, " A"]]
    std: Mapping[str, Float[np.ndarray, " A"]]

    @classmethod
    def fit(
        cls,
        data: Trajectories,
        names: Sequence[str],
        *,
        episodes: Int64[np.ndarray, " train"],
    ) -> Normaliser:
        """Means and deviations over all steps of these episodes, one episode in memory at a time.

        Raises ValueError for fields that are no real vectors, or hold what is no number.
        """
        mean, std = {}, {}
        for name in names:
            mean[name], std[name] = moments(data, name, episodes)
        return cls(mean, std)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch with the fields that were fitted normalised, and the others as they are."""
        return {k: self.normalise(k, v) if k in self.mean else v for k, v in batch.items()}

    def normalise(self, name: str, values: Float[Tensor, "*B kA"]) -> Float[Tensor, "*B kA"]:
        """From the units of the data."""
        mean, std = self._like(name, values)
        return (values - mean) / std

    def restore(self, name: str, values: Float[Tensor, "*B kA"]) -> Float[Tensor, "*B kA"]:
        """To the units of the data."""
        mean, std = self._like(name, values)
        return values * std + mean

    def save(self, path: str | Path) -> None:
        """As JSON, beside the data or the model."""
        text = {n: {"mean": self.mean[n].tolist(), "std": self.std[n].tolist()} for n in self.mean}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(text, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Normaliser:
        """What `save` has written. Raises FileNotFoundError; ValueError for another file."""
        try:
            fields = json.loads(Path(path).read_text())
            mean, std = (
                {name: np.array(field[key], dtype=np.float64) for name, field in fields.items()}
                for key in ("mean", "std")
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no normaliser, or is damaged: {error!r}") from error
        return cls(mean, std)

    def _like(self, name: str, values: Tensor) -> tuple[Tensor, Tensor]:
        times, rest = divmod(values.shape[-1], len(self.mean[name]))
        if rest:
            raise ValueError(
                f"`{name}` was fitted with {len(self.mean[name])} components; "
                f"{values.shape[-1]} are no multiple of them"
            )
        mean, std = (np.tile(field[name], times) for field in (self.mean, self.std))
        return torch.as_tensor(mean).to(values), torch.as_tensor(std).to(values)


def moments(
    data: Trajectories, name: str, episodes: Int64[np.ndarray, " train"]
) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
    """Mean and deviation over all rows, in two passes in float64."""

    def vectors(number: int) -> np.ndarray:
        one = np.array([number])
        found = data.read(name, one, np.arange(rows(name, data.lengths[one])[0])[None])[0]
        if found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise ValueError(
                f"`{name}` of episode {number} is to be finite real vectors [T, A]; it is "
                f"{found.dtype} {list(found.shape)}, {np.isfinite(found).mean():.0%} finite"
            )
        return found.astype(np.float64)

    count = int(rows(name, data.lengths[episodes]).sum())
    if not count:
        raise ValueError("no episodes to fit the normaliser on")
    numbers = episodes.tolist()
    mean = np.sum([vectors(n).sum(axis=0) for n in numbers], axis=0) / count
    std = np.sqrt(np.sum([((vectors(n) - mean) ** 2).sum(axis=0) for n in numbers], axis=0) / count)
    return mean, np.where(std > 1e-8 * np.abs(mean), std, 1.0)
