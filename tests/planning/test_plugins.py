"""Our agents in other people's loops, and the example of docs/plugins.md."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from tensordict import TensorDict

import jepa.planning.two_rooms_env  # noqa: F401  registers jepa/TwoRooms-v0
from jepa.planning.agent import PlanningAgent, RandomAgent, action_space_of
from jepa.planning.cem import CEM
from jepa.planning.energies import GoalDistance
from jepa.planning.planner import unroll
from jepa.planning.plugins import GoalInInfo, WorldPolicy, as_gymnasium_policy

DOC = Path(__file__).parents[2] / "docs" / "plugins.md"


def snippets(title):
    """Python of the part of that title, all of it in one piece."""
    _, _, after = DOC.read_text().partition(f"# {title}\n")
    part, _, _ = after.partition("\n\n# ")  # comments of snippets stand behind no empty line
    return "".join(re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL))


def test_the_robot_example_acts_within_the_published_bounds():
    checkpoint = Path(__file__).parents[1] / "fixtures" / "vjepa2_ac_checkpoint.pt"
    code = snippets("A robot with a camera")
    for written, here in (  # a smaller model, and fewer samples
        ('"vjepa2-ac-vitg.pt"', f"{str(checkpoint)!r}, heads=2"),
        ("load_official_ac(", "load_official_ac(grid=(4, 4), path="),
        ("samples=400", "samples=40"),
    ):
        assert written in code
        code = code.replace(written, here)
    names: dict = {}
    exec(compile(code, str(DOC), "exec"), names)
    draws = np.random.default_rng(0)
    images = draws.integers(256, size=(2, 1, 32, 32, 3)).astype(np.uint8)
    seen = {"image": images[0], "pose": np.zeros((1, 7))}
    action = names["agent"].act({"observation": seen, "desired_goal": {"image": images[1]}})
    assert action.shape == (1, 4)
    assert (np.abs(action) <= np.float32([0.05, 0.05, 0.05, 0.75])).all()
    assert (action != 0).all()


def test_the_example_reaches_the_goals_that_a_random_policy_does_not(capsys):
    names: dict = {}
    exec(compile(snippets("Your encoder, your environment"), str(DOC), "exec"), names)
    at_random, planned = map(float, capsys.readouterr().out.split()[-2:])
    assert at_random < 0.3
    assert planned > 0.8


class Straight:
    """Positions move by the action; there is no wall."""

    def encode(self, observation):
        return TensorDict({"latent": observation}, batch_size=[len(observation)])

    def step(self, state, action):
        return TensorDict({"latent": state["latent"] + action}, batch_size=state.batch_size)

    def rollout(self, state, actions):
        return unroll(self.step, state, actions)


def straight(space):
    return PlanningAgent(
        world_model=Straight(),
        planner=CEM(horizon=3, samples=32, iterations=3, elites=6),
        action_space=action_space_of(space),
        energy=partial(GoalDistance, steps="all"),
    )


@pytest.mark.parametrize("name", ["jepa/TwoRooms-v0", "CartPole-v1"])
def test_a_policy_for_one_environment_and_for_many(name):
    one, many = gymnasium.make(name), SyncVectorEnv([partial(gymnasium.make, name)] * 3)
    space = action_space_of(one.action_space)
    single = as_gymnasium_policy(RandomAgent(action_space=space, seed=4), one)
    vector = as_gymnasium_policy(RandomAgent(action_space=space, seed=4), many)
    again = RandomAgent(action_space=space, seed=4)
    seen, _ = many.reset(seed=0)
    for _ in range(3):
        actions = vector(seen)
        assert many.action_space.contains(actions)
        assert np.array_equal(actions, again.act(seen))
        seen, *_ = many.step(actions)
    again.reset()
    seen, _ = one.reset(seed=0)
    for _ in range(3):
        action = single(seen)
        assert one.action_space.contains(action)
        assert np.array_equal(action, again.act({"observation": np.zeros((1, 2))})[0])
        seen, *_ = one.step(action)


class Told:
    """Remembers what it was told, and since when."""

    def __init__(self, copy):
        self.copy, self.resets, self.seen = copy, 0, []

    def reset(self):
        self.resets += 1

    def act(self, observation):
        self.seen.append(observation)
        return np.full((1, 2), self.copy + 1.0)


class Copies:
    """What a policy sees of stable-worldmodel's pool."""

    num_envs, action_space = 3, gymnasium.spaces.Box(-9, 9, (3, 2), np.float32)


def infos(steps, over=(False, False, False)):
    return {
        "pixels": np.arange(3)[:, None],
        "goal": 10 + np.arange(3)[:, None],
        "step_idx": np.array(steps)[:, None],
        "terminated": np.array(over)[:, None],
        "truncated": np.zeros((3, 1), dtype=bool),
    }


def test_each_copy_has_an_agent_that_forgets_when_its_episode_begins():
    policy = WorldPolicy(Told)
    policy.set_env(Copies())
    assert policy.get_action(infos([0, 0, 0])).tolist() == [[1, 1], [2, 2], [3, 3]]
    ended = policy.get_action(infos([1, 0, 4], over=(False, False, True)))
    assert ended.tolist() == [[1, 1], [2, 2], [0, 0]]
    assert [agent.resets for agent in policy.agents] == [1, 2, 1]
    assert [len(agent.seen) for agent in policy.agents] == [2, 2, 1]
    assert policy.agents[1].seen[0] == {"observation": [1], "desired_goal": [11]}
    policy.keys = {"observation": "pixels", "desired_goal": "goal_state"}
    with pytest.raises(KeyError, match="have no goal_state; they have: pixels, goal"):
        policy.get_action(infos([0, 0, 0]))


class Heading:
    """Goes straight to the goal."""

    def reset(self):
        pass

    def act(self, observation):
        way = observation["desired_goal"] - observation["observation"]
        return np.clip(way, -1, 1).astype(np.float32)


@pytest.fixture
def public():
    reason = "needs stable-worldmodel: pip install stable-worldmodel==0.1.1"
    return pytest.importorskip("stable_worldmodel", reason=reason, exc_type=ImportError)


def test_their_world_finds_the_successes_of_our_own_loop(public):
    """The goal behind the wall is reached where the straight way leads through the door."""
    world = public.World(
        "jepa/TwoRooms-v0",
        num_envs=3,
        image_shape=(32, 32),
        max_episode_steps=60,
        pre_wrappers=[GoalInInfo],
    )
    keys = {"observation": "position", "desired_goal": "goal_position"}
    world.set_policy(WorldPolicy(lambda _: Heading(), keys=keys))
    found = world.evaluate(episodes=10, seed=0)
    assert world.infos["pixels"].shape == world.infos["goal"].shape == (3, 1, 32, 32, 3)
    env = gymnasium.make("jepa/TwoRooms-v0", max_episode_steps=60)
    act, wanted = as_gymnasium_policy(Heading(), env), []
    for seed in found["seeds"].tolist():
        _, info = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            action = act({name: info[key] for name, key in keys.items()})
            _, _, terminated, truncated, info = env.step(action)
        wanted.append(terminated)
    assert found["episode_successes"].tolist() == wanted
    assert 0 < sum(wanted) < len(wanted)


def test_our_agents_act_in_their_two_rooms(public):
    world = public.World("swm/TwoRoom-v1", num_envs=2, image_shape=(32, 32), max_episode_steps=12)
    space = world.envs.single_action_space
    keys = {"observation": "state", "desired_goal": "goal_state"}
    world.set_policy(WorldPolicy(lambda _: straight(space), keys=keys))
    world.reset(seed=0)
    before = world.infos["distance_to_target"].copy()
    world.evaluate(episodes=2, seed=0, reset_mode="wait")
    assert (world.infos["distance_to_target"] < before).all()
