"""Planners against closed forms, scipy and brute force."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import gymnasium
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
import torch
from tensordict import TensorDict

from jepa.planning.agent import PlanningAgent, RandomAgent, action_space_of
from jepa.planning.categorical_cem import CategoricalCEM
from jepa.planning.cem import CEM
from jepa.planning.energies import ActionEffort, ComposableEnergy, GoalDistance
from jepa.planning.gradient import GradientPlanner
from jepa.planning.hybrid import Hybrid
from jepa.planning.icem import ICEM
from jepa.planning.mppi import MPPI
from jepa.planning.planner import score, unroll
from jepa.planning.protocols import ActionSpace, Plan, Planner, WarmStart
from jepa.planning.shooting import RandomShooting

H, A = 5, 2
STEP = torch.tensor([[1.0, 0.1], [0.0, 0.9]])
PUSH = torch.tensor([[0.5, 0.0], [0.2, 0.4]])
EFFORT = 0.3


class Linear:
    """z' = STEP z + PUSH a."""

    def encode(self, observation):
        return TensorDict({"latent": observation}, batch_size=[len(observation)])

    def step(self, state, action):
        latent = state["latent"] @ STEP.T + action @ PUSH.T
        return TensorDict({"latent": latent}, batch_size=state.batch_size)

    def rollout(self, state, actions):
        return unroll(self.step, state, actions)


class SquaredDistance(ComposableEnergy):
    def __init__(self, goal):
        self.goal = goal

    def __call__(self, states, actions):
        return (states["latent"][..., -1, :] - self.goal).square().sum(-1)


def box(size):
    return ActionSpace(torch.full((A,), -size), torch.full((A,), size))


def problem(batch=3):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(batch, 2, generator=generator)
    goal = torch.randn(batch, 2, generator=generator) * 2
    return Linear().encode(start), goal, SquaredDistance(goal) + EFFORT * ActionEffort()


def quadratic(start, goal):
    """Energy = |G u - r|^2 + EFFORT/H |u|^2 in the stacked actions u, in float64."""
    step, push = STEP.double().numpy(), PUSH.double().numpy()
    powers = [np.linalg.matrix_power(step, H - 1 - t) @ push for t in range(H)]
    G = np.concatenate(powers, axis=1)
    return G, goal - np.linalg.matrix_power(step, H) @ start


def optimum(start, goal, size):
    """Closed form without active bounds, scipy's bounded least squares with them."""
    G, r = quadratic(start, goal)
    tall = np.concatenate([G, np.sqrt(EFFORT / H) * np.eye(H * A)])
    wanted = np.concatenate([r, np.zeros(H * A)])
    u = np.linalg.solve(tall.T @ tall, tall.T @ wanted)
    if abs(u).max() > size:
        u = scipy.optimize.lsq_linear(tall, wanted, (-size, size), tol=1e-12).x
    return u.reshape(H, A), float(((tall @ u - wanted) ** 2).sum())


CEM_FINE = CEM(horizon=H, samples=384, iterations=40, elites=36, min_std=0.001)
ICEM_FINE = ICEM(horizon=H, samples=128, iterations=30, elites=24, min_std=0.0)
ADAM_FINE = GradientPlanner(horizon=H, restarts=3, iterations=120, learning_rate=0.06)
MPPI_FINE = MPPI(
    horizon=H, samples=256, iterations=100, elites=64, temperature=0.02, adapt=0.2, min_std=0.01
)
HYBRID_FINE = Hybrid(first=CEM(horizon=H, elites=12, iterations=2), then=ADAM_FINE)


@pytest.mark.parametrize("planner", [CEM_FINE, ICEM_FINE, MPPI_FINE, ADAM_FINE, HYBRID_FINE])
@pytest.mark.parametrize("size", [5.0, 0.3])
def test_linear_quadratic_optimum(planner, size):
    state, goal, energy = problem()
    generator = torch.Generator().manual_seed(0)
    plan = planner.plan(Linear(), state, energy, box(size), None, generator)
    for i in range(3):
        actions, least = optimum(
            state["latent"][i].double().numpy(), goal[i].double().numpy(), size
        )
        assert plan.energy[i].item() == pytest.approx(least, rel=0.01, abs=1e-3)
        assert np.abs(plan.actions[i].numpy() - actions).max() < 0.03 * size + 0.02
    assert plan.actions.abs().max() <= size


SAMPLING: list[Planner] = [
    CEM(horizon=H, samples=32, iterations=3, elites=6, correlation=0.5),
    ICEM(horizon=H, samples=32, iterations=3, elites=6, decay=1.25),
    MPPI(horizon=H, samples=32, iterations=3, beta=1.0),
]
PLANNERS: list[Planner] = [
    *SAMPLING,
    RandomShooting(horizon=H, samples=64),
    GradientPlanner(horizon=H, restarts=4, iterations=6),
    Hybrid(first=SAMPLING[1], then=GradientPlanner(horizon=H, restarts=8, iterations=4)),
]


@pytest.mark.parametrize("planner", PLANNERS)
def test_same_generator_same_plan_and_energy_is_that_of_the_actions(planner):
    state, _, energy = problem()
    plans = [
        planner.plan(Linear(), state, energy, box(1.0), None, torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert torch.equal(plans[0].actions, plans[1].actions)
    assert not torch.equal(plans[0].actions, plans[2].actions)
    again = energy(Linear().rollout(state, plans[0].actions), plans[0].actions)
    assert torch.allclose(again, plans[0].energy, atol=1e-5)
    trace = plans[0].diagnostics["energy"]
    assert (trace.diff(dim=0) <= 0).all()
    assert torch.equal(trace[-1], plans[0].energy)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_batch_plans_what_its_environments_plan_one_by_one(planner):
    state, goal, energy = problem()

    def generators(numbers):
        return [torch.Generator().manual_seed(n) for n in numbers]

    together = planner.plan(Linear(), state, energy, box(1.0), None, generators(range(3)))
    for i in range(3):
        alone = planner.plan(
            Linear(),
            state[i : i + 1],
            SquaredDistance(goal[i : i + 1]) + EFFORT * ActionEffort(),
            box(1.0),
            None,
            generators([i]),
        )
        assert torch.allclose(alone.actions[0], together.actions[i], atol=1e-5)


class Poisoned(ComposableEnergy):
    """Not finite where the first action is positive, and for all of the second environment."""

    def __init__(self, energy, value):
        self.energy, self.value = energy, value

    def __call__(self, states, actions):
        wrong = actions[..., 0, 0] > 0
        wrong = wrong | (torch.arange(wrong.shape[-1]) == 1)
        return torch.where(wrong, self.value, self.energy(states, actions))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("planner", PLANNERS)
def test_energies_that_are_not_finite_never_win(planner, value):
    state, _, energy = problem()
    generator = torch.Generator().manual_seed(0)
    plan = planner.plan(Linear(), state, Poisoned(energy, value), box(1.0), None, generator)
    assert plan.actions.isfinite().all()
    assert (plan.actions[[0, 2], 0, 0] <= 0).all()
    assert plan.energy[[0, 2]].isfinite().all()
    assert plan.energy[1] == torch.inf
    assert (plan.actions.abs() <= 1).all()


class BrokenModel(Linear):
    """Foresees NaN for large actions, so that gradients are NaN as well."""

    def step(self, state, action):
        after = super().step(state, action)
        after["latent"] = after["latent"] + (0.8 - action.abs().amax(-1, keepdim=True)).sqrt() * 0
        return after


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_model_that_breaks_down_is_avoided(planner):
    state, _, energy = problem()
    plan = planner.plan(
        BrokenModel(), state, energy, box(1.0), None, torch.Generator().manual_seed(0)
    )
    assert plan.energy.isfinite().all()
    assert plan.actions.abs().max() <= 0.8


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_warm_start_is_a_candidate_and_is_put_inside_the_bounds(planner):
    state, goal, energy = problem()
    best = np.stack(
        [
            optimum(state["latent"][i].double().numpy(), goal[i].double().numpy(), 5.0)[0]
            for i in range(3)
        ]
    )
    warm = torch.as_tensor(best, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    plan = planner.plan(Linear(), state, energy, box(5.0), WarmStart(warm), generator)
    known = energy(Linear().rollout(state, warm), warm)
    assert (plan.energy <= known + 1e-5).all()
    elsewhere = WarmStart(-warm, candidates=torch.stack([warm * 1.5, warm]))
    plan = planner.plan(Linear(), state, energy, box(5.0), elsewhere, generator)
    assert (plan.energy <= known + 1e-5).all()
    outside = WarmStart(warm * 100, candidates=warm[None] * 100)
    plan = planner.plan(Linear(), state, energy, box(0.1), outside, generator)
    assert plan.actions.abs().max() <= 0.1 + 1e-7
    with pytest.raises(ValueError, match="warm_start must have actions"):
        planner.plan(Linear(), state, energy, box(1.0), WarmStart(warm[:, 1:]), generator)


@pytest.mark.parametrize("planner", [*SAMPLING, RandomShooting(horizon=H, samples=30)])
def test_chunks_change_nothing(planner):
    state, _, energy = problem()
    plans = [
        replace(planner, chunk=chunk).plan(
            Linear(), state, energy, box(1.0), None, torch.Generator().manual_seed(0)
        )
        for chunk in (None, 1, 7, 1000)
    ]
    assert all(torch.allclose(plan.actions, plans[0].actions, atol=1e-6) for plan in plans)


class Slow(Linear):
    """Counts its rollouts, and takes its time."""

    calls = 0

    def rollout(self, state, actions):
        self.calls += 1
        time.sleep(0.02)
        return super().rollout(state, actions)


@pytest.mark.parametrize(
    "planner", [*SAMPLING, GradientPlanner(horizon=H, restarts=2, iterations=1000)]
)
def test_a_time_budget_ends_the_search_and_the_plan_is_whole(planner):
    state, _, energy = problem()
    model, generator = Slow(), torch.Generator().manual_seed(0)
    hurried = replace(planner, iterations=1000, seconds=0.05)
    plan = hurried.plan(model, state, energy, box(1.0), None, generator)
    assert 1 <= model.calls <= 6  # on a busy machine the first may take all of the time
    again = energy(Linear().rollout(state, plan.actions), plan.actions)
    assert torch.allclose(again, plan.energy, atol=1e-5)


def test_gradients_stop_when_nothing_is_gained():
    state, _, energy = problem()
    patient = GradientPlanner(horizon=H, restarts=2, iterations=1000, patience=5, tolerance=1e-3)
    plan = patient.plan(Linear(), state, energy, box(1.0), None, torch.Generator().manual_seed(0))
    trace = plan.diagnostics["energy"]
    assert 10 < len(trace) < 300
    gained = (trace[-6] - trace[-1]) / trace[-6].abs()
    assert (gained <= 1e-3).all()
    before = (trace[-7] - trace[-2]) / trace[-7].abs()
    assert (before > 1e-3).any()


def test_plans_are_carried_one_step_later():
    actions = torch.arange(6.0).reshape(1, 3, 2)
    plan = Plan(actions, torch.zeros(1), std=actions + 10, candidates=actions[None] + 20)
    start = plan.later(keep_std=True)
    later = torch.tensor([[[2.0, 3.0], [4.0, 5.0], [4.0, 5.0]]])
    assert torch.equal(start.actions, later)
    assert start.std is not None
    assert torch.equal(start.std, later + 10)
    assert start.candidates is not None
    assert torch.equal(start.candidates, later[None] + 20)
    assert plan.later().std is None


def test_the_deviation_of_a_warm_start_is_where_the_search_begins():
    state, _, energy = problem()
    narrow = WarmStart(torch.zeros(3, H, A), std=torch.full((3, H, A), 1e-4))
    for planner in SAMPLING:
        one = replace(planner, iterations=1)
        plan = one.plan(Linear(), state, energy, box(1.0), narrow, torch.Generator().manual_seed(0))
        assert 0 < plan.actions.abs().max() < 1e-3


def test_energies_of_each_step_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    state = problem()[0]
    actions = torch.zeros(5, len(state), H, A)

    def each_step(states, actions):
        return actions.square().sum(dim=-1)

    for chunk in (None, 4):
        with pytest.raises(ValueError, match=rf"\[S, B\] = \[5, {len(state)}\]; got \[5, "):
            score(Linear(), state, each_step, actions, chunk)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="elites must be between"):
        CEM(samples=4, elites=5)
    with pytest.raises(ValueError, match="correlation"):
        CEM(correlation=1.0)
    with pytest.raises(ValueError, match="these are shares"):
        ICEM(keep=1.5)
    with pytest.raises(ValueError, match="decay >= 1"):
        ICEM(decay=0.5)
    with pytest.raises(ValueError, match="temperature > 0"):
        MPPI(temperature=0.0)
    with pytest.raises(ValueError, match="elites <= samples"):
        CategoricalCEM(samples=4, elites=5)
    with pytest.raises(ValueError, match="at least 1"):
        RandomShooting(samples=0)
    with pytest.raises(ValueError, match="patience counts steps"):
        GradientPlanner(patience=0)
    with pytest.raises(ValueError, match="learning_rate"):
        GradientPlanner(learning_rate=0.0)
    with pytest.raises(ValueError, match="finite low < high"):
        ActionSpace(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="one generator"):
        CEM(horizon=H).plan(
            Linear(), problem()[0], problem()[2], box(1.0), None, [torch.Generator()]
        )


BOX64 = gymnasium.spaces.Box(np.array([-0.1, -0.3]), np.array([0.1, 0.7]), dtype=np.float64)
SMALL = {"horizon": 3, "samples": 16, "iterations": 2}


def agent_in(box, planner, **others):
    return PlanningAgent(
        world_model=Linear(),
        planner=planner,
        energy=GoalDistance,
        action_space=action_space_of(box),
        **others,
    )


def far_goals(copies=4):
    seen, goal = (np.full((copies, 2), value, np.float32) for value in (0.0, 50.0))
    return {"observation": seen, "desired_goal": goal}


@pytest.mark.parametrize(
    "planner",
    [
        CEM(**SMALL, elites=4),
        CEM(**SMALL, elites=4, correlation=0.5),
        ICEM(**SMALL, elites=4),
        MPPI(**SMALL),
        GradientPlanner(horizon=3, restarts=2, iterations=3),
        RandomShooting(horizon=3, samples=16),
        Hybrid(first=ICEM(**SMALL, elites=4), then=GradientPlanner(horizon=3, iterations=3)),
    ],
    ids=repr,
)
def test_boxes_in_float64_are_planned_in_and_never_left(planner):
    agent = agent_in(BOX64, planner)
    for _ in range(3):
        actions = agent.act(far_goals())
        assert all(BOX64.contains(action.astype(np.float64)) for action in actions)


@pytest.mark.parametrize(
    "planner", [CEM(), ICEM(), MPPI(), GradientPlanner(), RandomShooting(), Hybrid()]
)
def test_planners_in_a_box_do_not_mix_discrete_actions(planner):
    start, _, energy, *_ = problem()
    with pytest.raises(ValueError, match="take CategoricalCEM"):
        planner.plan(Linear(), start, energy, ActionSpace.one_of(A), None, torch.Generator())


def test_bounds_that_float32_has_are_kept_as_they_are():
    space = action_space_of(gymnasium.spaces.Box(-2.5, 0.1, (2,), np.float32))
    assert space.low.tolist() == [-2.5] * 2
    assert torch.equal(space.high, torch.tensor([0.1, 0.1]))


def test_actions_that_a_caller_changes_are_changed_for_the_caller_alone():
    planning = agent_in(BOX64, CEM(**SMALL, elites=4), repeat=2)
    random = RandomAgent(action_space=action_space_of(BOX64), repeat=2)
    for agent in (planning, random):
        first = agent.act(far_goals())
        kept = first.copy()
        first *= 10
        assert (agent.act(far_goals()) == kept).all()


def test_a_candidate_whose_gradient_is_lost_stays_where_it_is():
    class Breaks(ComposableEnergy):
        """Finite energies; from the third call on a gradient that is not a number."""

        calls = 0

        def __call__(self, states, actions):
            self.calls += 1
            energy = (actions - 1).square().sum(dim=(-1, -2))
            tried.append(actions.detach().clone())
            if self.calls > 2:
                energy = energy + (0 * actions.sum(dim=(-1, -2))).sqrt()
            return energy

    tried = []
    planner = GradientPlanner(horizon=H, restarts=1, iterations=6)
    planner.plan(Linear(), problem()[0], Breaks(), box(1.0), None, torch.Generator())
    moved = [not torch.equal(*pair) for pair in itertools.pairwise(tried)]
    assert moved == [True, True, False, False, False, False]
