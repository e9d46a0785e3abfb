"""Episodes that have finished cost no planning, and change nothing for those that go on."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from jepa.planning.agent import Narrowing, PlanningAgent, RandomAgent, action_space_of
from jepa.planning.cem import CEM
from jepa.planning.evaluation import evaluate, record
from jepa.planning.hierarchy import HierarchicalAgent, Level
from jepa.planning.oracle import TrueDynamics, WayToGoal
from jepa.planning.planner import score
from jepa.planning.protocols import Plan
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from tests.planning.test_hierarchy import BOX, Line, closest, seen


@dataclass
class Fan:
    """Tries a fixed fan of plans and what is left of the last ones; draws nothing, so that each
    environment's plan depends on itself alone."""

    horizon: int = 6

    def plan(self, world_model, state, energy, action_space, warm_start, generator):
        ways = torch.cartesian_prod(*[torch.linspace(-1, 1, 5)] * len(action_space.low))
        ways = action_space.centre + action_space.radius * ways.view(len(ways), -1)
        plans = ways[:, None, None].expand(-1, len(state), self.horizon, -1)
        if warm_start is not None:
            plans = torch.cat([plans, warm_start.actions[None], warm_start.candidates])
        energies = score(world_model, state, energy, plans)
        least, which = energies.topk(2, dim=0, largest=False)
        rows = torch.arange(len(state))
        return Plan(plans[which[0], rows], least[0], candidates=plans[which, rows],
                    diagnostics={"energy": least, "once": least.mean(dim=1)})  # fmt: skip


class Whole:
    """The same agent, which does not say that it can go on with some."""

    def __init__(self, agent):
        self.agent, self.reset = agent, agent.reset

    def act(self, observation):
        return self.agent.act(observation)


def agent_for(env):
    return PlanningAgent(
        world_model=TrueDynamics(rooms=env.unwrapped.rooms, repeat=4),
        planner=Fan(),
        action_space=action_space_of(env.single_action_space),
        energy=WayToGoal,
        repeat=4,
    )


def test_finished_episodes_cost_nothing_and_the_others_go_on_as_they_would():
    env = TrueState(TwoRoomsVectorEnv(12, radius=10.0))
    some, every = agent_for(env), Whole(agent_for(env))
    assert isinstance(some, Narrowing)
    assert not isinstance(every, Narrowing)
    found, wanted = (evaluate(agent, env, max_steps=24, seed=1) for agent in (some, every))
    assert 0 < found.successes < found.episodes, "some were to arrive, some not"
    np.testing.assert_array_equal(found.steps, wanted.steps)
    np.testing.assert_array_equal(found.success, wanted.success)
    np.testing.assert_array_equal(found.last["position"], wanted.last["position"])
    decisions = np.maximum(-(-found.steps // 4), 1)  # of those that start at the goal one
    assert found.cost.plans == decisions.sum()
    assert every.agent.cost.plans == len(decisions) * decisions.max() > found.cost.plans
    assert found.cost.transitions < every.agent.cost.transitions


def test_starts_at_the_goal_are_asked_about_once():
    env = TrueState(TwoRoomsVectorEnv(30, radius=30.0))
    found = evaluate(agent_for(env), env, max_steps=4, seed=0)
    assert 0 < found.excluded < 30
    assert found.cost.plans == 30
    found = evaluate(agent_for(env), env, max_steps=5, seed=0)
    going_on = int((found.steps == 5).sum())
    assert 0 < going_on < 30 - found.excluded
    assert found.cost.plans == 30 + going_on


def test_levels_go_on_with_some_in_their_rhythm():
    def agent():
        levels = [
            Level(world_model=Line(*scales), planner=Fan(), action_space=BOX, energy=closest,
                  rhythm=rhythm)
            for scales, rhythm in (((1.0, 1.0), 1), ((40.0, 10.0), 3))
        ]  # fmt: skip
        return HierarchicalAgent(levels, repeat=2)

    some, every = agent(), agent()
    goals = np.array([15.0, -9.0, 22.0])
    here, which = np.zeros(3), np.ones(3, dtype=bool)
    for step in range(14):
        if step == 5:  # within a decision, and between two plans of the upper level
            kept = np.array([True, False, True])
            some.keep(kept)
            which = kept
        if step == 11:
            some.keep(np.array([False, True]))
            which = np.array([False, False, True])
        actions = every.act(seen(here, goals))
        found = some.act(seen(here[which], goals[which]))
        np.testing.assert_array_equal(found, actions[which])
        here = here + actions[:, 0]
    assert here[2] > 8
    assert all(len(thought.plan.actions) == 1 for thought in some.thoughts)


def test_agents_that_do_not_narrow_act_for_all():
    env = TrueState(TwoRoomsVectorEnv(8, radius=30.0))
    seen_by = []

    class Watched(RandomAgent):
        def act(self, observation):
            seen_by.append(len(observation["observation"]))
            return super().act(observation)

    evaluate(Watched(action_space=action_space_of(env.single_action_space)), env, max_steps=20,
             seed=0)  # fmt: skip
    assert set(seen_by) == {8}


def test_progress_tells_how_far_it_is_and_nothing_unasked(capsys):
    env = TrueState(TwoRoomsVectorEnv(30, radius=30.0))
    quiet = evaluate(agent_for(env), env, max_steps=40, seed=0)
    assert capsys.readouterr() == ("", "")
    told = evaluate(agent_for(env), env, max_steps=40, seed=0, progress=True)
    np.testing.assert_array_equal(told.steps, quiet.steps)
    last = int(told.steps.max())
    assert 1 < last < 40, "all were to arrive before the end"
    ended = capsys.readouterr().err.split("\r")[-1]
    assert "30 episodes: 100%" in ended
    assert f" {last}/{last} " in ended
    assert "going_on=0" in ended


def test_what_is_recorded_is_the_episode_that_was_evaluated():
    env = TrueState(TwoRoomsVectorEnv(6, max_steps=120))
    agent = PlanningAgent(
        world_model=TrueDynamics(rooms=env.unwrapped.rooms, repeat=4),
        planner=CEM(horizon=6, samples=16, iterations=1, elites=4),
        action_space=action_space_of(env.single_action_space),
        energy=WayToGoal,
        repeat=4,
    )
    found = evaluate(agent, env, max_steps=120, seed=5)
    episode = int((found.steps * found.success).argmax())
    assert (found.steps[found.success] < found.steps[episode]).any(), "another one ends before"
    tape = record(agent, env, max_steps=120, seed=5, episode=episode)
    np.testing.assert_array_equal(tape.positions[-1], found.last["position"][episode])
    assert len(tape.imagined) == -(-found.steps[episode] // 4)


class Counter(gymnasium.Env):
    """Succeeds at a step of its first episode, and in no later one."""

    observation_space = gymnasium.spaces.Dict(
        {"observation": gymnasium.spaces.Box(-1, 1, (1,), np.float32)}
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, arrives):
        self.arrives, self.episode = arrives, 0

    def reset(self, *, seed=None, options=None):
        self.steps, self.episode = 0, self.episode + 1
        return {"observation": np.zeros(1, np.float32)}, {"success": False, "steps": 0}

    def step(self, action):
        self.steps += 1
        there = self.episode == 1 and self.steps == self.arrives
        info = {"success": there, "steps": self.steps}
        return {"observation": np.zeros(1, np.float32)}, float(there), there, False, info


class Still:
    def reset(self):
        pass

    def act(self, observation):
        return np.zeros((len(observation["observation"]), 1), np.float32)


def counters(mode):
    made = [lambda arrives=arrives: Counter(arrives) for arrives in (2, 6, 50)]
    return SyncVectorEnv(made, autoreset_mode=mode)


def test_gymnasiums_own_environments_play_on_and_each_first_episode_counts():
    found = evaluate(Still(), counters(AutoresetMode.NEXT_STEP), max_steps=9, seed=0)
    assert found.success.tolist() == [True, True, False]
    assert found.steps.tolist() == [2, 6, 9]
    assert found.last["steps"].tolist() == [2, 6, 9]
    assert (found.successes, found.episodes) == (2, 3)
    with pytest.raises(ValueError, match="autoreset_mode=AutoresetMode"):
        evaluate(Still(), counters(AutoresetMode.SAME_STEP), max_steps=9, seed=0)
