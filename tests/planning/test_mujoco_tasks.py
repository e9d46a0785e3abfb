"""Reacher and PointMaze: states are set exactly, and pictures show them."""

from __future__ import annotations

import numpy as np
import pytest

from jepa.planning.mujoco_tasks import PointMaze, Reacher
from jepa.planning.pixel_tasks import PixelTasks

for needed in ("mujoco", "gymnasium_robotics"):
    pytest.importorskip(needed, reason="needs pip install 'jepa-toolkit[mujoco]'")


@pytest.fixture(scope="module", params=["reacher", "umaze"])
def simulator(request):
    return Reacher() if request.param == "reacher" else PointMaze("UMaze")


def test_a_step_is_a_function_of_state_and_action(simulator):
    random, found = np.random.default_rng(0), []
    start, other = simulator.draw(random)
    actions = random.uniform(-1, 1, (30, 2)).astype(np.float32)
    simulator.set_state(start)
    for action in actions:
        simulator.set_state(simulator.get_state())
        simulator.step(action)
        found.append(simulator.get_state())
    simulator.set_state(other)
    simulator.step(actions[0])
    simulator.set_state(found[19])
    assert (simulator.get_state() == found[19]).all()
    for action, state in zip(actions[20:], found[20:], strict=True):
        simulator.set_state(simulator.get_state())
        simulator.step(action)
        assert (simulator.get_state() == state).all()
    assert np.abs(found[-1] - start).max() > 0.01


def test_copies_see_what_one_sees_alone(simulator):
    envs = PixelTasks(3, simulator=simulator, repeat=2)
    observation, info = envs.reset(seed=1)
    for _ in range(2):
        observation, _, _, _, info = envs.step(np.full((3, 2), 0.5, np.float32))
    for i in range(3):
        simulator.set_state(info["state"][i])
        assert (observation["observation"][i] == simulator.render()).all()
    assert (observation["observation"] != observation["desired_goal"]).any()


def test_pictures_show_the_ball_or_the_arm_and_no_target(simulator):
    """What differs between two pictures is where the arm or the ball is, in either."""
    metres = {"reacher": 0.6, "point_maze_umaze": 6.6}[simulator.name] * np.tan(np.pi / 8) / 32
    start, goal = (simulator.draw(np.random.default_rng(5))[i] for i in (0, 1))
    images = []
    for state in (start, goal):
        simulator.set_state(state)
        images.append(simulator.render().astype(float))
    changed = np.abs(images[0] - images[1]).max(axis=2) > 30
    assert 0 < changed.sum() < 200
    for state in (start, goal):
        x, y = simulator.position(state) / metres
        distance = np.hypot(*(np.argwhere(changed) + 0.5 - [32 - y, 32 + x]).T)
        assert distance.min() < 3


def test_the_finger_tip_is_where_mujoco_has_it():
    reacher = Reacher()
    for seed in range(5):
        state, _ = reacher.draw(np.random.default_rng(seed))
        reacher.set_state(state)
        truth = reacher.env.data.body("fingertip").xpos[:2]
        assert np.allclose(reacher.position(state), truth, atol=1e-6)
