"""Copies of one simulator against the simulator stepped by hand; pairs in files."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from jepa.planning.agent import RandomAgent, action_space_of
from jepa.planning.collect import play
from jepa.planning.pixel_tasks import (
    Pairs,
    PixelTasks,
    SeenStates,
    Simulator,
    draw_pairs,
    fixed_pairs,
)
from jepa.planning.simulated import Simulated


class Cart(Simulator):
    """A point with inertia on a line, drawn as a column. State: position and velocity, px."""

    name, size, radius = "cart", 16, 1.0

    def __init__(self, *, passing=True, max_steps=30):
        self.passing, self.max_steps = passing, max_steps
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.state = np.zeros(2)
        self.drawn = 0

    def draw(self, random):
        start, goal = random.uniform(1, 15, 2)
        return np.array([start, 0.0]), np.array([goal, 0.0])

    def get_state(self):
        return self.state.copy()

    def set_state(self, state):
        self.state = np.array(state, dtype=np.float64)

    def step(self, action):
        position, velocity = self.state
        velocity = 0.5 * velocity + float(action[0])
        self.state = np.array([position + velocity, velocity])
        return -abs(velocity), not 0 <= self.state[0] < 16

    def render(self):
        self.drawn += 1
        image = np.zeros((16, 16, 3), np.uint8)
        image[:, int(np.clip(self.state[0], 0, 15))] = 255
        return image

    def position(self, states):
        return states[..., :1]


def pairs_of(starts, goals):
    rest = np.zeros(len(starts))
    return Pairs("cart", 0, np.stack([starts, rest], 1), np.stack([goals, rest], 1))


def test_copies_are_the_simulator_stepped_by_hand():
    envs, alone, actions = PixelTasks(5, simulator=Cart(), repeat=3), Cart(), []
    observation, info = envs.reset(seed=4)
    first, random = info["state"], np.random.default_rng(0)
    assert envs.observation_space.contains(observation)
    for _ in range(4):
        actions.append(random.uniform(-1, 1, (5, 1)).astype(np.float32))
        observation, rewards, terminated, truncated, info = envs.step(actions[-1])
    for i in range(5):
        alone.set_state(first[i])
        near, lost = False, False
        for action in np.repeat(np.stack(actions)[:, i], 3, axis=0):
            if near or lost:
                break
            _, lost = alone.step(action)
            near = not lost and abs(alone.state[0] - info["goal_state"][i, 0]) <= 1
        assert (info["state"][i] == alone.state).all()
        assert (observation["observation"][i] == alone.render()).all()
        assert (terminated[i], info["success"][i]) == (near or lost, near)
    assert set(rewards) <= {0.0, 1.0}
    assert not truncated.any()


def test_goal_images_show_the_goal_and_finished_copies_stand_still():
    envs = PixelTasks(2, simulator=Cart(), pairs=pairs_of([3.0, 3.0], [3.5, 9.0]), max_steps=2)
    observation, info = envs.reset()
    assert observation["desired_goal"][:, 0, :, 0].argmax(axis=1).tolist() == [3, 9]
    assert info["success"].tolist() == [True, False]
    for expected in ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]):
        _, rewards, terminated, truncated, info = envs.step(np.ones((2, 1), np.float32))
        assert rewards.tolist() == expected
    assert info["state"].tolist() == [[3.0, 0.0], [5.5, 1.5]]
    assert (terminated.tolist(), truncated.tolist()) == ([True, False], [False, True])


def test_reaching_the_goal_pays_once_and_other_tasks_pay_their_own():
    push, pair = np.ones((1, 1), np.float32), pairs_of([3.0], [5.5])
    goal = PixelTasks(1, simulator=Cart(), pairs=pair)
    goal.reset()
    paid = [goal.step(push)[1].item() for _ in range(4)]
    assert paid == [0.0, 1.0, 0.0, 0.0]
    stay = PixelTasks(1, simulator=Cart(passing=False), pairs=pair, repeat=2)
    stay.reset()
    _, rewards, terminated, _, info = stay.step(push)
    assert (rewards.item(), terminated.item(), info["success"].item()) == (-2.5, False, False)
    for _ in range(4):
        _, _, terminated, _, info = stay.step(push)
    assert (terminated.item(), info["success"].item()) == (True, False)  # off the line: all is lost
    short = PixelTasks(1, simulator=Cart(passing=False), pairs=pair, max_steps=2)
    short.reset()
    ends = [short.step(push) for _ in range(2)]
    assert [(end[3].item(), end[4]["success"].item()) for end in ends] == [
        (False, False), (True, True)
    ]  # fmt: skip


def test_endless_episodes_are_all_as_long():
    envs = PixelTasks(1, simulator=Cart(), pairs=pairs_of([3.0], [3.5]), max_steps=4, endless=True)
    envs.reset()
    steps = [envs.step(np.zeros((1, 1), np.float32)) for _ in range(4)]
    assert [step[2].item() for step in steps] == [False] * 4
    assert [step[3].item() for step in steps] == [False, False, False, True]


def test_a_mask_resets_only_the_masked_copies():
    envs = SeenStates(PixelTasks(3, simulator=Cart()))
    before, _ = envs.reset(seed=0)
    after, _ = envs.reset(options={"reset_mask": np.array([True, False, True])})
    same = (before["observation"] == after["observation"]).all(axis=1)
    assert same.tolist() == [False, True, False]


def test_a_copy_is_drawn_once_a_step_however_long_actions_are_held():
    simulator = Cart()
    envs = PixelTasks(4, simulator=simulator, repeat=5, pairs=pairs_of([2.0] * 4, [14.0] * 4))
    envs.reset()
    simulator.drawn = 0
    envs.step(np.zeros((4, 1), np.float32))
    assert simulator.drawn == 4


def test_a_goal_that_is_the_start_is_not_drawn_again():
    simulator = Cart()
    envs = PixelTasks(2, simulator=simulator, pairs=pairs_of([2.0, 5.0], [2.0, 9.0]))
    observation, _ = envs.reset()
    assert simulator.drawn == 3
    for name, columns in (("observation", [2, 5]), ("desired_goal", [2, 9])):
        assert observation[name][:, 0, :, 0].argmax(axis=1).tolist() == columns


def test_episodes_are_collected():
    envs = PixelTasks(3, simulator=Cart(), max_steps=6)
    agent = RandomAgent(action_space=action_space_of(envs.single_action_space), seed=1)
    episodes = play(envs, agent, seed=2, rounds=2, infos=["position"])
    assert len(episodes) == 6
    for episode in episodes:
        assert len(episode["observations.observation"]) == len(episode["actions"]) + 1


def test_pairs_are_drawn_once_and_read_from_the_file(tmp_path):
    path = tmp_path / "pairs.npz"
    drawn, read = (fixed_pairs(path, Cart(), 6, 3) for _ in range(2))
    assert (drawn.start == read.start).all()
    assert (drawn.goal == read.goal).all()
    assert (draw_pairs(Cart(), 9, 3).start[:6] == drawn.start).all()
    assert (draw_pairs(Cart(), 6, 4).start != drawn.start).any()
    for count, seed in ((5, 3), (6, 4)):
        with pytest.raises(ValueError, match="name another file"):
            fixed_pairs(path, Cart(), count, seed)
    with pytest.raises(ValueError, match="3 copies"):
        PixelTasks(3, simulator=Cart(), pairs=read)


def test_the_oracle_of_a_simulator_is_paid_nothing_where_all_is_lost():
    oracle = Simulated(simulator=Cart(), repeat=2)
    state = oracle.encode(torch.tensor([[14.0, 0.0], [5.0, 0.0]], dtype=torch.float64))
    actions = torch.tensor([[3.0], [-3.0], [-3.0]]).expand(1, 2, 3, 1)
    states = oracle.rollout(state, actions)
    assert states["lost"].tolist() == [[[True] * 3, [False, False, True]]]
    assert states["state"][0, 0].tolist() == [[17.0, 3.0]] * 3, "lost in the first of two steps"
    assert states["reward"][0, 0].tolist() == [-3.0, 0.0, 0.0]
    assert states["reward"][0, 1].tolist() == [-3 - 4.5, -0.75 - 3.375, -4.6875 - 5.34375]
