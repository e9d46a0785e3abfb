"""dm_control's reacher: the suite's own steps and rewards, and pictures that show the target."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")
pytest.importorskip("dm_control", reason="needs pip install 'jepa-toolkit[dm-control]'")

from jepa.planning.dm_control_tasks import DmReacher


def test_steps_and_rewards_are_the_suites():
    from dm_control import suite  # not before all else: its drawing library and triton's clash

    simulator, random = DmReacher(max_steps=50), np.random.default_rng(3)
    theirs = suite.load("reacher", "easy", task_kwargs={"random": 0})
    theirs.reset()
    start, goal = simulator.draw(random)
    rewards = []
    for begin in (start, goal):
        simulator.set_state(begin)
        with theirs.physics.reset_context():
            theirs.physics.data.qpos[:], theirs.physics.data.qvel[:] = begin[:2], begin[2:4]
            theirs.physics.named.model.geom_pos["target", :2] = begin[4:]
        for _ in range(40):
            action = random.uniform(-1, 1, 2)
            reward, lost = simulator.step(action)
            step = theirs.step(action)
            assert simulator.get_state()[:4] == pytest.approx(
                np.concatenate([theirs.physics.data.qpos, theirs.physics.data.qvel]), abs=1e-9
            )
            assert simulator.position(simulator.get_state()) == pytest.approx(
                theirs.physics.named.data.geom_xpos["finger", :2], abs=0.006
            )
            assert reward == step.reward
            assert not lost
            rewards.append(reward)
    assert 0 < np.mean(rewards) < 1


def test_a_step_is_a_function_of_the_state_and_goals_are_in_their_targets():
    simulator = DmReacher()
    for seed in range(5):
        start, goal = simulator.draw(np.random.default_rng(seed))
        assert simulator.position(goal) == pytest.approx(goal[4:], abs=1e-9)
        assert abs(goal[1]) <= 2.79
        assert (start[4:] == goal[4:]).all()
    found = []
    for before in (goal, start):
        simulator.set_state(before)
        simulator.step(np.ones(2))
        simulator.set_state(start)
        for _ in range(5):
            simulator.step(np.array([0.5, -1.0]))
        found.append(simulator.get_state())
    assert (found[0] == found[1]).all()


def test_pictures_show_arm_and_target():
    simulator = DmReacher()
    images = []
    for target in ([0.15, 0.0], [0.0, 0.15], [-0.15, 0.0]):
        simulator.set_state(np.array([-2.0, 0.5, 0, 0, *target]))
        images.append(simulator.render().astype(int))
    assert images[0].shape == (64, 64, 3)
    moved = np.abs(images[0] - images[2]).sum(axis=2)
    right, left = moved[:, 36:].sum(), moved[:, :28].sum()
    assert min(right, left) > 1000
    assert np.abs(moved[28:36, 36:60]).max() > 30
    assert np.abs(images[0] - images[1]).sum(axis=2)[4:20, 26:38].max() > 30
