"""Pendulum and CartPole: gymnasium's physics, pictures of the state, and when all is lost."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from jepa.planning.classic_tasks import CartPole, Pendulum, painted
from jepa.planning.pixel_tasks import PixelTasks, draw_pairs


def test_pendulum_is_gymnasiums():
    simulator, random = Pendulum(), np.random.default_rng(0)
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset(seed=0)
    start, goal = simulator.draw(random)
    simulator.set_state(start)
    theirs.state = start.copy()
    for _ in range(100):
        action = random.uniform(-2, 2, 1).astype(np.float32)
        reward, lost = simulator.step(action)
        observation, paid, *_ = theirs.step(action)
        angle, velocity = simulator.get_state()
        assert (np.cos(angle), np.sin(angle), velocity) == pytest.approx(observation, abs=1e-5)
        assert reward == pytest.approx(paid)
        assert not lost
        assert -np.pi <= angle < np.pi
    assert simulator.position(goal) == pytest.approx([0, 1])


@pytest.mark.parametrize("action", [0, 1])
def test_cart_pole_with_full_force_is_gymnasiums(action):
    simulator, random = CartPole(), np.random.default_rng(1)
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.reset(seed=0)
    start, _ = simulator.draw(random)
    simulator.set_state(start)
    theirs.state = start.copy()
    steps, lost = 0, False
    while not lost:
        reward, lost = simulator.step(np.array([2.0 * action - 1]))
        state, paid, terminated, *_ = theirs.step(action)
        assert simulator.get_state() == pytest.approx(state, abs=1e-6)
        assert lost == terminated
        assert reward == (1.0 - lost)
        assert paid == 1.0  # the last step, too: what is lost is not worth a reward here
        steps += 1
    assert 5 < steps < 15


def test_half_the_force_accelerates_half_as_much():
    simulator, speeds = CartPole(), []
    for force in (0.5, 1.0, 3.0):
        simulator.set_state(np.zeros(4))
        simulator.step(np.array([force]))
        speeds.append(simulator.get_state()[1])
    assert speeds[0] == pytest.approx(speeds[1] / 2)
    assert speeds[2] == speeds[1]


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, -2.5])
def test_the_pendulums_picture_shows_its_angle(angle):
    simulator = Pendulum()
    simulator.set_state(np.array([angle, 3.0]))
    image = simulator.render().astype(float)
    red = image[..., 0] - image[..., 1]
    rows, columns = np.mgrid[:64, :64] + 0.5
    x, y = ((place * red).sum() / red.sum() - 32 for place in (columns, rows))
    assert np.arctan2(-x, -y) == pytest.approx(angle, abs=0.02)


def test_strokes_are_as_wide_as_they_say_and_cover_one_another():
    image = painted(50, [((0.1, 0.5), (0.9, 0.5), 0.1, (0, 0, 0))])
    assert (235 - image[..., 0].astype(float)).sum() / 235 == pytest.approx(
        50**2 * (0.8 * 0.2 + np.pi * 0.1**2), rel=0.01
    )
    over = painted(50, [((0, 0.5), (1, 0.5), 0.2, (9, 9, 9)), ((0.5, 0), (0.5, 1), 0.1, (7, 7, 7))])
    assert (over[25, 25] == 7).all()
    assert (over[25, 2] == 9).all()


def test_what_is_lost_ends_an_episode_but_not_the_collecting():
    push = np.ones((2, 1), np.float32)
    playing = PixelTasks(2, simulator=CartPole(), repeat=2)
    collecting = PixelTasks(2, simulator=CartPole(), repeat=2, endless=True, max_steps=40)
    for env in (playing, collecting):
        env.reset(seed=0)
    total = np.zeros(2)
    for _ in range(20):
        _, rewards, terminated, _, info = playing.step(push)
        total += rewards
        _, endless, never, over, _ = collecting.step(push)
        assert not never.any()
    assert terminated.all()
    assert not info["success"].any()
    assert ((total > 4) & (total < 15)).all()
    assert (endless == 0).all()
    assert over.all()


def test_experience_of_the_cart_starts_anywhere_and_games_as_gymnasiums():
    wide = draw_pairs(CartPole(), 400, 0, widely=True).start
    assert (np.abs(wide).max(axis=0) > [1.9, 1.4, 0.19, 1.4]).all()
    limits = [CartPole().env.x_threshold, np.inf, CartPole().env.theta_threshold_radians, np.inf]
    assert (np.abs(wide) < limits).all()
    assert np.abs(draw_pairs(CartPole(), 400, 0).start).max() <= 0.05
    for endless in (False, True):
        env = PixelTasks(50, simulator=CartPole(), endless=endless)
        _, info = env.reset(seed=0)
        assert (np.abs(info["state"]).max() > 0.05) == endless
    assert (
        draw_pairs(Pendulum(), 9, 0).start == draw_pairs(Pendulum(), 9, 0, widely=True).start
    ).all()
