"""Judged episodes against what is known of every step."""

from __future__ import annotations

import numpy as np
import torch

from jepa.planning.judged import Disc, Judged
from jepa.planning.maze import Maze
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv


def play(env, seed=0, steps=25):
    """Straight to the goals of an empty room; positions [T + 1, B, 2], successes, efforts."""
    _, info = env.reset(seed=seed)
    positions, successes, efforts = [info["position"]], [info["success"]], [info["effort"]]
    for _ in range(steps):
        way = info["goal_position"] - info["position"]
        length = np.linalg.norm(way, axis=1, keepdims=True)
        *_, info = env.step((way / np.maximum(length, 1e-9) * 0.8).astype(np.float32))
        for kept, key in ((positions, "position"), (successes, "success"), (efforts, "effort")):
            kept.append(info[key])
    return np.stack(positions), np.stack(successes), np.stack(efforts)


def room(count=60):
    empty = Maze(walls=[(0.0, 0.0, 1.0, 1.0)], size=32, max_norm=1.2, least=8.0)
    return TwoRoomsVectorEnv(count, rooms=empty, radius=1.5, max_steps=25)


def test_success_needs_little_effort_and_effort_ends_with_the_episode():
    positions, plain, efforts = play(Judged(room()))
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=2)
    steps = np.cumsum(moved > 1e-4, axis=0)
    assert np.allclose(efforts[1:], 0.64 * steps, atol=1e-3)
    assert plain[-1].mean() > 0.7
    _, judged, _ = play(Judged(TrueState(room()), effort=8.0))
    assert (judged == (plain & (efforts <= 8.0))).all()
    assert 0.1 < judged[-1].mean() < plain[-1].mean()


def test_success_needs_every_step_to_be_clear():
    discs = [Disc(x=10.0, y=10.0, radius=4.0), Disc(x=22.0, y=20.0, radius=3.0)]
    positions, plain, _ = play(Judged(room()))
    _, judged, _ = play(Judged(room(), discs=discs))
    entered = np.zeros(positions.shape[:2], dtype=bool)
    for x, y, radius in ((10, 10, 4), (22, 20, 3)):
        entered |= np.hypot(positions[..., 0] - x, positions[..., 1] - y) < radius
    clear = ~np.logical_or.accumulate(entered, axis=0)
    assert (judged == (plain & clear)).all()
    assert 0.1 < judged[-1].mean() < plain[-1].mean()


def test_depth_of_tensors_and_arrays():
    disc, at = Disc(x=1.0, y=2.0, radius=3.0), [[1.0, 2.0], [4.0, 2.0], [1.0, 7.0]]
    for kind in (torch.tensor, np.array):
        assert disc.depth(kind(at)).tolist() == [3, 0, -2]
