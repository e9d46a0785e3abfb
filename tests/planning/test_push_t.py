"""Push-T: states are set exactly, and goals are where pushing brings the block."""

from __future__ import annotations

import numpy as np
import pytest

from jepa.planning.push_t import PushT

pytest.importorskip("gym_pusht", reason="needs pip install 'jepa-toolkit[pusht]'")


@pytest.fixture(scope="module")
def simulator():
    return PushT()


def test_states_are_reached_exactly_and_a_step_is_a_function_of_them(simulator):
    start, goal = simulator.draw(np.random.default_rng(0))
    for state in (start, goal):
        simulator.set_state(state)
        assert np.allclose(simulator.get_state(), state, atol=1e-9)
    found = []
    for before in (goal, start):  # what was done before leaves no trace
        simulator.set_state(before)
        simulator.step(np.array([50.0, -50.0]))
        simulator.set_state(start)
        moved = [simulator.step(np.array([80.0, 30.0])) for _ in range(5)]
        found.append(simulator.get_state())
        assert moved[0] == (0.0, False)
    assert (found[0] == found[1]).all()
    assert np.abs(found[0][:2] - start[:2]).max() > 20


def test_goals_are_mostly_away_from_the_start_and_pictures_show_them(simulator):
    pairs = [simulator.draw(np.random.default_rng(seed)) for seed in range(8)]
    start, goal = (np.stack(states) for states in zip(*pairs, strict=True))
    apart = np.linalg.norm(simulator.position(start) - simulator.position(goal), axis=1)
    assert (apart > simulator.radius).mean() >= 0.5
    simulator.set_state(start[0])
    image = simulator.render().astype(int)
    assert image.shape == (64, 64, 3)
    simulator.set_state(goal[0])
    assert (simulator.render() != image).any()
    blue = image[..., 2] - image[..., 0]  # the disc is royal blue
    row, column = np.unravel_index(blue.argmax(), blue.shape)
    assert np.hypot(column * 8 + 4 - start[0, 0], row * 8 + 4 - start[0, 1]) < 30


def test_a_picture_is_the_packages_own(simulator):
    for seed in range(5):
        for state in simulator.draw(np.random.default_rng(seed)):
            simulator.set_state(state)
            assert (simulator.render() == simulator.env._render()).all()


def test_a_step_draws_and_measures_nothing(simulator, monkeypatch):
    """Each of which would be half of its time."""
    package = pytest.importorskip("gym_pusht.envs.pusht")
    done = []
    monkeypatch.setattr(simulator.env, "_draw", lambda: done.append("drawn"))
    monkeypatch.setattr(package, "pymunk_to_shapely", lambda *_: done.append("measured"))
    simulator.step(np.zeros(2))
    assert not done


def test_a_step_moves_as_the_packages_own(simulator):
    start, _ = simulator.draw(np.random.default_rng(1))
    plain = pytest.importorskip("gym_pusht.envs").PushTEnv(obs_type="state")
    plain.reset(seed=0)
    plain._setup()
    plain.agent.position, plain.agent.velocity = start[:2].tolist(), start[2:4].tolist()
    plain.block.angle = float(start[6])
    plain.block.position = start[4:6].tolist()
    simulator.set_state(start)
    towards = 0.4 * (start[4:6] - start[:2])
    for _ in range(8):
        plain.step((np.array(plain.agent.position) + towards).clip(20, 492))
        simulator.step(towards)
    reached = np.concatenate([plain.agent.position, plain.block.position, [plain.block.angle]])
    assert (simulator.get_state()[[0, 1, 4, 5, 6]] == reached).all()
    assert np.abs(simulator.get_state()[4:7] - start[4:7]).max() > 5  # it was pushed


def test_experience_starts_at_rest_with_the_disc_near_the_block_anywhere(simulator):
    starts = []
    for seed in range(200):
        start, goal = simulator.draw_widely(np.random.default_rng(seed))
        assert (goal == start).all()
        starts.append(start)
    disc, speed, block, turn, others = np.split(np.stack(starts), [2, 4, 6, 7], axis=1)
    apart = np.linalg.norm(disc - block, axis=1)
    assert (apart > 40).all()  # clipped at the walls
    assert (apart < 130).all()
    assert ((disc >= 20) & (disc <= 492)).all()
    assert (np.ptp(block, axis=0) > 250).all()
    assert np.ptp(turn) > 5
    assert not speed.any()
    assert not others.any()
