"""Mode 1 against the optimum of linear-quadratic control (Riccati's recursion, float64)."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader

from jepa import seeds
from jepa.planning.cem import CEM
from jepa.planning.dynamics import Dynamics, LatentWorldModel
from jepa.planning.energies import ComposableEnergy
from jepa.planning.levels import SameLatent
from jepa.planning.memory import RememberedWindows, ShortTermMemory
from jepa.planning.policy import GoalPolicy, Imitation, imagined_actions, planned_actions
from jepa.planning.protocols import ActionSpace

SPACE = ActionSpace(torch.full((2,), -2.0), torch.full((2,), 2.0))
DRIFT = torch.tensor([[1.0, 0.2], [-0.2, 0.9]])
EFFORT, HORIZON = 0.5, 4


class Linear(Dynamics):
    """z' = DRIFT z + a."""

    def step(self, state, action):
        return TensorDict({"latent": state["latent"] @ DRIFT.T + action}, state.batch_size)


MODEL = LatentWorldModel(embedding=SameLatent(2), dynamics=Linear())


class Quadratic(ComposableEnergy):
    """Sum over the plan of |z - goal|^2 + EFFORT |a|^2."""

    def __init__(self, goal):
        self.goal = goal["latent"].unsqueeze(1)

    def __call__(self, states, actions):
        away = (states["latent"] - self.goal).square().sum(-1)
        return (away + EFFORT * actions.square().sum(-1)).sum(-1)


def gain():
    """K of the optimal first action a = -K z, of HORIZON steps."""
    A, P = DRIFT.double().numpy(), np.zeros((2, 2))
    for _ in range(HORIZON):
        M = P + np.eye(2)
        K = np.linalg.solve(M + EFFORT * np.eye(2), M @ A)
        P = A.T @ M @ (A - K)
    return K


def test_imitation_of_plans_where_the_policy_goes_finds_the_optimum():
    planner = CEM(horizon=HORIZON, samples=64, iterations=4, elites=8, min_std=0.01)
    memory, draw = ShortTermMemory(4000), seeds.generator(0, "lqr")
    with seeds.weights(0, "policy"):
        policy = GoalPolicy(torch.ones(2), SPACE, hidden=32)
    goal = torch.zeros(100, 2)
    for turn in range(2):  # play, plan for what was seen, train, and play again
        state = Linear().start(2 * torch.rand(100, 2, generator=draw) - 1)
        for time in range(4):
            rows = TensorDict({"latent": state["latent"], "goal": goal}, [100])
            args = (planner, MODEL, Linear().start, Quadratic, SPACE, rows, draw)
            rows["planned"] = planned_actions(*args, batch=64)
            rows["episode"] = 100 * turn + torch.arange(100)
            rows["time"] = torch.full((100,), time)
            memory.write(rows)
            with torch.no_grad():
                state = Linear().step(state, policy(state["latent"], goal))
        loader = DataLoader(RememberedWindows(memory, batch_size=128, length=1), batch_size=None)
        lightning.Trainer(
            max_steps=200, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(Imitation(policy, learning_rate=3e-3), loader)  # fmt: skip
    latent = 2 * torch.rand(500, 2, generator=draw) - 1
    best = torch.from_numpy(-latent.double().numpy() @ gain().T)
    with torch.no_grad():
        found = policy(latent, torch.zeros(500, 2)).double()
    assert (best.abs() < 1.5).all()  # the bounds do not matter
    assert ((found - best).square().mean() / best.square().mean()).sqrt() < 0.1


def test_plans_of_rows_are_those_of_single_states():
    draw = torch.Generator().manual_seed(0)
    rows = TensorDict({"latent": torch.rand(5, 2, generator=draw), "goal": torch.zeros(5, 2)}, [5])
    planner = CEM(horizon=HORIZON, samples=256, iterations=12, elites=24, min_std=0.001)
    found = planned_actions(planner, MODEL, Linear().start, Quadratic, SPACE, rows, draw, batch=2)
    best = -rows["latent"].double().numpy() @ gain().T
    assert np.abs(found.double().numpy() - best).max() < 0.05


def test_imagined_actions_follow_the_policy_through_the_model():
    with seeds.weights(1, "policy"):
        policy = GoalPolicy(torch.tensor([0.5, 2.0]), SPACE, hidden=8)
    draw = torch.Generator().manual_seed(0)
    latent, goal = torch.randn(3, 2, generator=draw), torch.randn(3, 2, generator=draw)
    goals = TensorDict({"latent": goal}, [3])
    actions = imagined_actions(policy, MODEL, Linear().start(latent), goals, 4)
    for t in range(4):
        with torch.no_grad():
            wanted = policy(latent, goal)
        assert torch.allclose(actions[:, t], wanted)
        latent = latent @ DRIFT.T + wanted


def test_actions_stay_inside_any_box_and_discrete_ones_are_refused():
    space = ActionSpace(torch.tensor([-1.0, 3.0]), torch.tensor([0.0, 9.0]))
    policy = GoalPolicy(torch.ones(2), space, hidden=8)
    latent = 100 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actions = policy(latent, -latent)
    assert (actions >= space.low).all()
    assert (actions <= space.high).all()
    with pytest.raises(ValueError, match="discrete"):
        GoalPolicy(torch.ones(2), ActionSpace.one_of(3))
