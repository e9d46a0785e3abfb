"""Episodes of different lengths and their windows, against slicing each episode by hand."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

from jepa.datasets.trajectories import (
    EpisodeArrays,
    Trajectories,
    length_of,
    read_episode,
    split_episodes,
)
from jepa.datasets.windows import Windows, window_loader


def episode(steps, seed):
    random = np.random.default_rng(seed)
    return {
        "observations.pixels": random.integers(0, 255, (steps + 1, 4, 4, 3), dtype=np.uint8),
        "observations.state": random.normal(size=(steps + 1, 3)),
        "actions": random.normal(size=(steps, 2)).astype(np.float32),
        "rewards": random.normal(size=steps),
        "terminations": np.arange(steps) == steps - 1,
    }


EPISODES = [episode(steps, seed) for seed, steps in enumerate((6, 1, 11, 4, 5))]
DATA = EpisodeArrays.of(EPISODES)


def by_hand(length, skip, chosen):
    """All windows, one after the other, with a loop over blocks."""
    for number in chosen:
        whole = EPISODES[number]
        for start in range(len(whole["actions"])):
            if start + length * skip > len(whole["actions"]):
                break
            spots = [start + skip * block for block in range(length)]
            ends = [*spots, start + skip * length]
            yield {
                "observations.pixels": np.stack([whole["observations.pixels"][t] for t in ends]),
                "observations.state": np.stack([whole["observations.state"][t] for t in ends]),
                "actions": np.stack(
                    [np.concatenate(list(whole["actions"][t : t + skip])) for t in spots]
                ),
                "rewards": np.array([sum(whole["rewards"][t : t + skip]) for t in spots]),
                "terminations": np.array([any(whole["terminations"][t : t + skip]) for t in spots]),
            }


@pytest.mark.parametrize(("length", "skip"), [(1, 1), (3, 1), (2, 2), (1, 5), (2, 3), (11, 1)])
@pytest.mark.parametrize("chosen", [None, np.array([4, 2])])
def test_windows_are_what_slicing_gives(length, skip, chosen):
    windows = Windows(DATA, length=length, skip=skip, names=DATA.names, episodes=chosen)
    wanted = list(by_hand(length, skip, range(5) if chosen is None else chosen))
    assert len(windows) == len(wanted) > 0
    batch = windows[list(range(len(windows)))]
    for i, window in enumerate(wanted):
        one = windows[i]
        for name, array in window.items():
            assert np.allclose(one[name].numpy(), array, atol=1e-6), name
            assert torch.equal(one[name], batch[name][i])
    assert batch["observations.pixels"].dtype == torch.uint8
    assert batch["observations.state"].dtype == torch.float32


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_several_windows_are_a_batch_however_they_are_listed(form):
    windows = Windows(DATA, length=2, names=["actions"])
    batch = windows[form([1, 2, 3])]["actions"]
    assert torch.equal(batch, torch.stack([windows[i]["actions"] for i in (1, 2, 3)]))
    assert torch.equal(windows[form([3])]["actions"][0], windows[3]["actions"])


def test_discrete_actions_are_blocks_of_numbers():
    data = EpisodeArrays.of([{"observations": np.zeros((5, 1)), "actions": np.arange(4)}])
    assert Windows(data, length=2, skip=2)[0]["actions"].tolist() == [[0, 1], [2, 3]]


def test_an_episode_comes_back_whole():
    assert isinstance(DATA, Trajectories)
    for number, wanted in enumerate(EPISODES):
        found = read_episode(DATA, number)
        assert found.keys() == wanted.keys()
        assert all((found[name] == wanted[name]).all() for name in wanted)


def test_the_order_of_batches_is_a_function_of_seed_and_epoch():
    windows = Windows(DATA, length=2, names=["actions"])

    def epochs(seed):
        loader = window_loader(windows, batch_size=5, seed=seed)
        out = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            out.append(torch.cat([b["actions"] for b in loader]))
        return out

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert sum(len(b["actions"]) for b in window_loader(windows, batch_size=4)) == len(windows)


def test_a_trainer_sees_every_epoch_in_an_order_of_its_own():
    class Seen(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.batches = torch.nn.Parameter(torch.zeros(1)), []

        def training_step(self, batch, index):
            self.batches.append(batch["actions"])
            return self.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = window_loader(Windows(DATA, length=2, names=["actions"]), batch_size=5, seed=0)
    seen = Seen()
    lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(seen, loader)
    loader.sampler.set_epoch(1)
    first, second = torch.stack(seen.batches).unflatten(0, (2, -1))
    assert torch.equal(second, torch.stack([batch["actions"] for batch in loader]))
    assert not torch.equal(first, second)


def test_a_split_stays_as_the_data_grow():
    train, held_out = split_episodes(57, seed=3)
    assert sorted([*train, *held_out]) == list(range(57))
    assert all(((held_out >= b) & (held_out < b + 10)).sum() == 1 for b in range(0, 50, 10))
    more, _ = split_episodes(200, seed=3)
    assert more[more < 57].tolist() == train.tolist()
    assert split_episodes(57, seed=4)[1].tolist() != held_out.tolist()
    with pytest.raises(ValueError, match="no two halves"):
        split_episodes(1, seed=3)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="shorter windows"):
        Windows(DATA, length=3, skip=4, names=["actions"])
    with pytest.raises(ValueError, match=r"no fields \['observations'\]; there are: obs"):
        Windows(DATA, length=1)
    with pytest.raises(ValueError, match="at least 1"):
        Windows(DATA, length=1, skip=0)
    with pytest.raises(IndexError, match="episode 1 has rows 0 to 0 of `actions`"):
        DATA.read("actions", np.array([0, 1]), np.array([[0, 1], [0, 1]]))
    with pytest.raises(ValueError, match="no field 'states'"):
        DATA.read("states", np.array([0]), np.array([[0]]))
    with pytest.raises(ValueError, match=r"missing: \['observations'\]"):
        length_of({"actions": np.zeros((3, 1))})
    with pytest.raises(ValueError, match=r"with T = 3 these differ: \{'observations': 3\}"):
        length_of({"actions": np.zeros((3, 1)), "observations": np.zeros((3, 1))})
    with pytest.raises(ValueError, match="should have 27 rows"):
        EpisodeArrays(DATA.lengths, {"actions": np.zeros((26, 1))})
    windows = Windows(DATA, length=11, names=["actions"])
    with pytest.raises(ValueError, match="1 windows of 11 actions do not fill one batch of 4"):
        window_loader(windows, batch_size=4, seed=0)
    assert len(window_loader(windows, batch_size=4)) == 1
