"""Planning with discrete actions against brute force."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from jepa.planning.categorical_cem import CategoricalCEM
from jepa.planning.energies import ComposableEnergy
from jepa.planning.planner import unroll
from jepa.planning.protocols import ActionSpace


class Squared(ComposableEnergy):
    def __init__(self, goal):
        self.goal = goal

    def __call__(self, states, actions):
        return (states["latent"][..., -1, :] - self.goal).square().sum(-1)


class Counter:
    """The latent adds up the numbers of the discrete actions taken, times the step's weight."""

    def encode(self, observation):
        return TensorDict({"latent": observation}, batch_size=[len(observation)])

    def rollout(self, state, actions):
        return unroll(self.step, state, actions)

    def step(self, state, action):
        taken = action @ torch.arange(action.shape[-1], dtype=action.dtype)
        latent = 1.7 * state["latent"] + taken[:, None] - 1
        return TensorDict({"latent": latent}, batch_size=state.batch_size)


def test_discrete_plans_are_the_best_of_all_sequences():
    count, horizon = 3, 4
    state = Counter().encode(torch.tensor([[0.3], [-0.4]]))
    energy = Squared(torch.tensor([[3.21], [-2.1]]))
    grid = torch.cartesian_prod(*[torch.arange(count)] * horizon)
    every = torch.nn.functional.one_hot(grid, count).float()
    planner = CategoricalCEM(horizon=horizon, samples=64, iterations=8, elites=8)
    space = ActionSpace.one_of(count)
    plan = planner.plan(Counter(), state, energy, space, None, torch.Generator().manual_seed(0))
    for b in range(2):
        states = Counter().rollout(state[b : b + 1].expand(len(every)), every)
        least = (states["latent"][:, -1] - energy.goal[b]).square().sum(-1).min()
        assert plan.energy[b].item() == pytest.approx(least.item(), abs=1e-5)
    assert torch.equal(plan.actions.sum(dim=-1), torch.ones(2, horizon))
    assert ((plan.actions == 0) | (plan.actions == 1)).all()
    again = planner.plan(
        Counter(), state, energy, space, plan.later(), torch.Generator().manual_seed(1)
    )
    assert again.actions.shape == plan.actions.shape
    alone = [
        planner.plan(
            Counter(), state[[b]], Squared(energy.goal[[b]]), space, None,
            [torch.Generator().manual_seed(b)],
        )
        for b in range(2)
    ]  # fmt: skip
    both = planner.plan(
        Counter(), state, energy, space, None, [torch.Generator().manual_seed(b) for b in range(2)]
    )
    assert torch.equal(both.actions, torch.cat([one.actions for one in alone]))
    box = ActionSpace(-torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="discrete actions"):
        planner.plan(Counter(), state, energy, box, None, torch.Generator())
