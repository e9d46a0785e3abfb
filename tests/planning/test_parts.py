"""Evaluation in parts is the evaluation of each part, whoever plays it."""

from __future__ import annotations

import pickle
import sys
from functools import partial

import cloudpickle
import numpy as np
import pytest

from jepa.planning.agent import PlanningAgent, RandomAgent, action_space_of
from jepa.planning.cem import CEM
from jepa.planning.classic_tasks import Pendulum
from jepa.planning.energies import GoalDistance
from jepa.planning.evaluation import evaluate
from jepa.planning.oracle import TrueDynamics
from jepa.planning.parts import evaluate_parts, joined
from jepa.planning.pixel_tasks import PixelTasks, draw_pairs
from jepa.planning.two_rooms import TwoRooms
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv

SPACE = action_space_of(TwoRoomsVectorEnv(1).single_action_space)


def planned(part):
    """Six episodes of TwoRooms, planned with the true dynamics."""
    world = TwoRooms()
    agent = PlanningAgent(
        world_model=TrueDynamics(rooms=world, repeat=4),
        planner=CEM(horizon=4, samples=16, iterations=2, elites=4),
        energy=partial(GoalDistance, key="position"),
        action_space=SPACE,
        repeat=4,
        seed=part,
    )
    return agent, TrueState(TwoRoomsVectorEnv(6, rooms=world, max_steps=24))


def same(ours, theirs):
    for name in ("episodes", "successes", "excluded"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("steps", "success", "returns"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("first", "last"):
        for key, value in getattr(ours, name).items():
            np.testing.assert_array_equal(value, getattr(theirs, name)[key])
    assert (ours.cost.plans, ours.cost.transitions) == (theirs.cost.plans, theirs.cost.transitions)


def test_all_parts_are_the_parts_one_after_another():
    whole = evaluate_parts(planned, 3, max_steps=24, seed=5)
    assert whole.episodes + whole.excluded == 18
    assert whole.last["position"].shape == (18, 2)
    assert len(np.unique(whole.first["position"], axis=0)) == 18
    ones = [evaluate_parts(planned, 1, max_steps=24, seed=5)]
    ones += [evaluate_parts(lambda _, n=n: planned(n), n + 1, max_steps=24, seed=5) for n in (1, 2)]
    for number, one in enumerate(ones):
        rows = slice(6 * number, 6 * number + 6)
        np.testing.assert_array_equal(one.last["position"][-6:], whole.last["position"][rows])
    assert whole.cost.transitions == 3 * ones[0].cost.transitions > 0


def test_parts_of_different_sizes_are_joined_by_hand():
    parts = [
        evaluate(
            RandomAgent(action_space=SPACE, seed=n),
            TwoRoomsVectorEnv(n, max_steps=9),
            max_steps=9,
            seed=n,
        )
        for n in (2, 5)
    ]
    both = joined(parts)
    assert both.episodes == sum(part.episodes for part in parts)
    np.testing.assert_array_equal(both.returns, np.r_[parts[0].returns, parts[1].returns])
    np.testing.assert_array_equal(
        both.first["goal_position"], np.r_[tuple(p.first["goal_position"] for p in parts)]
    )


def test_a_simulator_is_sent_as_what_it_was_made_from():
    simulator = Pendulum(size=32)
    pairs = draw_pairs(simulator, 4, seed=3)
    simulator.set_state(pairs.start[0])
    simulator.render()  # from now on it holds a surface to draw on
    sent = pickle.loads(pickle.dumps(simulator))
    assert sent.size == 32
    for each in (simulator, sent):
        each.set_state(pairs.start[1])
        each.step(np.array([0.7], np.float32))
    np.testing.assert_array_equal(sent.get_state(), simulator.get_state())
    np.testing.assert_array_equal(sent.render(), simulator.render())

    def part(number):
        env = PixelTasks(2, simulator=simulator, pairs=pairs[2 * number : 2 * number + 2])
        return RandomAgent(action_space=action_space_of(env.single_action_space)), env

    here = evaluate_parts(part, 2, max_steps=3, seed=0)
    elsewhere = evaluate_parts(cloudpickle.loads(cloudpickle.dumps(part)), 2, max_steps=3, seed=0)
    same(elsewhere, here)


def test_what_cannot_be_played_is_said(monkeypatch):
    with pytest.raises(ValueError, match="got 0 and 1"):
        evaluate_parts(planned, 0, max_steps=3, seed=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jepa-toolkit\[ray\]'"):
        evaluate_parts(planned, 2, max_steps=3, seed=0, workers=2)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same(workers):
    ray = pytest.importorskip("ray", reason="needs pip install 'jepa-toolkit[ray]'")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not import tests
    alone = evaluate_parts(planned, 4, max_steps=24, seed=5)
    same(evaluate_parts(planned, 4, max_steps=24, seed=5, workers=workers), alone)
