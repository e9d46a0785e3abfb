"""Walks in TwoRooms: episodes of a random policy, or of one that also wants something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from jepa import seeds

from .two_rooms import Positions
from .two_rooms_env import Rooms, next_layout

Wish: TypeAlias = Callable[[Positions, Any], Positions]
"""(positions [B, 2], their layout): what dots there would do if they did what they want, [B, 2]."""


def random_actions(
    rooms: Rooms, episodes: int, decisions: int, correlation: float, generator: torch.Generator
) -> Tensor:
    """Actions [E, T, 2] in px: a bounded, temporally correlated random walk (AR(1), clipped).

    The standard deviation is 0.8 of the bound, so that about a fifth of the components are at it.
    """
    draws = torch.randn((episodes, decisions, 2), generator=generator)
    unit = draws.clone()
    for t in range(1, decisions):
        fresh = (1 - correlation**2) ** 0.5 * draws[:, t]
        unit[:, t] = correlation * unit[:, t - 1] + fresh
    return (0.8 * unit).clamp(-1, 1) * rooms.max_action


def random_walks(
    rooms: Rooms,
    *,
    episodes: int,
    decisions: int,
    repeat: int,
    seed: int,
    correlation: float = 0.8,
    batch: int = 100,
    first: int = 0,
    wish: Wish | None = None,
    share: float = 0.5,
) -> Iterator[dict[str, np.ndarray]]:
    """Episodes of a random policy, with T = `decisions`; made `batch` at a time.

    With a wish, an action is w * wished + (1 - w) * random, where w is the episode's own: 0 but in
    the `share` that wants something, and there uniform in [0, 1].

    Args:
        rooms: the world.
        episodes: how many in all.
        decisions: actions per episode, T.
        repeat: environment steps for which each action is held.
        seed: of layouts, starts and actions.
        correlation: of neighbouring actions, in [0, 1).
        batch: episodes in memory at once.
        first: number of the first episode that is yielded.
        wish: what some dots want; None: nothing.
        share: of the episodes, that follow the wish.

    Yields:
        `observations` uint8 [T + 1, H, W, 3], `actions` float32 [T, 2] in px per step, and
        `infos.position` float32 [T + 1, 2] in px, the truth, for measurements only.
    """
    for start in range(first - first % batch, episodes, batch):
        count = min(batch, episodes - start)
        generator = seeds.generator(seed, "collect", start)
        layout = rooms.layouts(count, generator)
        position = rooms.starts(layout, count, generator)
        actions = random_actions(rooms, count, decisions, correlation, generator)
        weight = torch.zeros(count, 1)
        if wish is not None and share > 0:
            weight = (1 - torch.rand((count, 1), generator=generator) / share).clamp(min=0)
        positions, frames = [position], [rooms.render(position, layout)]
        for action in actions.unbind(1):
            if wish is not None:
                action.lerp_(wish(position, layout), weight)
            for _ in range(repeat):
                layout = next_layout(rooms, layout, position, generator)
                position = rooms.step(position, action, layout)
            positions.append(position)
            frames.append(rooms.render(position, layout))
        fields = {
            "observations": torch.stack(frames, dim=1).numpy(),
            "actions": actions.numpy(),
            "infos.position": torch.stack(positions, dim=1).numpy(),
        }
        for episode in range(max(first - start, 0), count):
            yield {name: field[episode] for name, field in fields.items()}
