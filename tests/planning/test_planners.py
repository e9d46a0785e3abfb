"""Planners against closed forms, scipy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from tensordict import TensorDict

from jepa.planning.cem import CEM
from jepa.planning.energies import ActionEffort, ComposableEnergy, GoalDistance
from jepa.planning.gradient import GradientPlanner
from jepa.planning.planner import shifted, unroll
from jepa.planning.protocols import ActionSpace

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


CEM_FINE = CEM(horizon=H, samples=256, iterations=40, elites=24, min_std=0.001)
ADAM_FINE = GradientPlanner(horizon=H, restarts=3, iterations=120, learning_rate=0.06)


@pytest.mark.parametrize("planner", [CEM_FINE, ADAM_FINE])
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


PLANNERS = [
    CEM(horizon=H, samples=32, iterations=3, elites=6, correlation=0.5),
    GradientPlanner(horizon=H, restarts=4, iterations=6),
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
    plan = planner.plan(Linear(), state, energy, box(5.0), warm, generator)
    known = energy(Linear().rollout(state, warm), warm)
    assert (plan.energy <= known + 1e-5).all()
    plan = planner.plan(Linear(), state, energy, box(0.1), warm * 100, generator)
    assert plan.actions.abs().max() <= 0.1 + 1e-7
    with pytest.raises(ValueError, match="warm_start must be"):
        planner.plan(Linear(), state, energy, box(1.0), warm[:, 1:], generator)


def test_chunks_change_nothing():
    state, _, energy = problem()
    plans = [
        CEM(horizon=H, samples=30, iterations=2, elites=5, chunk=chunk).plan(
            Linear(), state, energy, box(1.0), None, torch.Generator().manual_seed(0)
        )
        for chunk in (None, 1, 7, 1000)
    ]
    assert all(torch.allclose(plan.actions, plans[0].actions, atol=1e-6) for plan in plans)


def test_coloured_noise_has_the_stated_correlation():
    root = CEM(horizon=H, correlation=0.8)._colour(torch.zeros(1, H, A))
    wanted = 0.8 ** torch.tensor([[abs(i - j) for j in range(H)] for i in range(H)])
    assert torch.allclose(root @ root.T, wanted, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "mean_l1"])
@pytest.mark.parametrize("steps", ["last", "all"])
def test_energies_against_loops_and_with_sample_dimensions(norm, steps):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 3, H, 2, generator=generator)
    actions = torch.randn(4, 3, H, A, generator=generator)
    goal = torch.randn(3, 2, generator=generator)
    states = TensorDict({"latent": latents}, batch_size=[4, 3, H])
    distance = GoalDistance(TensorDict({"latent": goal}, batch_size=[3]), norm=norm, steps=steps)
    found = (0.7 * distance + ActionEffort() * 0.1)(states, actions)
    for s in range(4):
        for b in range(3):
            gaps = (latents[s, b] - goal[b]).double().numpy()
            lengths = np.linalg.norm(gaps, ord=2 if norm == "l2" else 1, axis=1)
            lengths /= gaps.shape[1] if norm == "mean_l1" else 1
            away = lengths[-1] if steps == "last" else lengths.mean()
            effort = (actions[s, b].double().numpy() ** 2).sum() / H
            assert found[s, b].item() == pytest.approx(0.7 * away + 0.1 * effort, rel=1e-5)
    alone = (0.7 * distance + ActionEffort() * 0.1)(states[0], actions[0])
    assert torch.allclose(alone, found[0])


@pytest.mark.parametrize("norm", ["l1", "l2", "mean_l1"])
def test_the_distance_of_token_grids_is_over_all_of_their_numbers(norm):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 3, H, 6, 2, generator=generator)
    goal = torch.randn(3, 6, 2, generator=generator)
    flat, grid = (
        GoalDistance(TensorDict({"latent": g}, batch_size=[3]), norm=norm)(
            TensorDict({"latent": t}, batch_size=[4, 3, H]), torch.zeros(4, 3, H, A)
        )
        for g, t in ((goal.flatten(1), tokens.flatten(3)), (goal, tokens))
    )
    assert torch.equal(flat, grid)
    mean = (tokens[:, :, -1] - goal).abs().mean(dim=(2, 3))
    assert norm != "mean_l1" or torch.allclose(grid, mean)


def test_shifted_drops_the_first_and_holds_the_last():
    actions = torch.arange(6.0).reshape(1, 3, 2)
    assert shifted(actions).tolist() == [[[2, 3], [4, 5], [4, 5]]]


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="elites must be between"):
        CEM(samples=4, elites=5)
    with pytest.raises(ValueError, match="correlation"):
        CEM(correlation=1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        GradientPlanner(learning_rate=0.0)
    with pytest.raises(ValueError, match="finite low < high"):
        ActionSpace(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="one generator"):
        CEM(horizon=H).plan(
            Linear(), problem()[0], problem()[2], box(1.0), None, [torch.Generator()]
        )
