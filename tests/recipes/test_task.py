"""`jepa task` at toy size, on a simulator that needs no package; and on Reacher by its name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import gymnasium
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from jepa.planning.agent import Cost
from jepa.planning.cem import CEM
from jepa.planning.evaluation import Evaluation
from jepa.planning.pixel_tasks import Simulator, draw_pairs
from jepa.recipes.cli import main
from jepa.recipes.control import share
from jepa.recipes.embedding import Latent
from jepa.recipes.hardware import Hardware
from jepa.recipes.latent import Dynamics, Joint
from jepa.recipes.rewards import Reward
from jepa.recipes.task import Trials, mean_of, mean_return, task
from jepa.recipes.world import Experience


@dataclass
class Dot(Simulator):
    """A dot on a line that moves by its action."""

    name: str = "dot"
    size: int = 32
    radius: float = 2.0
    max_steps: int = 12
    passing: bool = True
    action_space: gymnasium.Space = field(
        default_factory=lambda: gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    )
    state: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def draw(self, random):
        return tuple(random.uniform(2, 30, (2, 1)))

    def get_state(self):
        return self.state.copy()

    def set_state(self, state):
        self.state = np.array(state)

    def step(self, action):
        self.state = np.clip(self.state + action, 0, 31)
        return 0.0, False

    def render(self):
        image = np.zeros((32, 32, 3), np.uint8)
        image[12:20, max(0, int(self.state[0]) - 2) : int(self.state[0]) + 3] = 255
        return image

    def position(self, states):
        return states


@pytest.mark.parametrize("kind", ["second_order", "gru"])
def test_a_run_learns_plays_and_does_not_learn_twice(kind, tmp_path):
    options = {
        "out": tmp_path / "run",
        "simulator": Dot(),
        "experience": Experience(episodes=12, decisions=5, repeat=2),
        "latent": Latent(size=4, width=8),
        "joint": Joint(hidden=16, kind="second_order", window=3, steps=4, batch_size=8),
        "dynamics": Dynamics(hidden=16, kind=kind, layers=3, window=3, steps=4, batch_size=8),
        "planner": CEM(horizon=3, samples=8, iterations=1, elites=2),
        "trials": Trials(episodes=6, oracle_episodes=4, part=4),
        "hardware": Hardware(accelerator="cpu", precision="float32"),
        "name": "toy",
    }
    found = []
    for _ in range(2):
        task(**options)
        found.append(json.loads((tmp_path / "run" / "result.json").read_text()))
    first, again = (result["metrics"] for result in found)
    for name in ("success", "distance", "foreseen_states"):
        assert first[name] == again[name]
    weights = load_file(tmp_path / "run" / "dynamics.safetensors")
    assert sum(weights[name].ndim == 2 for name in weights) == {"second_order": 4, "gru": 6}[kind]
    baselines = found[0]["baselines"]
    assert baselines["oracle/success"]["value"] == 1.0
    assert baselines["oracle/distance"]["value"] <= 2
    assert baselines["random_policy/success"].keys() == {"value", "low", "high"}
    assert first["foreseen_states"]["value"] == first["plans"]["value"] * (8 + 1) * 3
    with np.load(tmp_path / "run" / "pairs_6.npz") as pairs:
        assert (pairs["start"] == draw_pairs(Dot(), 6, 1000).start).all()
    filmed_from_start_to_end(tmp_path / "run")


def filmed_from_start_to_end(run):
    """The strips hold the frames of the simulator at the start and the end; the report has them."""
    with np.load(run / "strips.npz") as strips, np.load(run / "pairs_6.npz") as pairs:
        assert strips["frames"].shape == (4, 8, 32, 32, 3)
        for episode in range(4):
            shown, dot = strips["frames"][episode], Dot()
            for state, frame in (
                (pairs["start"], shown[0]),
                (pairs["goal"], strips["goals"][episode]),
            ):
                dot.set_state(state[episode])
                assert (dot.render() == frame).all()
            moments = strips["moments"][episode]
            assert moments[0] == 0 < moments[-1] <= 6
            end = np.flatnonzero(shown[-1, 16, :, 0]).mean()
            near = np.flatnonzero(strips["goals"][episode][16, :, 0]).mean()
            assert strips["success"][episode] == (abs(end - near) <= 2.6)  # pixels are rounded
    assert main(["report", f"--run={run}"]) == 0
    page = (run / "report.html").read_text()
    assert page.count('alt="the goal"') == 4


class Paid(Dot):
    """The dot is paid for being on the right; its goal says nothing."""

    passing = False

    def step(self, action):
        super().step(action)
        return float(self.state[0]) / 31, False


def test_plans_by_learnt_rewards_gain_more_than_chance(tmp_path):
    options = {
        "out": tmp_path / "run",
        "simulator": Paid(passing=False),
        "experience": Experience(episodes=60, decisions=8, repeat=1),
        "latent": Latent(size=4, width=8),
        "joint": Joint(hidden=32, window=3, steps=100, batch_size=32, learning_rate=2e-3),
        "dynamics": Dynamics(hidden=32, window=3, steps=150, batch_size=32),
        "reward": Reward(hidden=32, steps=150, batch_size=64),
        "planner": CEM(horizon=4, samples=32, iterations=3, elites=6),
        "trials": Trials(episodes=20, oracle_episodes=6),
        "hardware": Hardware(accelerator="cpu", precision="float32"),
        "name": "paid",
    }
    task(**options)
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    ours, chance = found["metrics"]["return"], found["baselines"]["random_policy/return"]
    assert ours["value"] > chance["value"] + 1
    assert found["baselines"]["oracle/return"]["value"] > chance["value"] + 1


def test_rewards_that_never_differ_are_refused(tmp_path):
    with pytest.raises(ValueError, match="all 60 rewards of the random policy are 0, and nothing"):
        task(
            out=tmp_path / "run",
            simulator=Dot(radius=0.0),
            experience=Experience(episodes=12, decisions=5, repeat=1),
            latent=Latent(size=4, width=8),
            joint=Joint(hidden=16, window=3, steps=1, batch_size=8),
            dynamics=Dynamics(hidden=16, window=3, steps=1, batch_size=8),
            reward=Reward(batch_size=32),
            hardware=Hardware(accelerator="cpu", precision="float32"),
        )


@pytest.mark.slow
def test_reacher_by_its_name(tmp_path, capsys):
    pytest.importorskip("mujoco", reason="needs pip install 'jepa-toolkit[mujoco]'")
    given = {
        "simulator": {
            "class_path": "jepa.planning.mujoco_tasks.Reacher",
            "init_args": {"max_steps": 4},
        },
        "experience": {"episodes": 4, "decisions": 4, "repeat": 2},
        "latent": {"size": 4, "width": 8},
        "joint": {"kind": "second_order", "steps": 2, "batch_size": 4, "window": 3},
        "dynamics": {"kind": "second_order", "steps": 2, "batch_size": 4, "window": 3},
        "planner": {"horizon": 3, "samples": 16, "iterations": 1},
        "trials": {"episodes": 3, "oracle_episodes": 2},
    }
    config = tmp_path / "task.yaml"
    config.write_text(yaml.safe_dump(given))
    assert main(["task", f"--config={config}", f"--out={tmp_path / 'run'}"]) == 0, (
        capsys.readouterr().err
    )
    assert "success" in json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]


def test_rewards_that_never_differ_are_refused_before_the_world_is_learnt(tmp_path):
    given = {"out": tmp_path / "run", "simulator": Dot(radius=0.0), "reward": Reward()}
    given |= {"experience": Experience(episodes=60, decisions=8, repeat=1)}
    small = {"steps": 1, "batch_size": 8, "window": 3}
    with pytest.raises(ValueError, match="all 480 rewards of the random policy are 0"):
        task(**given, joint=Joint(**small), dynamics=Dynamics(**small))
    assert (tmp_path / "run" / "episodes").exists()
    assert not (tmp_path / "run" / "embedding.safetensors").exists()


def test_too_few_actions_for_a_batch_of_rewards_are_refused_before_any_is_collected(tmp_path):
    small = {"batch_size": 8, "window": 3}
    with pytest.raises(ValueError, match="reward: 12 episodes of 5 decisions have 60 windows of 1"):
        task(
            out=tmp_path / "run",
            simulator=Paid(passing=False),
            experience=Experience(episodes=12, decisions=5),
            joint=Joint(**small),
            dynamics=Dynamics(**small),
            reward=Reward(batch_size=61),
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("paid", [[1.0] * 20, [0.0] * 20, [1.0] * 19 + [0.0], [1.0]])
def test_returns_that_are_all_nought_or_one_are_a_share(paid):
    returns = np.array(paid)
    played = Evaluation(
        episodes=len(paid),
        successes=int(sum(paid)),
        excluded=1,
        steps=returns,
        success=returns > 0,
        returns=np.append(returns, 7.0),
        cost=Cost(),
        first={"success": np.arange(len(paid) + 1) == len(paid)},
        last={},
    )
    found = mean_return(played)
    assert found == share(played)
    assert 0 <= found["low"] < found["high"] <= 1


def test_the_mean_of_no_episode_is_not_a_number():
    assert np.isnan(mean_of(np.array([]))["value"])
    assert mean_of(np.array([3.0])) == {"value": 3.0, "low": 3.0, "high": 3.0}
