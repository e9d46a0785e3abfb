"""Collected episodes against a single environment that is stepped by hand."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from jepa.planning.agent import RandomAgent, action_space_of
from jepa.planning.collect import play
from jepa.planning.protocols import ActionSpace
from jepa.planning.two_rooms_env import TwoRoomsVectorEnv


class Ragged(gymnasium.Env):
    """Episodes of one to five steps, ended in either way; every moment looks different."""

    def __init__(self):
        box = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = gymnasium.spaces.Dict(
            {"state": box, "more": gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(100)])}
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)

    def show(self):
        self.value = self.np_random.normal(size=2)
        info = {"value": self.value[0], "steps": np.array([self.steps, self.length])}
        return {"state": self.value, "more": (self.steps,)}, info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(1, 6))
        return self.show()

    def step(self, action):
        self.steps += 1
        shown, info = self.show()
        end = self.steps == self.length
        even = self.length % 2 == 0
        return shown, float(action.sum() + self.value[1]), end and even, end and not even, info


def policy(observation):
    """Three numbers that depend on what is seen."""
    state = observation["state"]
    return np.tanh(np.stack([state[:, 0], state[:, 1], state.sum(axis=1)], 1)).astype(np.float32)


def by_hand(seed, rounds):
    """Episodes of one environment, with a policy of one observation."""
    env, found = Ragged(), []
    for turn in range(rounds):
        shown, info = env.reset(seed=seed if turn == 0 else None)
        rows, over = [(shown, info)], False
        done = []
        while not over:
            action = policy({"state": shown["state"][None]})[0]
            shown, reward, terminated, truncated, info = env.step(action)
            rows.append((shown, info))
            done.append((action, reward, terminated, truncated))
            over = terminated or truncated
        found.append(
            {
                "observations.state": np.stack([s["state"] for s, _ in rows]),
                "observations.more.0": np.stack([s["more"][0] for s, _ in rows]),
                "infos.value": np.stack([i["value"] for _, i in rows]),
                "infos.steps": np.stack([i["steps"] for _, i in rows]),
                **{
                    name: np.stack([row[place] for row in done])
                    for place, name in enumerate(
                        ("actions", "rewards", "terminations", "truncations")
                    )
                },
            }
        )
    return found


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_episodes_are_those_of_a_single_environment(mode, kind):
    env = kind([Ragged] * 3, autoreset_mode=mode)
    found = play(env, policy, seed=5, rounds=4, infos=["value", "steps"])
    again = play(env, policy, seed=5, rounds=4, infos=["value", "steps"])
    env.close()
    assert len(found) == 12
    assert len({len(episode["actions"]) for episode in found}) > 2
    for copy in range(3):
        for turn, wanted in enumerate(by_hand(5 + copy, 4)):
            episode = found[3 * turn + copy]
            assert episode.keys() == wanted.keys()
            for name, array in wanted.items():
                assert episode[name].dtype == array.dtype, name
                assert np.array_equal(episode[name], array), name
                assert np.array_equal(again[3 * turn + copy][name], array)


def test_final_observations_may_be_batched():
    """As environments write them that are vectors themselves."""

    class Batched(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            *first, info = self.env.step(actions)
            if "final_obs" in info:
                rows = [{"state": np.zeros(2), "more": (0,)} if f is None else f
                        for f in info["final_obs"]]  # fmt: skip
                info["final_obs"] = {
                    "state": np.stack([r["state"] for r in rows]),
                    "more": (np.array([r["more"][0] for r in rows]),),
                }
            return (*first, info)

    env = Batched(SyncVectorEnv([Ragged] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    for episode, wanted in zip(play(env, policy, seed=1)[::2], by_hand(1, 1), strict=True):
        assert all(np.array_equal(episode[n], wanted[n]) for n in episode)


def test_two_rooms_are_played_to_their_own_ends():
    env = TwoRoomsVectorEnv(4, max_steps=6, radius=35.0)
    agent = RandomAgent(action_space=action_space_of(env.single_action_space), correlation=0.9)
    infos = ["position", "goal_position", "wall", "door", "success"]
    found = play(env, agent, seed=2, rounds=10, infos=infos)
    ends = np.array([len(episode["actions"]) for episode in found])
    assert len(set(ends.tolist())) > 1
    for episode in found:
        assert (np.diff(episode["infos.goal_position"], axis=0) == 0).all()
        moves = np.linalg.norm(np.diff(episode["infos.position"], axis=0), axis=1)
        assert (moves <= env.rooms.max_norm + 1e-4).all()
        assert episode["terminations"][-1] == episode["infos.success"][-1]
        assert episode["truncations"][-1] == (not episode["infos.success"][-1])
        position = torch.as_tensor(episode["infos.position"][-1:])
        layout = type(env._layout)(
            wall=torch.as_tensor(episode["infos.wall"][-1:]),
            door=torch.as_tensor(episode["infos.door"][-1:]),
        )
        drawn = env.rooms.render(position, layout).numpy()[0]
        assert (drawn == episode["observations.observation"][-1]).all()


def test_an_info_that_is_not_given_is_named():
    env = SyncVectorEnv([Ragged] * 2)
    with pytest.raises(ValueError, match=r"no 'speed' for copy 0 .* it has: steps, value"):
        play(env, policy, seed=0, infos=["speed"])


def test_observations_without_one_shape_are_named():
    class Told(Ragged):
        def __init__(self):
            super().__init__()
            text = gymnasium.spaces.Text(5)
            self.observation_space = gymnasium.spaces.Dict(x=self.observation_space, said=text)

    with pytest.raises(ValueError, match=r"`observations\.said` is Text.*FilterObservation"):
        play(SyncVectorEnv([Told] * 2), policy, seed=0)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_random_actions_are_uniform_held_and_correlated(correlation):
    space = ActionSpace(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 10.0]))
    agent = RandomAgent(action_space=space, repeat=2, correlation=correlation, seed=1)
    seen = np.stack([agent.act(np.zeros((500, 1))) for _ in range(80)])
    assert (seen[::2] == seen[1::2]).all()
    unit = (seen[::2] - [-1.0, 0.0]) / [2.0, 10.0]
    assert 0 <= unit.min() < 0.01 < 0.99 < unit.max() <= 1
    shares = np.histogram(unit, bins=10, range=(0, 1))[0] / unit.size
    assert np.allclose(shares, 0.1, atol=0.015)
    near = np.corrcoef(unit[:-1].ravel(), unit[1:].ravel())[0, 1]
    # of uniform variables made of Gaussian ones: 6 / pi arcsin(rho / 2)
    assert near == pytest.approx(6 / np.pi * np.arcsin(correlation / 2), abs=0.02)


def test_discrete_random_actions_are_all_equally_often_taken():
    agent = RandomAgent(action_space=ActionSpace.one_of(3), correlation=0.5)
    taken = np.stack([agent.act({"observation": np.zeros((300, 1))}) for _ in range(100)])
    assert taken.dtype == np.int64
    assert np.allclose(np.bincount(taken.ravel()) / taken.size, 1 / 3, atol=0.02)
    with pytest.raises(ValueError, match="repeat >= 1"):
        RandomAgent(action_space=ActionSpace.one_of(3), repeat=0)
