"""Dynamics with and without memory: what is cached against what is computed anew, and training."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tensordict import TensorDict

from jepa.planning.bfloat16 import Bfloat16
from jepa.planning.causal import CausalTransformer, attended
from jepa.planning.cem import CEM
from jepa.planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from jepa.planning.embedding import PixelEmbedding
from jepa.planning.energies import GoalDistance
from jepa.planning.heads import GaussianHead, PointHead, soft_bounds
from jepa.planning.protocols import ActionSpace, Remembering
from jepa.planning.recurrent import GRU, gated
from jepa.planning.second_order import SecondOrder
from jepa.planning.training import (
    DynamicsTraining,
    foresight_loss,
    negative_log_likelihood,
    squared_distance,
)

B, D, A, H = 3, 4, 2, 6
KINDS = {
    "mlp": partial(ResidualMLP, hidden=16),
    "gru": partial(GRU, hidden=16),
    "transformer": partial(CausalTransformer, window=3, dim=16, depth=2, heads=2),
}


def scales():
    return Scales(torch.linspace(0.5, 1.5, D), torch.linspace(1.0, 2.0, A))


def made(kind, head=PointHead):
    """Dynamics of random weights; those that begin at zero too, or nothing would be seen."""
    torch.manual_seed(0)
    dynamics = KINDS[kind](scales(), head=head)
    for weight in dynamics.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return dynamics


def windows(batch=B, length=H):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, length + 1, D, generator=generator),
        torch.randn(batch, length, A, generator=generator),
    )


@pytest.mark.parametrize("head", [PointHead, GaussianHead])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rollouts_of_many_plans_are_repeated_steps(kind, head):
    dynamics, (latents, past) = made(kind, head), windows()
    start = dynamics.remember(latents, past)
    plans = torch.randn(2, 5, B, H, A, generator=torch.Generator().manual_seed(2))
    states = dynamics.rollout(start, plans)
    assert states.batch_size == (2, 5, B, H)
    assert "memory" not in states
    for s in range(2):
        for k in range(5):
            state = start
            for t in range(H):
                state = dynamics.step(state, plans[s, k, :, t])
                for name in ("latent", *([] if head is PointHead else ["variance"])):
                    assert torch.allclose(states[name][s, k, :, t], state[name], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_teacher_forcing_is_stepping_with_the_latents_that_came(kind):
    dynamics, (latents, actions) = made(kind), windows()
    states = dynamics.follow(latents[:, :-1], actions)
    for t in range(H):
        before = dynamics.remember(latents[:, : t + 1], actions[:, :t])
        after = dynamics.step(before, actions[:, t])
        assert torch.allclose(states["latent"][:, t], after["latent"], atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "transformer"])
@torch.no_grad()
def test_the_past_counts_and_the_future_does_not(kind):
    dynamics, (latents, actions) = made(kind), windows()
    base = dynamics.follow(latents[:, :-1], actions)["latent"]
    other = actions.clone()
    other[:, 2] += 1
    changed = (dynamics.follow(latents[:, :-1], other)["latent"] - base).abs().amax(dim=(0, 2))
    assert (changed[:2] == 0).all()
    assert (changed[2:] > 1e-4).all()


@pytest.mark.parametrize(("kind", "usual"), [(ResidualMLP, 2), (SecondOrder, 2), (GRU, 1)])
def test_layers_are_as_many_as_asked_and_all_of_them_count(kind, usual):
    def weights(**given):
        dynamics = kind(scales(), hidden=16, **given)
        return sum(weight.ndim == 2 for weight in dynamics.parameters()), dynamics

    assert weights()[0] == weights(layers=usual)[0]
    for layers in (1, 3, 4):
        count, dynamics = weights(layers=layers)
        assert count - weights()[0] == layers - usual
        latents, actions = windows()
        squared_distance(dynamics.follow(latents[:, :-1], actions), latents[:, 1:]).sum().backward()
        assert all(
            weight.grad is not None and weight.grad.any() for weight in dynamics.parameters()
        )
    with pytest.raises(ValueError, match="at least one hidden layer; got 0"):
        weights(layers=0)


@torch.no_grad()
def test_a_window_ends():
    """One layer of window 3 reaches two decisions back, two layers four; older ones are gone."""
    for depth, reach in ((1, 2), (2, 4)):
        torch.manual_seed(0)
        dynamics = CausalTransformer(scales(), window=3, dim=16, depth=depth, heads=2)
        for weight in dynamics.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        latents, actions = windows(length=8)
        base = dynamics.follow(latents[:, :-1], actions)["latent"]
        other = actions.clone()
        other[:, 1] += 1
        changed = (dynamics.follow(latents[:, :-1], other)["latent"] - base).abs().amax(dim=(0, 2))
        assert (changed[1 : 2 + reach] > 1e-5).all()
        assert (changed[2 + reach :] == 0).all()
        state = dynamics.remember(latents, actions)
        assert state["memory", "keys"].shape[3] == 2


@torch.no_grad()
def test_attention_against_torch():
    """One block with shared and own keys against torch's attention on all of them."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, B, 5, 2, 3, 4, generator=generator)
    shared = torch.randn(2, B, 2, 6, 4, generator=generator)
    bias = torch.randn(2, 3, 9, generator=generator)
    found = attended(q, (shared[0], shared[1]), (k, v), bias)
    for s in range(5):
        wanted = torch.nn.functional.scaled_dot_product_attention(
            q[:, s],
            torch.cat([shared[0], k[:, s]], dim=2),
            torch.cat([shared[1], v[:, s]], dim=2),
            attn_mask=bias,
        )
        assert torch.allclose(found[:, s], wanted, atol=1e-5)


@torch.no_grad()
def test_gates_are_those_of_torch():
    cell, generator = torch.nn.GRUCell(5, 7), torch.Generator().manual_seed(0)
    x, memory = (torch.randn(B, size, generator=generator) for size in (5, 7))
    now = x @ cell.weight_ih.T + cell.bias_ih
    past = memory @ cell.weight_hh.T + cell.bias_hh
    assert torch.allclose(gated(now, past, memory), cell(x, memory), atol=1e-6)


def test_soft_bounds_are_those_of_the_paper():
    x = torch.linspace(-30, 20, 101, dtype=torch.float64)
    found = soft_bounds(x, -10.0, 0.5)
    assert ((found > -10) & (found < 0.5 + 1e-4)).all()
    assert (found.diff() > 0).all()
    middle = (x > -6) & (x < -3)
    assert torch.allclose(found[middle], x[middle], atol=0.04)


@pytest.mark.parametrize(
    ("kind", "remembers"), [("mlp", False), ("gru", True), ("transformer", True)]
)
def test_what_only_the_past_tells_is_learnt_by_dynamics_with_a_memory(kind, remembers):
    """z_t = a_t + a_{t-1}: the next latent needs the action before, which no latent shows alone."""

    def drawn(count, seed):
        actions = torch.randn(count, 5, A, generator=torch.Generator().manual_seed(seed))
        latents = actions.clone()
        latents[:, 1:] += actions[:, :-1]
        return torch.cat([torch.zeros(count, 1, A), latents], dim=1), actions

    torch.manual_seed(0)
    dynamics = KINDS[kind](Scales(torch.full((A,), 2**0.5), torch.ones(A)))
    adam, (latents, actions) = torch.optim.Adam(dynamics.parameters(), lr=1e-2), drawn(640, 0)
    for step in range(120):
        some = torch.arange(64) + 64 * (step % 10)
        loss = foresight_loss(
            dynamics, latents[some], actions[some], rollout=0.0, teacher_forced=1.0
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    latents, actions = drawn(200, 1)
    states = dynamics.follow(latents[:, :-1], actions)
    error = squared_distance(states, latents[:, 1:]).mean(dim=0)[2:].mean()
    # Without a memory the best guess of a_{t-1} is z_{t-1} / 2; half of its variance, 2, is left.
    assert (error < 0.15) if remembers else (error > 0.9)


def test_the_losses_are_weighted_and_each_is_what_it_says():
    dynamics, (latents, actions) = made("gru"), windows()
    rolled = dynamics.rollout(dynamics.start(latents[:, 0]), actions)["latent"]
    forced = dynamics.follow(latents[:, :-1], actions)["latent"]
    parts = [(z - latents[:, 1:]).square().sum(-1).mean() for z in (rolled, forced)]
    found = foresight_loss(dynamics, latents, actions, rollout=0.3, teacher_forced=2.0)
    assert torch.allclose(found, 0.3 * parts[0] + 2.0 * parts[1], rtol=1e-5)
    with pytest.raises(ValueError, match="not both 0"):
        DynamicsTraining(dynamics, rollout=0.0)


def test_the_likelihood_is_that_of_torch():
    dynamics, (latents, actions) = made("mlp", GaussianHead), windows()
    states = dynamics.follow(latents[:, :-1], actions)
    normal = torch.distributions.Normal(states["latent"], states["variance"].sqrt())
    wanted = -normal.log_prob(latents[:, 1:]).sum(-1)
    found = negative_log_likelihood(states, latents[:, 1:])
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_planners_need_not_know_what_dynamics_remember(kind):
    dynamics, (latents, past) = made(kind), windows()

    class Model:
        encode = staticmethod(dynamics.start)
        step, rollout = dynamics.step, dynamics.rollout

    start = dynamics.remember(latents, past)
    goal = TensorDict({"latent": torch.zeros(B, D)}, batch_size=[B])
    planner = CEM(horizon=4, samples=16, iterations=2, elites=4)
    space = ActionSpace(-torch.ones(A), torch.ones(A))
    energy = GoalDistance(goal)
    plan = planner.plan(Model(), start, energy, space, None, torch.Generator().manual_seed(0))
    again = energy(dynamics.rollout(start, plan.actions), plan.actions)
    assert torch.allclose(plan.energy, again, atol=1e-5)


def test_in_bfloat16_states_are_float32_and_near_those_of_float32():
    torch.manual_seed(0)
    pixels = PixelEmbedding(image_size=16, size=3, width=4, mean=torch.ones(1), std=torch.ones(1))
    dynamics = ResidualMLP(Scales(torch.ones(3), torch.ones(2)), hidden=64)
    model = LatentWorldModel(embedding=pixels, dynamics=dynamics)
    start = model.encode(torch.randint(255, (5, 16, 16, 1), dtype=torch.uint8))
    actions = torch.randn(4, 5, 6, 2)
    with torch.no_grad():
        exact = model.rollout(start, actions)["latent"]
        half = Bfloat16(model).rollout(start, actions)["latent"]
        one = Bfloat16(model).step(start, actions[0, :, 0])["latent"]
    moved = (exact - start["latent"][:, None]).norm(dim=-1).mean()
    assert half.dtype == one.dtype == torch.float32
    assert torch.equal(half[0, :, 0], one)
    assert not torch.equal(half, exact)
    assert (half - exact).norm(dim=-1).mean() < 0.02 * moved


class Numbered(ResidualMLP):
    """Carries a whole number, as ensembles do."""

    def step(self, state, action):
        return super().step(state, action).update({"member": state["member"]})


class Forgetful:
    def encode(self, observation): ...

    def step(self, state, action): ...

    def rollout(self, state, actions): ...


def test_in_bfloat16_a_world_still_remembers_and_whole_numbers_stay_whole():
    embedding = PixelEmbedding(
        image_size=16, size=3, width=4, mean=torch.ones(1), std=torch.ones(1)
    )
    scales = Scales(torch.ones(3), torch.ones(2))
    remembers, numbered = (
        LatentWorldModel(embedding=embedding, dynamics=kind(scales, hidden=8))
        for kind in (SecondOrder, Numbered)
    )
    assert isinstance(Bfloat16(remembers), Remembering)
    assert not isinstance(Bfloat16(Forgetful()), Remembering)
    images = torch.randint(255, (2, 16, 16, 1), dtype=torch.uint8)
    start, action = remembers.encode(images), torch.ones(2, 2)
    found, wanted = (m.observe(start, action, images) for m in (Bfloat16(remembers), remembers))
    assert (found == wanted).all()

    state = numbered.encode(images).update({"member": torch.tensor([0, 1])})
    after = Bfloat16(numbered).step(state, action)
    assert after["member"].dtype == torch.int64
    assert after["latent"].dtype == torch.float32
