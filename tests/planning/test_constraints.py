"""The augmented Lagrangian on problems whose constrained optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from tensordict import TensorDict

from jepa.planning.cem import CEM
from jepa.planning.constraints import Constrained, StateConstraint
from jepa.planning.energies import ActionEffort, ComposableEnergy
from jepa.planning.gradient import GradientPlanner
from jepa.planning.planner import unroll
from jepa.planning.protocols import ActionSpace, Planner

BOX = ActionSpace(torch.full((2,), -3.0), torch.full((2,), 3.0))


class Walk:
    """A point that goes where it is told."""

    def encode(self, observation):
        return TensorDict({"latent": observation}, batch_size=[len(observation)])

    def step(self, state, action):
        return TensorDict({"latent": state["latent"] + action}, batch_size=state.batch_size)

    def rollout(self, state, actions):
        return unroll(self.step, state, actions)


class SquaredDistance(ComposableEnergy):
    def __init__(self, goal):
        self.goal = goal

    def __call__(self, states, actions):
        return (states["latent"][..., -1, :] - self.goal).square().sum(-1)


def planned(planner, start, goal, seed=0, **numbers):
    energy = SquaredDistance(goal) + 1.0 * ActionEffort()
    state = Walk().encode(start)
    generator = torch.Generator().manual_seed(seed)
    return planner.plan(Walk(), state, energy, BOX, None, generator, **numbers)


ADAM = GradientPlanner(horizon=1, restarts=2, iterations=150, learning_rate=0.05)


def test_a_halfspace_the_optimum_and_the_multiplier_are_those_of_the_closed_form():
    """min |a - g|^2 + |a|^2 with a_x <= c: a = (min(g_x / 2, c), g_y / 2), and the multiplier of
    an active constraint is 2 g_x - 4 c."""
    goal, bounds = torch.tensor([[2.0, 1.0], [0.4, -2.0]]), torch.tensor([[0.3], [0.5]])
    constraint = StateConstraint(excess=lambda states: states["latent"][..., 0] - bounds)
    start = torch.zeros(2, 2)
    wanted = torch.tensor([[0.3, 0.5], [0.2, -1.0]])
    plan = planned(Constrained(planner=ADAM, constraints=[constraint]), start, goal)
    assert torch.allclose(plan.actions[:, 0], wanted, atol=5e-3)
    least = (wanted - goal).square().sum(-1) + wanted.square().sum(-1)
    assert torch.allclose(plan.energy, least, atol=2e-2)
    assert (plan.diagnostics["excess"][-1] <= 1e-3).all()
    penalty = planned(Constrained(planner=ADAM, constraints=[constraint], rounds=1), start, goal)
    assert penalty.actions[0, 0, 0] > 0.3 + 0.05
    states = Walk().rollout(Walk().encode(start), plan.actions)
    held = constraint
    for _ in range(8):
        total = SquaredDistance(goal) + ActionEffort() + held
        found = ADAM.plan(
            Walk(), Walk().encode(start), total, BOX, None, torch.Generator().manual_seed(0)
        )
        states = Walk().rollout(Walk().encode(start), found.actions)
        held = held.tightened(states, 1.0)
    assert held.multiplier is not None
    assert torch.allclose(held.multiplier[:, 0], torch.tensor([2.8, 0.0]), atol=2e-2)


CENTRE, RADIUS = torch.tensor([1.0, 0.1]), 0.5


def inside(states):
    """How deep in the obstacle."""
    return RADIUS - (states["latent"] - CENTRE).norm(dim=-1)


@pytest.mark.parametrize(
    "planner",
    [
        GradientPlanner(horizon=4, restarts=4, iterations=150, learning_rate=0.03),
        CEM(horizon=4, samples=256, iterations=20, elites=24, min_std=0.002),
    ],
)
def test_around_an_obstacle_as_scipy_goes(planner: Planner):
    start, goal = torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [-1.0, 0.5]])
    constrained = Constrained(planner=planner, constraints=[StateConstraint(excess=inside)])
    plan = planned(constrained, start, goal)
    path = Walk().rollout(Walk().encode(start), plan.actions)
    assert (inside(path) <= 1e-3 + 1e-6).all()
    for b in range(2):
        target = goal[b].double().numpy()

        def cost(u, target=target):
            steps = u.reshape(4, 2)
            return ((steps.sum(0) - target) ** 2).sum() + (steps**2).sum() / 4

        def room(u):
            gaps = u.reshape(4, 2).cumsum(0) - CENTRE.double().numpy()
            return (gaps**2).sum(1) - RADIUS**2

        least = min(
            scipy.optimize.minimize(
                cost, first, constraints={"type": "ineq", "fun": room}, method="SLSQP"
            ).fun
            for first in np.random.default_rng(0).normal(size=(12, 8))
        )
        assert plan.energy[b].item() == pytest.approx(least, rel=0.02, abs=5e-3)


def test_a_batch_is_constrained_as_its_environments_are_one_by_one():
    start, goal = torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [2.0, 0.6]])
    planner = Constrained(
        planner=CEM(horizon=4, samples=32, iterations=4, elites=6),
        constraints=[StateConstraint(excess=inside)],
        rounds=3,
    )

    def plan(rows):
        return planner.plan(
            Walk(),
            Walk().encode(start[rows]),
            SquaredDistance(goal[rows]) + ActionEffort(),
            BOX,
            None,
            [torch.Generator().manual_seed(b) for b in rows],
        )

    together = plan([0, 1])
    for b in range(2):
        assert torch.allclose(plan([b]).actions[0], together.actions[b], atol=1e-5)


def test_where_no_plan_is_allowed_the_least_excess_wins():
    """Of a constraint that cannot hold, the plan that breaks it least is given."""
    far = StateConstraint(excess=lambda states: 5.0 - states["latent"][..., 0], penalty=0.1)
    planner = Constrained(planner=ADAM, constraints=[far], rounds=5)
    plan = planned(planner, torch.zeros(1, 2), torch.zeros(1, 2))
    assert plan.actions[0, 0, 0] <= 3.0
    path = Walk().rollout(Walk().encode(torch.zeros(1, 2)), plan.actions)
    excess = plan.diagnostics["excess"]
    assert far.excess(path).item() == pytest.approx(excess.min().item(), abs=1e-5)
    assert excess[0] > excess.min() + 0.1


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="penalty must be positive"):
        StateConstraint(excess=inside, penalty=0.0)
    with pytest.raises(ValueError, match="need a constraint"):
        Constrained(planner=ADAM, constraints=[])
