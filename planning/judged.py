"""Judged episodes: arriving counts only with little effort, or clear of some places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from .two_rooms_env import Arrays


@dataclass(frozen=True, kw_only=True)
class Disc:
    """A round place.

    Args:
        x, y: of its centre, px.
        radius: px.
    """

    x: float
    y: float
    radius: float

    def depth(self, positions: Any) -> Any:
        """How deep positions [..., 2] (arrays or tensors) are inside, px; negative outside."""
        x, y = positions[..., 0] - self.x, positions[..., 1] - self.y
        return self.radius - (x**2 + y**2) ** 0.5


class Judged(VectorWrapper):
    """Success also needs that the effort until then is small, and that no disc was entered.

    `info` tells `effort` [B], the sum of the squared lengths of the actions so far, px^2, and
    `clear` [B], whether the dot has been outside of all discs at every step; `success` is that of
    the environment with both.

    Args:
        env: a world of one dot, whose `info` has `position` and `success`.
        effort: at most so much; None: any.
        discs: to keep clear of.
    """

    def __init__(
        self, env: VectorEnv, *, effort: float | None = None, discs: Sequence[Disc] = ()
    ) -> None:
        super().__init__(env)
        self.most, self.discs = np.inf if effort is None else effort, discs

    def reset(self, **options: Any) -> tuple[Arrays, Arrays]:
        """As the environment's, of all copies."""
        observation, info = self.env.reset(**options)
        self._effort = np.zeros(self.num_envs)
        self._clear = self._outside(info)
        self._going = ~np.asarray(info["success"], dtype=bool)
        return observation, self._judged(info)

    def step(self, actions: np.ndarray) -> tuple[Arrays, Any, Any, Any, Arrays]:
        """As the environment's; what is done in a finished copy does not count."""
        observation, reward, ended, truncated, info = self.env.step(actions)
        squares = np.square(np.asarray(actions, dtype=np.float64)).sum(axis=1)
        self._effort += np.where(self._going, squares, 0.0)
        self._clear &= self._outside(info) | ~self._going
        self._going &= ~(np.asarray(ended) | np.asarray(truncated))
        return observation, reward, ended, truncated, self._judged(info)

    def _outside(self, info: Arrays) -> np.ndarray:
        inside = [disc.depth(info["position"]) > 0 for disc in self.discs]
        return ~np.any([np.zeros(self.num_envs, dtype=bool), *inside], axis=0)

    def _judged(self, info: Arrays) -> Arrays:
        fine = (self._effort <= self.most) & self._clear
        told = {"effort": self._effort.copy(), "clear": self._clear.copy()}
        return info | told | {"success": np.asarray(info["success"], dtype=bool) & fine}
