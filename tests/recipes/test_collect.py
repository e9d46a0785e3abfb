"""`jepa collect`: killed and gone on with, the data are those of an undisturbed run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from jepa.datasets.trajectories import read_episode
from jepa.datasets.trajectory_sources import open_trajectories
from jepa.planning.agent import RandomAgent
from jepa.planning.protocols import ActionSpace
from jepa.planning.two_rooms import TwoRooms
from jepa.recipes.cli import main
from jepa.recipes.collect import collect_into
from jepa.recipes.world import Experience, gather, walks_in


class Pictures(gymnasium.Env):
    """A number that grows by the action; drawn as a grey image, 6 high and 8 wide."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, start=0.0):
        self.render_mode, self.start = render_mode, start
        self.observation_space = gymnasium.spaces.Box(-99, 99, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(0, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.value = np.array([self.start], np.float32)
        return self.value.copy(), {"double": float(2 * self.value[0])}

    def step(self, action):
        self.value += action
        return self.value.copy(), 1.0, False, False, {"double": float(2 * self.value[0])}

    def render(self):
        return np.full((6, 8, 3), int(self.value[0]), np.uint8)


class Unbounded(Pictures):
    """Actions without bounds."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


def upwards(seed):
    """A policy that knows what to do."""
    return lambda observation: np.ones((len(observation), 1), np.float32)


gymnasium.register(id="test/Unbounded-v0", entry_point=Unbounded, max_episode_steps=4)
gymnasium.register(id="test/Pictures-v0", entry_point=Pictures, max_episode_steps=9)


def contents(folder):
    paths = sorted(path for path in folder.rglob("*.npy"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


CARTPOLE = ["--env=CartPole-v1", "--episodes=30", "--copies=3", "--rounds=2"]


def test_killed_and_resumed_the_data_are_the_same(tmp_path, capsys):
    assert main(["collect", *CARTPOLE, f"--out={tmp_path / 'undisturbed'}"]) == 0
    arguments = ["collect", *CARTPOLE, f"--out={tmp_path / 'killed'}"]
    calls, act = 150, RandomAgent.act

    def deadly(agent, observation):
        nonlocal calls
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(agent, observation)

    def collector():
        RandomAgent.act = deadly
        main(arguments)

    process = multiprocessing.get_context("fork").Process(target=collector)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = contents(tmp_path / "killed")
    assert 0 < len(open_trajectories(str(tmp_path / "killed")).lengths) < 30
    assert main(arguments) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["collect", f"--out={tmp_path / 'killed'}", "--resume"]) == 0
    after = contents(tmp_path / "killed")
    assert before.items() <= after.items()
    assert after == contents(tmp_path / "undisturbed")
    data = open_trajectories(str(tmp_path / "undisturbed"))
    assert len(data.lengths) == 30
    assert len(set(data.lengths.tolist())) > 5
    first, seventh = (read_episode(data, number) for number in (0, 6))
    assert (first["observations"][0] != seventh["observations"][0]).all()


def test_pictures_states_infos_and_a_policy_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_policy.py").write_text(
        "import numpy\n"
        "def scripted(seed):\n"
        "    return lambda seen: numpy.ones((len(seen['state']), 1), numpy.float32)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--env=test/Pictures-v0", "--episodes=3", "--copies=2", "--rounds=1", "--pixels=4"]
    more = ["--infos=[double]", "--max_steps=5", "--env_args.start=3", f"--out={tmp_path / 'run'}"]
    assert main(["collect", *arguments, *more, "--policy=my_policy.scripted"]) == 0
    data = open_trajectories(str(tmp_path / "run"))
    assert data.lengths.tolist() == [5, 5, 5]
    for number in range(3):
        episode = read_episode(data, number)
        values = np.arange(3.0, 9.0)
        assert (episode["observations.state"][:, 0] == values).all()
        assert (episode["infos.double"] == 2 * values).all()
        assert episode["observations.pixels"].shape == (6, 4, 4, 3)
        assert (episode["observations.pixels"] == values[:, None, None, None]).all()
        assert episode["truncations"].tolist() == [False] * 4 + [True]


def test_more_episodes_are_added_to_those_there(tmp_path):
    env = SyncVectorEnv([lambda: gymnasium.make("test/Pictures-v0")] * 2)

    def noisy(seed):
        return RandomAgent(
            action_space=ActionSpace(torch.zeros(1), torch.full((1,), 2.0)), seed=seed
        )

    for episodes in (3, 8):
        collect_into(tmp_path / "twice", env, noisy, episodes=episodes, rounds=2)
    collect_into(tmp_path / "once", env, noisy, episodes=8, rounds=2)
    twice, once = (open_trajectories(str(tmp_path / name)) for name in ("twice", "once"))
    for number in range(8):
        found, wanted = read_episode(twice, number), read_episode(once, number)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_random_walks_go_on_where_they_were(tmp_path):
    experience = Experience(episodes=130, decisions=2, repeat=1)
    walks = walks_in(TwoRooms(), experience)
    gather(tmp_path / "once", experience, walks, seed=1)
    once = contents(tmp_path / "once")
    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    shutil.rmtree(tmp_path / "twice/train/00001")
    for _ in range(2):
        train, validation = gather(tmp_path / "twice", experience, walks, seed=1)
        assert contents(tmp_path / "twice") == once
        assert (len(train.lengths), len(validation.lengths)) == (130, 13)


def test_gathering_tells_how_far_it_is_and_nothing_when_all_is_there(tmp_path, capsys):
    experience = Experience(episodes=20, decisions=2, repeat=1)
    walks = walks_in(TwoRooms(), experience)
    gather(tmp_path, experience, walks, seed=1)
    told = capsys.readouterr()
    assert told.out == ""
    assert "train episodes: 100%" in told.err
    assert " 20/20 " in told.err
    assert " 2/2 " in told.err
    gather(tmp_path, experience, walks, seed=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--env=NoSuch-v0"], "NoSuch"),
        (["--env=CartPole-v1", "--rounds=0"], "at least 1; got 100, 8, 0"),
        (["--env=CartPole-v1", "--env_args.speed=3"], "unexpected keyword argument 'speed'"),
        (["--env=CartPole-v1", "--max_steps=0"], "to be positive"),
        (["--env=Acrobot-v1", "--correlation=1.0"], "0 <= correlation < 1"),
        (["--env=CartPole-v1", "--infos=[speed]"], "info has no 'speed'"),
    ],
)
def test_errors_say_what_is_wrong(tmp_path, capsys, arguments, hint):
    assert main(["collect", *arguments, f"--out={tmp_path / 'run'}"]) == 1
    assert hint in capsys.readouterr().err


def test_without_bounds_a_policy_is_asked_for_before_the_folder_is_taken(tmp_path, capsys):
    said = ["collect", "test/Unbounded-v0", f"--out={tmp_path / 'run'}", "--episodes=2"]
    assert main(said) == 1
    assert (
        "no random policy for test/Unbounded-v0, give it one (--policy)" in capsys.readouterr().err
    )
    assert main([*said, f"--policy={upwards.__module__}.upwards"]) == 0, capsys.readouterr().err
    assert len(open_trajectories(str(tmp_path / "run")).lengths) == 2


RESUMED = (["--resume"], ["--resume=true"], ["--resume", "true"], ["--resume", "True"])


@pytest.mark.parametrize("resumed", RESUMED, ids=" ".join)
def test_all_ways_to_say_resume_go_on_with_the_run(tmp_path, capsys, resumed):
    ten = ["CartPole-v1", f"--out={tmp_path}", "--episodes", "10", "--max_steps=5"]
    assert main(["collect", *ten]) == 0
    assert main(["collect", *ten, *resumed]) == 0, capsys.readouterr().err
    assert main(["collect", "--out", str(tmp_path), *resumed]) == 0, capsys.readouterr().err
    assert "10 episodes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["collect", *resumed, "--out"])
    assert "--out: expected one argument" in capsys.readouterr().err


def test_a_resumed_collection_may_grow_and_change_nothing_else(tmp_path, capsys):
    few = ["collect", "CartPole-v1", f"--out={tmp_path / 'grown'}", "--max_steps=5"]
    assert main([*few, "--episodes=10"]) == 0
    assert main([*few, "--episodes=40", "--resume"]) == 0, capsys.readouterr().err
    assert main([*few[:2], f"--out={tmp_path / 'once'}", "--max_steps=5", "--episodes=40"]) == 0
    grown, once = (open_trajectories(str(tmp_path / name)) for name in ("grown", "once"))
    assert len(grown.lengths) == 40
    for number in range(40):
        found, wanted = read_episode(grown, number), read_episode(once, number)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert main([*few, "--episodes=40", "--seed=1", "--resume"]) == 1
    told = capsys.readouterr().err
    assert "seed was 0, now 1" in told
    assert "another --out" in told
    assert main([*few, "--episodes=20", "--resume"]) == 1
    assert "episodes was 40, now 20" in capsys.readouterr().err
    assert "episodes: 40" in (tmp_path / "grown" / "config.yaml").read_text()
