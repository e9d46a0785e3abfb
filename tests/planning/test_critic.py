"""The critic against dynamic programming on a fine grid, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader

from jepa import seeds
from jepa.planning.critic import CriticTraining, GoalCritic
from jepa.planning.dynamics import Dynamics
from jepa.planning.intrinsic import Away, CostModule
from jepa.planning.memory import RememberedWindows, ShortTermMemory
from jepa.planning.pairs import Pairs
from jepa.planning.protocols import ActionSpace

DISCOUNT, WIDTH, STEP = 0.9, 0.1, 0.2


class Mud(Dynamics):
    """A line from 0 to 1; beyond its middle, steps are a quarter as long. A distance does not
    tell the time."""

    def step(self, state, action):
        z = state["latent"]
        pace = torch.where(z > 0.5, 0.25, 1.0)
        return TensorDict({"latent": (z + pace * action).clamp(0, 1)}, state.batch_size)


COST = CostModule(terms={"goal": lambda goal: Away(goal, width=WIDTH)}, discount=DISCOUNT)
SPACE = ActionSpace(torch.tensor([-STEP]), torch.tensor([STEP]))


def cost_of(goal):
    return COST.intrinsic(goal, {"goal": 1.0})


def wandered(episodes=200, times=12):
    """Memory of a random policy, towards random goals that it does not mind."""
    draw, memory = seeds.generator(0, "mud"), ShortTermMemory(episodes * times)
    state = TensorDict({"latent": torch.rand(episodes, 1, generator=draw)}, [episodes])
    goal = torch.rand(episodes, 1, generator=draw)
    for time in range(times):
        action = STEP * (2 * torch.rand(episodes, 1, generator=draw) - 1)
        places = {
            "episode": torch.arange(episodes),
            "time": torch.full((episodes,), time),
        }
        entries = places | {"latent": state["latent"], "goal": goal, "action": action}
        memory.write(TensorDict(entries, [episodes]))
        state = Mud().step(state, action)
    return memory


def optimal(goal, points=401, actions=41):
    """Cost to go at points of the line, by value iteration with linear interpolation."""
    z = np.linspace(0, 1, points)
    tried = np.linspace(-STEP, STEP, actions)
    after = np.clip(z[:, None] + np.where(z > 0.5, 0.25, 1.0)[:, None] * tried, 0, 1)
    cost = 1 - np.exp(-((after - goal) ** 2) / (2 * WIDTH**2))
    value = np.zeros(points)
    for _ in range(200):
        value = (cost + DISCOUNT * np.interp(after, z, value)).min(axis=1)
    return z, value


def test_the_critic_of_random_experience_is_that_of_dynamic_programming():
    memory = wandered()
    with seeds.weights(0, "critic"):
        critic = GoalCritic(torch.full((1,), 0.3), hidden=64)
    training = CriticTraining(
        critic, Mud(), cost_of, SPACE, candidates=48, momentum=0.9, learning_rate=2e-3
    )
    loader = DataLoader(RememberedWindows(memory, batch_size=128, length=8), batch_size=None)
    lightning.Trainer(
        max_steps=500, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    ).fit(training, loader)  # fmt: skip
    errors, spread = [], []
    for goal in (0.1, 0.3, 0.5, 0.8, 0.95):
        z, value = optimal(goal)
        here = torch.as_tensor(z[:, None], dtype=torch.float32)
        with torch.no_grad():
            said = critic(here, torch.full_like(here, goal)).double().numpy()
        errors.append(np.abs(said - value).mean())
        spread.append(value.std())
    assert np.mean(errors) < 0.18 * np.mean(spread), (errors, spread)
    slow = critic(torch.tensor([[0.7]]), torch.tensor([[0.95]]))
    fast = critic(torch.tensor([[0.1]]), torch.tensor([[0.35]]))
    assert slow > 1.5 * fast  # equally far


def test_targets_are_the_best_of_the_candidates():
    critic = GoalCritic(torch.ones(1), hidden=8)
    training = CriticTraining(critic, Mud(), cost_of, SPACE, candidates=5000, most=1.0)
    generator = torch.Generator().manual_seed(0)
    pairs = TensorDict(
        {
            "latent": torch.rand(6, 1, generator=generator),
            "goal": torch.rand(6, 1, generator=generator),
            "action": torch.zeros(6, 1),
        },
        batch_size=[6],
    )
    found = training.targets(pairs)
    for b in range(6):
        z, goal = pairs["latent"][b], pairs["goal"][b]
        tried = torch.linspace(-STEP, STEP, 2001)[:, None]
        pace = 0.25 if z > 0.5 else 1.0
        after = (z + pace * tried).clamp(0, 1)
        cost = 1 - torch.exp(-((after - goal) ** 2).sum(-1) / (2 * WIDTH**2))
        with torch.no_grad():
            best = (cost + DISCOUNT * critic(after, goal.expand_as(after))).min()
        assert found[b].item() == pytest.approx(max(best.item(), 0.0), abs=2e-3)


def test_pairs_keep_to_their_windows_and_hindsight_is_a_share():
    memory = wandered(episodes=20)
    windows = memory.windows(4000, 5, seeds.generator(0, "test"))
    critic = GoalCritic(torch.ones(1), hidden=8)
    training = CriticTraining(critic, Mud(), cost_of, SPACE, hindsight=0.25)
    pairs = training.pairs(windows)
    seen, wanted = windows["latent"].squeeze(-1), windows["goal"][:, 0]
    assert (pairs["latent"] == seen).any(dim=1).all()
    own = (pairs["goal"] == wanted).squeeze(1)
    assert own.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert (pairs["goal"] == seen)[~own].any(dim=1).all()


def test_pairs_tell_both_their_difference_and_how_near_they_are():
    scale = torch.tensor([3.0, 4.0])
    latent, goal = torch.tensor([[[1.0, 2.0]], [[0.0, 0.5]]]), torch.tensor([[0.0, 0.0]])
    pairs = Pairs(scale, ranges=3)
    found = pairs(latent, goal)
    assert found.shape == (2, 1, pairs.size)
    for (x, y), row in zip(latent[:, 0].tolist(), found[:, 0].tolist(), strict=True):
        near = [np.exp(-(x**2 + y**2) / (2 * reach**2)) for reach in (5, 2.5, 1.25)]
        assert row == pytest.approx([x / 3, y / 4, 0, 0, x / 3, y / 4, *near], rel=1e-5)


def test_only_the_critic_learns_and_nonsense_is_refused():
    critic = GoalCritic(torch.ones(1), hidden=8)
    training = CriticTraining(critic, Mud(), cost_of, SPACE)
    learning = {name for name, weight in training.named_parameters() if weight.requires_grad}
    assert learning == {f"critic.{name}" for name, _ in critic.named_parameters()}
    with pytest.raises(ValueError, match="candidates >= 2"):
        CriticTraining(critic, Mud(), cost_of, SPACE, candidates=1)
