"""The store: read while it grows, killed at any place and gone on with, byte for byte."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from jepa.datasets.trajectories import EpisodeArrays, read_episode
from jepa.datasets.trajectory_store import StoredTrajectories, TrajectoryWriter
from jepa.datasets.windows import Windows


def episode(number):
    random = np.random.default_rng(number)
    steps = 1 + number % 7
    return {
        "observations": random.integers(0, 255, (steps + 1, 3, 3), dtype=np.uint8),
        "actions": random.normal(size=(steps, 2)).astype(np.float32),
        "infos.place": random.normal(size=(steps + 1, 2)),
    }


def write(folder, count, **options):
    with TrajectoryWriter(folder, shard_episodes=4, **options) as writer:
        for number in range(len(writer), count):
            writer.append(episode(number))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_was_written_is_read(tmp_path):
    write(tmp_path / "run", 11, about={"seed": 3})
    data = StoredTrajectories(tmp_path / "run")
    assert data.about == {"seed": 3}
    assert data.lengths.tolist() == [1 + number % 7 for number in range(11)]
    for number in range(11):
        found = read_episode(data, number)
        for name, array in episode(number).items():
            assert found[name].dtype == array.dtype
            assert (found[name] == array).all()
    batch = Windows(data, length=3)[[0, 7, 1]]
    episodes = [n for n in range(11) for _ in range(max(0, 1 + n % 7 - 2))]
    assert (batch["actions"][1].numpy() == episode(episodes[7])["actions"][
        7 - episodes.index(episodes[7]) :][:3]).all()  # fmt: skip
    again = pickle.loads(pickle.dumps(data))
    assert (again.lengths == data.lengths).all()


def test_arrays_may_be_used_again_for_the_next_episode(tmp_path):
    buffer = episode(3)
    with TrajectoryWriter(tmp_path, shard_episodes=4) as writer:
        for number in range(4):
            buffer["actions"][:] = number
            writer.append(buffer)
    data = StoredTrajectories(tmp_path)
    found = [read_episode(data, number)["actions"] for number in range(4)]
    assert [set(actions.ravel()) for actions in found] == [{0}, {1}, {2}, {3}]


def test_episodes_that_are_not_there_are_refused_in_every_form(tmp_path):
    write(tmp_path, 6)
    for data in (StoredTrajectories(tmp_path), EpisodeArrays.of([episode(n) for n in range(6)])):
        for wrong in (-1, 6):
            with pytest.raises(
                IndexError, match=f"episodes are numbered 0 to 5; asked for {wrong}"
            ):
                data.read("actions", np.array([0, wrong]), np.array([[0], [0]]))


def test_a_reader_sees_complete_shards_while_the_data_grow(tmp_path):
    with TrajectoryWriter(tmp_path, shard_episodes=4) as writer:
        data = StoredTrajectories(tmp_path)
        assert (len(data.lengths), data.names) == (0, ())
        for number in range(7):
            writer.append(episode(number))
            assert data.refresh() == 4 * ((number + 1) // 4)
        assert len(writer) == 7
        assert len(StoredTrajectories(tmp_path).lengths) == 4
        early = Windows(data, length=2)
    assert data.refresh() == 7
    assert (early[0]["actions"].numpy() == episode(1)["actions"]).all()
    assert len(Windows(data, length=2)) > len(early)


@pytest.mark.parametrize(
    ("owner", "function", "calls", "left"),
    [
        (TrajectoryWriter, "append", 7, 4),
        (np, "save", 6, 4),
        (os, "replace", 8, 4),
        (Path, "rename", 3, 8),
    ],
)
def test_killed_and_gone_on_with_the_bytes_are_the_same(tmp_path, owner, function, calls, left):
    write(tmp_path / "undisturbed", 11, about={"seed": 3})
    folder, alive = tmp_path / "killed", getattr(owner, function)

    def deadly(*arguments, **options):
        nonlocal calls
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return alive(*arguments, **options)

    def collector():
        setattr(owner, function, deadly)
        write(folder, 11, about={"seed": 3})

    process = multiprocessing.get_context("fork").Process(target=collector)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    data = StoredTrajectories(folder)
    assert len(data.lengths) == left
    write(folder, 11, about={"seed": 3})
    assert contents(folder) == contents(tmp_path / "undisturbed")
    assert data.refresh() == 11


def test_many_shards_need_few_open_files(tmp_path):
    with TrajectoryWriter(tmp_path, shard_episodes=1) as writer:
        for number in range(100):
            writer.append(episode(number))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        windows = Windows(StoredTrajectories(tmp_path), length=1, names=list(episode(0)))
        batch = windows[list(range(len(windows)))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wanted = np.concatenate([episode(number)["actions"] for number in range(100)])
    assert (batch["actions"][:, 0].numpy() == wanted).all()


def test_an_error_loses_the_unfinished_shard_alone(tmp_path):
    def interrupted():
        with TrajectoryWriter(tmp_path, shard_episodes=4) as writer:
            for number in range(6):
                writer.append(episode(number))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(StoredTrajectories(tmp_path).lengths) == 4


def test_a_writer_refuses_what_does_not_fit(tmp_path):
    write(tmp_path, 4)
    with pytest.raises(ValueError, match=r"was begun as .*'seed': 7"):
        write(tmp_path, 8, about={"seed": 7})
    with TrajectoryWriter(tmp_path, shard_episodes=4) as writer:
        with pytest.raises(ValueError, match="another process is writing"):
            write(tmp_path, 8)
        for wrong in ({"rewards": np.zeros(5)}, {"actions": np.zeros((5, 2))}):
            with pytest.raises(ValueError, match="those before it"):
                writer.append(episode(4) | wrong)
        for name in ("a/b", "lengths"):
            with pytest.raises(ValueError, match="names of files"):
                writer.append(episode(4) | {name: np.zeros(6)})
        with pytest.raises(ValueError, match="these differ"):
            writer.append(episode(4) | {"actions": np.zeros((4, 2), np.float32)})
    assert len(StoredTrajectories(tmp_path).lengths) == 4


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no about.json in .*: is it a folder"):
        StoredTrajectories(tmp_path)
    write(tmp_path, 12)
    path = tmp_path / "00001" / "actions.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"shard .*00001 is damaged"):
        StoredTrajectories(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"00001 has the fields infos.place, observations, but"):
        StoredTrajectories(tmp_path)
    path.write_bytes(whole)
    np.save(tmp_path / "00002" / "lengths.npy", np.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"00002 is damaged .*rows for 3 episodes of 6 actions"):
        StoredTrajectories(tmp_path)
    (tmp_path / "00002" / "lengths.npy").unlink()
    with pytest.raises(ValueError, match="00002 is damaged"):
        StoredTrajectories(tmp_path)
    (tmp_path / "about.json").write_text("{")
    with pytest.raises(ValueError, match=r"about.json is damaged"):
        StoredTrajectories(tmp_path)
    (tmp_path / "about.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match="expected version 2"):
        StoredTrajectories(tmp_path)
