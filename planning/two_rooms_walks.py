"""Random walks in TwoRooms: episodes of a random policy, without goals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from jepa import seeds

from .two_rooms_env import Rooms, next_layout


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
) -> Iterator[dict[str, np.ndarray]]:
    """Episodes of a random policy, with T = `decisions`; made `batch` at a time.

    Args:
        rooms: the world.
        episodes: how many in all.
        decisions: actions per episode, T.
        repeat: environment steps for which each action is held.
        seed: of layouts, starts and actions.
        correlation: of neighbouring actions, in [0, 1).
        batch: episodes in memory at once.
        first: number of the first episode that is yielded.

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
        positions, frames = [position], [rooms.render(position, layout)]
        for action in actions.unbind(1):
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
