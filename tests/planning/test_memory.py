"""Short-term memory against plain lists and softmax in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tensordict import TensorDict
from torch.utils.data import DataLoader

from jepa import seeds
from jepa.files import write_safetensors
from jepa.planning.memory import RememberedWindows, ShortTermMemory


def rows(episodes, times, seed=0):
    """Rows whose cost says which they are: 1000 * episode + time."""
    generator = torch.Generator().manual_seed(seed)
    episode, time = torch.as_tensor(episodes), torch.as_tensor(times)
    entries = {
        "episode": episode,
        "time": time,
        "latent": torch.randn(len(episode), 3, generator=generator),
        "cost": (1000 * episode + time).float(),
    }
    return TensorDict(entries, batch_size=[len(episode)])


def filled(capacity=50, steps=9, copies=4):
    """Several episodes, decision by decision, of which only the newest rows are left."""
    memory, written = ShortTermMemory(capacity), []
    for part in range(3):
        for time in range(steps):
            episodes = range(part * copies, (part + 1) * copies)
            memory.write(rows(list(episodes), [time] * copies, seed=100 * part + time))
            written += [1000 * episode + time for episode in episodes]
    return memory, written


def test_the_newest_rows_stay_in_order():
    memory, written = filled()
    assert len(memory) == 50
    assert memory.rows["cost"].tolist() == written[-50:]
    small, _ = filled(capacity=500)
    assert small.rows["cost"].tolist() == written
    many = ShortTermMemory(3)
    many.write(rows([0] * 8, range(8)))
    many.write(rows([0], [8]))
    assert many.rows["time"].tolist() == [6, 7, 8]


def test_windows_are_all_those_that_do_not_cross_episodes_equally_often():
    memory, written = filled()
    kept = set(written[-50:])
    possible = sorted(cost for cost in kept if all(cost + i in kept for i in range(4)))
    drawn = memory.windows(20_000, 4, seeds.generator(0, "test"))
    assert drawn.batch_size == (20_000, 4)
    assert (drawn["cost"].diff(dim=1) == 1).all()
    assert len(drawn["episode"].unique(dim=1).T) == 1  # one episode a window
    starts, counts = drawn["cost"][:, 0].unique(return_counts=True)
    assert starts.tolist() == possible
    expected = 20_000 / len(possible)
    assert (counts - expected).abs().max() < 6 * expected**0.5
    known = memory.rows
    found = dict(zip(map(tuple, known["latent"].tolist()), known["cost"].tolist(), strict=True))
    some = drawn[:100].flatten()
    latents, costs = some["latent"].tolist(), some["cost"].tolist()
    for latent, cost in zip(latents, costs, strict=True):  # rows stay whole
        assert found[tuple(latent)] == cost


def test_too_long_windows_are_refused():
    memory, _ = filled()
    for length in (10, 60):
        with pytest.raises(ValueError, match=f"{length} decisions in a row"):
            memory.windows(1, length, seeds.generator(0, "test"))


def test_reading_is_attention_over_content_and_time():
    memory, _ = filled()
    generator = torch.Generator().manual_seed(5)
    query, time = torch.randn(6, 3, generator=generator), torch.tensor([0.0, 3, 4, 8, 2, 2])
    known = memory.rows
    z, t, cost = (known[key].double().numpy() for key in ("latent", "time", "cost"))
    for moment in (None, time):
        found = memory.read(query, width=0.5, count=7, time=moment, span=3.0)
        for b in range(6):
            logits = -((z - query[b].double().numpy()) ** 2).sum(1) / (2 * 0.25)
            if moment is not None:
                logits -= np.abs(t - moment[b].item()) / 3.0
            best = np.argsort(-logits)[:7]
            weights = softmax(logits[best])
            assert found.rows["cost"][b].tolist() == cost[best].tolist()
            assert found.weights[b].tolist() == pytest.approx(weights, abs=1e-5)
            assert found.mean("cost")[b].item() == pytest.approx(weights @ cost[best], rel=1e-4)
            mean = weights @ z[best]
            assert found.mean("latent")[b].tolist() == pytest.approx(mean, abs=1e-4)
    assert memory.read(query, width=1.0, count=99).weights.shape == (6, 50)


def test_what_is_near_is_told_apart_far_from_the_origin():
    memory, places = ShortTermMemory(40), 1000 + torch.arange(40)[:, None] / 64
    known = rows([0] * 40, range(40))
    known["latent"] = places.expand(-1, 3)
    memory.write(known)
    found = memory.read(known["latent"], width=1 / 64, count=1)
    assert found.rows["time"][:, 0].tolist() == list(range(40))


def test_a_saved_memory_goes_on_as_the_one_that_was_not(tmp_path):
    memory, _ = filled()
    memory.save(tmp_path / "memory.safetensors")
    other = ShortTermMemory.load(tmp_path / "memory.safetensors")
    for one in (memory, other):
        one.write(rows([50, 51], [0, 0], seed=9))
    assert (memory.rows == other.rows).all()
    generators = [seeds.generator(1, "again") for _ in range(2)]
    both = [one.windows(8, 3, g) for one, g in zip((memory, other), generators, strict=True)]
    assert (both[0] == both[1]).all()
    loaded = [RememberedWindows(one, batch_size=5, length=2) for one in (memory, other)]
    one, another = (next(iter(batches)) for batches in loaded)
    assert one["cost"].shape == (5, 2)
    assert all(torch.equal(one[key], another[key]) for key in one)


def test_workers_share_the_batches_in_the_same_order():
    memory, _ = filled()
    windows = RememberedWindows(memory, batch_size=3, length=2, seed=4)
    alone, shared = (
        list(itertools.islice(DataLoader(windows, batch_size=None, num_workers=workers), 5))
        for workers in (0, 2)
    )
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["cost"], other["cost"])
    assert not torch.equal(alone[0]["cost"], alone[1]["cost"])


def test_wrong_rows_and_files_are_refused(tmp_path):
    memory, _ = filled()
    with pytest.raises(ValueError, match="rows of"):
        memory.write(rows([1], [1]).exclude("latent"))
    with pytest.raises(ValueError, match="`time`"):
        ShortTermMemory(3).write(rows([1], [1]).exclude("time"))
    with pytest.raises(ValueError, match="capacity"):
        ShortTermMemory(0)
    with pytest.raises(RuntimeError, match="call write"):
        ShortTermMemory(3).windows(1, 1, seeds.generator(0, "test"))
    write_safetensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="no memory"):
        ShortTermMemory.load(tmp_path / "other.safetensors")
