"""Normalisation against numpy's mean and deviation of the training episodes alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.datasets.normaliser import Normaliser
from jepa.datasets.trajectories import EpisodeArrays, split_episodes
from jepa.datasets.windows import Windows

RANDOM = np.random.default_rng(0)
EPISODES = [
    {
        "observations.state": (100 + number + RANDOM.normal(size=(n + 1, 3))).astype(np.float32),
        "observations.pixels": RANDOM.integers(0, 255, (n + 1, 2, 2, 3), dtype=np.uint8),
        "actions": RANDOM.normal(size=(n, 2)) * [2.0, 0.1] * number + [7.0, 0.0],
    }
    for number, n in enumerate(RANDOM.integers(3, 9, 25))
]
DATA = EpisodeArrays.of(EPISODES)
NAMES = ("actions", "observations.state")


def test_statistics_are_those_of_the_training_episodes():
    train, held_out = split_episodes(25, seed=0)
    found = Normaliser.fit(DATA, NAMES, episodes=train)
    for name in NAMES:
        rows = np.concatenate([EPISODES[e][name] for e in train]).astype(np.float64)
        everything = np.concatenate([e[name] for e in EPISODES])
        assert np.allclose(found.mean[name], rows.mean(axis=0), rtol=1e-12)
        assert np.allclose(found.std[name], rows.std(axis=0), rtol=1e-10)
        assert not np.allclose(found.mean[name], everything.mean(axis=0), rtol=1e-6)
    windows = Windows(DATA, length=2, skip=2, names=DATA.names, episodes=held_out)
    batch = windows[list(range(len(windows)))]
    normal = found(batch)
    assert torch.equal(normal["observations.pixels"], batch["observations.pixels"])
    actions = batch["actions"].numpy().reshape(-1, 2, 2, 2)
    wanted = (actions - found.mean["actions"]) / found.std["actions"]
    assert np.allclose(normal["actions"].reshape(-1, 2, 2, 2), wanted, atol=1e-5)
    assert torch.allclose(found.restore("actions", normal["actions"]), batch["actions"], atol=1e-5)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    found = Normaliser.fit(DATA, NAMES, episodes=np.arange(5))
    found.save(tmp_path / "normaliser.json")
    again = Normaliser.load(tmp_path / "normaliser.json")
    for name in NAMES:
        assert (again.mean[name] == found.mean[name]).all()
        assert (again.std[name] == found.std[name]).all()


def test_components_that_never_change_are_only_shifted():
    actions = np.full((6, 2), 0.1) * [1.0, 0.0]
    data = EpisodeArrays.of([{"observations": np.zeros((7, 1)), "actions": actions}])
    found = Normaliser.fit(data, ["actions"], episodes=np.array([0]))
    assert found.std["actions"].tolist() == [1.0, 1.0]
    assert found.normalise("actions", torch.as_tensor(actions)).abs().max() < 1e-12


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"finite real vectors \[T, A\]; it is uint8"):
        Normaliser.fit(DATA, ["observations.pixels"], episodes=np.array([1]))
    broken = EpisodeArrays.of([{**EPISODES[0], "actions": EPISODES[0]["actions"] * np.nan}])
    with pytest.raises(ValueError, match="0% finite"):
        Normaliser.fit(broken, ["actions"], episodes=np.array([0]))
    with pytest.raises(ValueError, match="no episodes"):
        Normaliser.fit(DATA, ["actions"], episodes=np.arange(0))
    fitted = Normaliser.fit(DATA, ["actions"], episodes=np.array([1]))
    with pytest.raises(ValueError, match="2 components; 3 are no multiple"):
        fitted.normalise("actions", torch.zeros(1, 3))
    (tmp_path / "bad.json").write_text('{"actions": {"mean": [0]}}')
    with pytest.raises(ValueError, match="no normaliser, or is damaged"):
        Normaliser.load(tmp_path / "bad.json")
