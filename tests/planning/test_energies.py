"""Energies against loops in float64, scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance as reference
import scipy.special
import torch
from tensordict import TensorDict

from jepa.planning.distances import DISTANCES
from jepa.planning.energies import ActionEffort, ActionSmoothness, GoalDistance
from jepa.planning.evaluation import energy_landscape
from jepa.planning.gradient import GradientPlanner
from jepa.planning.planner import unroll
from jepa.planning.protocols import ActionSpace
from jepa.planning.rewards import RewardModel, TerminalCritic
from jepa.planning.uncertain import Expected, Uncertainty

S, B, H, D, A = 4, 3, 5, 6, 2

TRUTH = {
    "l2": reference.euclidean,
    "l1": reference.cityblock,
    "mean_l1": lambda a, b: np.abs(a - b).mean(),
    "smooth_l1": lambda a, b: scipy.special.huber(1.0, a - b).sum(),
    "cosine": reference.cosine,
}


def future(*entry, seed=0):
    """Imagined states of random latents, their actions, and a goal."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(S, B, H, *(entry or (D,)), generator=generator)
    actions = torch.randn(S, B, H, A, generator=generator)
    goal = torch.randn(B, *(entry or (D,)), generator=generator)
    states = TensorDict({"latent": latents}, batch_size=[S, B, H])
    return states, actions, TensorDict({"latent": goal}, batch_size=[B])


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize(
    ("steps", "discount"), [("last", 1.0), ("all", 1.0), ("all", 0.8), ("closest", 1.0)]
)
def test_goal_distances_and_sums_against_loops(norm, steps, discount):
    states, actions, goal = future()
    distance = GoalDistance(goal, norm=norm, steps=steps, discount=discount)
    energy = 0.7 * distance + ActionEffort() * 0.1
    found, alone = energy(states, actions), energy(states[0], actions[0])
    assert torch.allclose(alone, found[0])
    z, g = states["latent"].double().numpy(), goal["latent"].double().numpy()
    for s in range(S):
        for b in range(B):
            gaps = [TRUTH[norm](z[s, b, t], g[b]) for t in range(H)]
            weights = discount ** np.arange(H)
            away = {
                "last": gaps[-1], "closest": min(gaps), "all": np.average(gaps, weights=weights)
            }[steps]  # fmt: skip
            effort = (actions[s, b].double().numpy() ** 2).sum() / H
            assert found[s, b].item() == pytest.approx(0.7 * away + 0.1 * effort, rel=1e-5)


@pytest.mark.parametrize("norm", DISTANCES)
def test_the_distance_of_token_grids_is_over_all_of_their_numbers(norm):
    states, actions, goal = future(4, 2)
    found = GoalDistance(goal, norm=norm)(states, actions)
    for s in range(S):
        for b in range(B):
            here = states["latent"][s, b, -1].double().flatten().numpy()
            wanted = TRUTH[norm](here, goal["latent"][b].double().flatten().numpy())
            assert found[s, b].item() == pytest.approx(wanted, rel=1e-5)


def test_a_discount_of_the_last_step_alone_is_refused():
    with pytest.raises(ValueError, match='needs steps="all"'):
        GoalDistance(future()[2], discount=0.9)


def test_smoothness_counts_the_step_from_the_action_carried_out_last():
    states, actions, _ = future()
    last = torch.randn(B, A, generator=torch.Generator().manual_seed(1))
    inside, joined = (
        ActionSmoothness(given)(states, actions).double().numpy() for given in (None, last)
    )
    for s in range(S):
        for b in range(B):
            rows = actions[s, b].double().numpy()
            changes = [((rows[t + 1] - rows[t]) ** 2).sum() for t in range(H - 1)]
            assert inside[s, b] == pytest.approx(np.mean(changes), rel=1e-5)
            changes.append(((rows[0] - last[b].double().numpy()) ** 2).sum())
            assert joined[s, b] == pytest.approx(np.mean(changes), rel=1e-5)
    one = ActionSmoothness()(states[..., :1], actions[..., :1, :])
    assert (one == 0).all()


def test_uncertainty_sums_an_entry_and_is_its_mean_over_the_plan():
    states, actions, _ = future()
    generator = torch.Generator().manual_seed(2)
    states["disagreement"] = torch.rand(S, B, H, generator=generator)
    states["variance"] = torch.rand(S, B, H, D, generator=generator)
    found = Uncertainty()(states, actions)
    assert torch.allclose(found, states["disagreement"].mean(-1))
    found = Uncertainty("variance")(states, actions)
    assert torch.allclose(found, states["variance"].sum(-1).mean(-1))


def test_the_expected_distance_is_not_the_distance_of_the_mean():
    states, actions, goal = future()
    away = torch.zeros(D)
    away[0] = 2.0
    cloud = torch.stack([goal["latent"] + away, goal["latent"] - away], dim=1)  # [B, 2, D]
    states["latent"] = goal["latent"][:, None].expand(S, B, H, D)
    states["particles"] = cloud[:, None].expand(S, B, H, 2, D)
    energy = GoalDistance(goal, steps="all")
    assert torch.allclose(energy(states, actions), torch.zeros(S, B), atol=1e-6)
    assert torch.allclose(Expected(energy)(states, actions), torch.full((S, B), 2.0))


@pytest.mark.parametrize("trailing", [False, True])
def test_rewards_are_discounted_and_end_with_the_episode(trailing):
    states, actions, _ = future()

    def shaped(values):
        return values.unsqueeze(-1) if trailing else values

    energy = RewardModel(
        lambda z, a: shaped(z[..., 0] * a[..., 1]),
        continues=lambda z: shaped(z[..., 1].sigmoid()),
        discount=0.9,
    )
    found = energy(states, actions)
    z, a = states["latent"].double().numpy(), actions.double().numpy()
    for s in range(S):
        for b in range(B):
            total, weight = 0.0, 1.0
            for t in range(H):
                total += weight * z[s, b, t, 0] * a[s, b, t, 1]
                weight *= 0.9 / (1 + np.exp(-z[s, b, t, 1]))
            assert found[s, b].item() == pytest.approx(-total, rel=1e-4, abs=1e-6)


STEP = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
PUSH = torch.tensor([[0.0], [0.2]])


class DoubleIntegrator:
    """Position and velocity, pushed."""

    def encode(self, observation):
        return TensorDict({"latent": observation}, batch_size=[len(observation)])

    def step(self, state, action):
        latent = state["latent"] @ STEP.T + action @ PUSH.T
        return TensorDict({"latent": latent}, batch_size=state.batch_size)

    def rollout(self, state, actions):
        return unroll(self.step, state, actions)


def test_with_the_true_cost_to_go_a_short_plan_begins_as_the_best_endless_one():
    """Linear-quadratic control: scipy's Riccati solution is the critic, and its gain the truth."""
    state_cost, effort = np.eye(2), 0.1 * np.eye(1)
    step, push = STEP.double().numpy(), PUSH.double().numpy()
    to_go = scipy.linalg.solve_discrete_are(step, push, state_cost, effort)
    gain = np.linalg.solve(effort + push.T @ to_go @ push, push.T @ to_go @ step)
    rest = torch.as_tensor(to_go - state_cost).float()

    # The cost of the state reached is in the reward, so that the critic is of what comes after it.
    paid = RewardModel(lambda z, a: -z.square().sum(-1) - 0.1 * a.square().sum(-1))
    critic = TerminalCritic(lambda z: torch.einsum("...i,ij,...j->...", z, rest, z))
    start = torch.tensor([[1.0, 0.0], [-0.5, 0.8]])
    state = DoubleIntegrator().encode(start)
    space = ActionSpace(torch.tensor([-10.0]), torch.tensor([10.0]))

    def first_action(energy, horizon):
        planner = GradientPlanner(horizon=horizon, restarts=1, iterations=400, learning_rate=0.05)
        plan = planner.plan(
            DoubleIntegrator(), state, energy, space, None, torch.Generator().manual_seed(0)
        )
        return plan.actions[:, 0, 0].double().numpy()

    best = -(start.double().numpy() @ gain.T)[:, 0]
    assert first_action(paid + critic, 2) == pytest.approx(best, abs=0.02)
    assert abs(first_action(paid, 2)[0] - best[0]) > 1


def test_landscapes_over_any_two_numbers_of_a_plan():
    state = DoubleIntegrator().encode(torch.tensor([[1.0, 0.0], [-0.5, 0.8]]))
    goal = GoalDistance(DoubleIntegrator().encode(torch.zeros(2, 2))) + 0.3 * ActionEffort()
    space = ActionSpace(torch.tensor([-1.0]), torch.tensor([2.0]))
    plans = torch.full((2, 4, 1), 0.25)
    found = energy_landscape(
        DoubleIntegrator(), state, goal, plans, space, resolution=4, across=(3, 0), up=(1, 0)
    )
    assert found.shape == (2, 4, 4)
    ticks = torch.linspace(-1, 2, 4)
    for u in range(4):
        for a in range(4):
            one = plans.clone()
            one[:, 3, 0], one[:, 1, 0] = ticks[a], ticks[u]
            wanted = goal(DoubleIntegrator().rollout(state, one), one)
            assert torch.allclose(found[:, u, a], wanted, atol=1e-6)
    with pytest.raises(ValueError, match="two different numbers"):
        energy_landscape(DoubleIntegrator(), state, goal, plans, space, across=(0, 0), up=(0, 0))
