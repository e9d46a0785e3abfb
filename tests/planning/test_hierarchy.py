"""Levels and the agent that plans on them, in a world on a line, and against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.distributions import Normal, kl_divergence

from jepa.planning.agent import PlanningAgent
from jepa.planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from jepa.planning.energies import ActionEffort, GoalDistance
from jepa.planning.hierarchy import Either, HierarchicalAgent, Level, SeenFromAbove
from jepa.planning.icem import ICEM
from jepa.planning.levels import (
    LatentEmbedding,
    LevelTraining,
    MacroEncoder,
    SameLatent,
    macro_space,
    prior_divergence,
)
from jepa.planning.planner import unroll
from jepa.planning.protocols import ActionSpace, WorldModel

BOX = ActionSpace(torch.tensor([-1.0]), torch.tensor([1.0]))


class Line:
    """A point on a line that an action moves by `step`; what it observes is scaled by `factor`."""

    def __init__(self, step, factor=1.0):
        self.size, self.factor = step, factor

    def encode(self, observation):
        return TensorDict({"latent": self.factor * observation.float()}, [len(observation)])

    def step(self, state, action):
        return TensorDict({"latent": state["latent"] + self.size * action}, state.batch_size)

    def rollout(self, state, actions):
        return unroll(self.step, state, actions)


def levels_of(rhythm=4, top_horizon=6, iterations=3):
    """Stride 4; the upper level counts in tenths."""
    planner = ICEM(horizon=5, samples=24, iterations=iterations)
    above = ICEM(horizon=top_horizon, samples=24, iterations=iterations)
    return [
        Level(world_model=Line(1.0), planner=planner, action_space=BOX, energy=closest),
        Level(
            world_model=Line(40.0, 10.0),
            planner=above,
            action_space=BOX,
            energy=closest,
            rhythm=rhythm,
        ),
    ]


def closest(goal):
    return GoalDistance(goal, steps="closest") + GoalDistance(goal, steps="all")


def seen(here, goal):
    return {
        "observation": np.array(here, dtype=np.float32)[:, None],
        "desired_goal": np.array(goal, dtype=np.float32)[:, None],
    }


def test_the_goal_is_handed_down_when_it_is_near_and_a_subgoal_before():
    handed = set()
    for seed in range(12):
        agent = HierarchicalAgent(levels_of(top_horizon=2, iterations=10), seed=seed)
        agent.act(seen([0.0, 0.0], [20.0, 3.0]))
        low, top = agent.thoughts
        assert top.final.tolist() == [True, True]
        # The far goal is two long steps away; to the near one the second may come nearer by luck.
        far, near = top.arriving.tolist()
        assert not far
        assert low.final.tolist() == [False, near]
        # The far subgoal lies 4 ahead; the lowest level goes there, or to the near goal at 3.
        assert top.imagined["latent"][0, 0].item() == pytest.approx(40, abs=4)
        assert low.imagined["latent"][0, 3].item() == pytest.approx(4, abs=0.8)
        aim = 3.0 if near else top.imagined["latent"][1, 0].item() / 10
        assert low.imagined["latent"][1].sub(aim).abs().min() < 0.3
        handed.add(near)
    assert handed == {True, False}


def test_each_level_plans_in_its_own_rhythm_and_every_step_is_counted():
    agent, position = HierarchicalAgent(levels_of(rhythm=3)), np.zeros(2)
    above, plans = [], 0
    for decision in range(7):
        position = position + agent.act(seen(position, [30.0, -30.0]))[:, 0]
        above.append(agent.thoughts[1])
        plans += decision % 3 == 0
    assert [one is other for one, other in itertools.pairwise(above)] == [
        True, True, False, True, True, False
    ]  # fmt: skip
    # 24 candidates in each of 3 iterations, of which the elite's 4 best are known after the
    # first one, fewer than the pool: they come on top; the last mean, and the plan once more.
    per_plan = [2 * horizon * (3 * 24 + 1 + 1) for horizon in (5, 6)]
    assert agent.transitions == [7 * per_plan[0], plans * per_plan[1]]
    assert agent.cost.transitions == sum(agent.transitions)
    assert agent.cost.plans == 7 * 2
    assert position[0] > 5
    assert position[1] < -5


def test_two_levels_arrive():
    agent, position = HierarchicalAgent(levels_of()), np.array([0.0, 5.0])
    goal = np.array([17.0, -14.0])
    for _ in range(25):
        position = position + agent.act(seen(position, goal))[:, 0]
    assert np.abs(position - goal).max() < 0.3


def test_one_level_is_the_planning_agent():
    level = levels_of()[0]
    one = HierarchicalAgent([level], seed=3)
    other = PlanningAgent(
        world_model=level.world_model,
        planner=level.planner,
        action_space=BOX,
        energy=closest,
        seed=3,
    )
    here = seen([0.0, 2.0], [4.0, -9.0])
    assert np.array_equal(one.act(here), other.act(here))
    assert torch.equal(one.plan.actions, other.plan.actions)


def test_three_levels_hand_down_step_by_step():
    levels = levels_of(rhythm=2, top_horizon=4)
    top = Level(
        world_model=Line(16.0, 0.1),  # 16 of the lowest level's steps, in its units again
        planner=ICEM(horizon=4, samples=24, iterations=3),
        action_space=BOX,
        energy=closest,
        rhythm=4,
    )
    agent, position = HierarchicalAgent([*levels, top]), np.array([0.0])
    for _ in range(40):
        position = position + agent.act(seen(position, [25.0]))[:, 0]
    assert abs(position[0] - 25) < 0.3


def test_a_lowest_level_that_does_not_plan_at_every_decision_is_refused():
    with pytest.raises(ValueError, match="rhythm of 1"):
        HierarchicalAgent([levels_of()[1]])
    with pytest.raises(ValueError, match="at least 1"):
        levels_of(rhythm=0)


def test_energies_from_above_are_measured_above():
    latents = torch.tensor([[1.0, 2.0], [3.0, 5.0]])[:, :, None, None]
    states = TensorDict({"latent": latents}, [2, 2, 1])  # samples, batch, steps
    goal = TensorDict({"latent": torch.tensor([[20.0], [20.0]])}, [2])
    actions = torch.zeros(2, 2, 1, 1)
    energy = SeenFromAbove(Line(40.0, 10.0), GoalDistance(goal))
    assert energy(states, actions).tolist() == [[10.0, 0.0], [10.0, 30.0]]
    own = GoalDistance(TensorDict({"latent": torch.zeros(2, 1)}, [2]))
    either = Either(torch.tensor([True, False]), own, energy)
    assert either(states, actions).tolist() == [[1.0, 0.0], [3.0, 30.0]]


def test_the_divergence_is_torchs():
    mean, std = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    wanted = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(dim=1)
    assert torch.allclose(prior_divergence(mean, std), wanted, atol=1e-5)


def test_changes_are_white_in_their_own_units():
    generator = torch.Generator().manual_seed(0)
    embedding = LatentEmbedding(torch.ones(4), size=3, hidden=8)
    latents = torch.randn(500, 4, generator=generator)
    changes = embedding(latents[1:]).detach() - embedding(latents[:-1]).detach()
    embedding.measure_in(changes)
    new = embedding(latents[1:]).detach() - embedding(latents[:-1]).detach()
    assert torch.allclose(new.T @ new / len(new), torch.eye(3), atol=1e-3)


def test_slow_features_in_units_of_their_changes_tell_commute_times():
    """Slowest cosines of a walk on a line of 40 places; the commute time of neighbours apart by k
    is k times that of one (the resistance of a line), so the squared distance grows evenly."""
    places = torch.arange(40) + 0.5
    waves = torch.cos(torch.pi * places[:, None] * torch.arange(1, 40) / 40)
    embedding = LatentEmbedding(torch.ones(39), size=39, hidden=8)
    changes = torch.cat([waves.diff(dim=0), -waves.diff(dim=0)])
    embedding.measure_in(changes)
    seen = waves @ embedding.units
    apart = (seen[:1] - seen).square().sum(dim=1)
    assert torch.allclose(apart, apart[1] * torch.arange(40), rtol=1e-3, atol=1e-2)


def test_a_level_learns_what_stretches_do():
    """On a line with bounded steps: the macro-action is the sum of the actions."""
    generator = torch.Generator().manual_seed(0)
    actions = (torch.randn(4000, 8, 1, generator=generator) * 0.5).clamp(-1, 1)
    latents = torch.cat([torch.zeros(4000, 1, 1), actions.cumsum(dim=1)], dim=1)
    latents = latents + torch.randn(4000, 1, 1, generator=generator) * 3
    torch.manual_seed(0)
    scale = latents.flatten(0, 1).std(dim=0)
    embedding, dynamics = SameLatent(1), ResidualMLP(Scales(scale, torch.ones(2)), hidden=32)
    macro = MacroEncoder(scale, torch.full((4,), 0.5), size=2, hidden=32)
    training = LevelTraining(embedding, dynamics, macro, None, information=0.03)
    optimiser = torch.optim.Adam(training.parameters(), lr=5e-3)
    below, chunks = latents[:, ::4], actions.view(4000, 2, 4)
    for step in range(200):
        some = slice(step % 10 * 400, (step % 10 + 1) * 400)
        losses = training.losses(below[some], chunks[some])
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    mean, std = macro(below[:, :-1], below[:, 1:], chunks)
    assert kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(-1).mean() > 1  # it tells
    foreseen = dynamics.rollout(dynamics.start(below[:, 0]), mean)["latent"]
    assert (foreseen - below[:, 1:]).abs().mean() < 0.25  # the actions' deviation over 4 is 1
    # Within the planner's box nothing is foreseen that 4 steps of at most 1 cannot do.
    model = LatentWorldModel(embedding=embedding, dynamics=dynamics)
    assert isinstance(model, WorldModel)
    space = macro_space(2)
    tried = torch.rand(500, 2, generator=generator) * 2 * space.radius + space.low
    moved = model.step(model.encode(below[:500, 0]), tried)["latent"] - below[:500, 0]
    assert moved.abs().max() < 4.5


def test_what_is_charged_above_for_actions_is_not_charged_below():
    states = TensorDict({"latent": torch.ones(2, 3, 4, 1)}, [2, 3, 4])
    goal = TensorDict({"latent": torch.full((3, 1), 10.0)}, [3])
    energy = SeenFromAbove(Line(40.0, 10.0), GoalDistance(goal) + ActionEffort())
    assert energy(states, torch.full((2, 3, 4, 1), 2.0)).tolist() == [[0.0] * 3] * 2
