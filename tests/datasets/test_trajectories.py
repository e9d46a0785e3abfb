"""Episodes to disk and back, and their windows, against plain slicing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from jepa.datasets.trajectories import (
    MANIFEST,
    Windows,
    read_trajectories,
    window_loader,
    write_trajectories,
)


def shard(episodes, steps, seed):
    random = np.random.default_rng(seed)
    return {
        "observations": random.integers(0, 255, (episodes, steps + 1, 4, 4, 3), dtype=np.uint8),
        "actions": random.normal(size=(episodes, steps, 2)).astype(np.float32),
    }


SHARDS = [shard(3, 6, 0), shard(2, 4, 1)]


def test_round_trip_and_windows(tmp_path):
    folder = write_trajectories(tmp_path / "run", iter(SHARDS), about={"seed": 3})
    assert json.loads((folder / MANIFEST).read_text())["about"] == {"seed": 3}
    shards = read_trajectories(folder)
    for found, wanted in zip(shards, SHARDS, strict=True):
        assert all((found[key] == wanted[key]).all() for key in wanted)
    windows = Windows(shards, length=3)
    wanted = [(s, e, t) for s, n in ((0, 3), (1, 2)) for e in range(n) for t in range((4, 2)[s])]
    assert len(windows) == len(wanted)
    batch = windows[list(range(len(windows)))]
    for i, (s, e, t) in enumerate(wanted):
        assert (batch["observations"][i].numpy() == SHARDS[s]["observations"][e, t : t + 4]).all()
        assert (batch["actions"][i].numpy() == SHARDS[s]["actions"][e, t : t + 3]).all()
    assert torch.equal(windows[5]["actions"], batch["actions"][5])


def test_windows_of_tensors_and_the_order_of_batches():
    shards = [{k: torch.as_tensor(v) for k, v in one.items()} for one in SHARDS]
    windows = Windows(shards, length=2)
    assert windows[[0]]["observations"].dtype == torch.uint8

    def epochs(seed):
        loader = window_loader(windows, batch_size=5, seed=seed)
        out = []
        for epoch in range(2):
            loader.sampler.sampler.set_epoch(epoch)
            out.append(torch.cat([b["actions"] for b in loader]))
        return out

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert sum(len(b["actions"]) for b in window_loader(windows, batch_size=4)) == len(windows)


def test_a_failing_writer_leaves_nothing(tmp_path):
    def broken():
        yield SHARDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_trajectories(tmp_path / "run", broken())
    assert list(tmp_path.iterdir()) == []


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"must be \[E, T \+ 1"):
        Windows([{**SHARDS[0], "actions": SHARDS[0]["actions"][:, 1:]}], length=2)
    with pytest.raises(ValueError, match="shorter windows"):
        Windows(SHARDS, length=7)
    with pytest.raises(ValueError, match="missing"):
        write_trajectories(tmp_path / "run", [{"actions": SHARDS[0]["actions"]}])
    with pytest.raises(FileNotFoundError, match=MANIFEST):
        read_trajectories(tmp_path)
    write_trajectories(tmp_path / "run", SHARDS)
    with pytest.raises(FileExistsError, match="choose a new folder"):
        write_trajectories(tmp_path / "run", SHARDS)
