"""z inferred and learnt: against brute force, a mixture that is known, and a coin that decides."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as lightning
import scipy.stats
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader

from jepa.planning.calibration import particle_scores
from jepa.planning.dynamics import ResidualMLP, Scales
from jepa.planning.energies import GoalDistance
from jepa.planning.ensemble import Ensemble
from jepa.planning.heads import OutcomesHead, drawn, outcome
from jepa.planning.latent_variable import (
    Explained,
    by_free_energy,
    energies,
    free_energy,
    inferred,
    measure_noise,
    posterior,
    told,
)
from jepa.planning.recurrent import GRU
from jepa.planning.training import DynamicsTraining
from jepa.planning.uncertain import Expected


def a_state(batch=50, values=3, size=2):
    generator = torch.Generator().manual_seed(0)
    outcomes = torch.randn(batch, values, size, generator=generator, dtype=torch.float64)
    logits = torch.randn(batch, values, generator=generator, dtype=torch.float64)
    truth = torch.randn(batch, size, generator=generator, dtype=torch.float64)
    entries = {
        "outcomes": outcomes,
        "log_prior": logits.log_softmax(-1),
        "noise": torch.full((batch, size), 0.25, dtype=torch.float64),
    }
    return TensorDict(entries, batch_size=[batch]), truth


def test_inference_and_free_energy_against_brute_force_and_the_mixture():
    states, truth = a_state()
    price = 0.7
    for b in range(len(truth)):
        prior = states["log_prior"][b].exp().numpy()
        error = np.square(states["outcomes"][b].numpy() - truth[b].numpy()).mean(-1)
        energy = error - price * np.log(prior)
        assert energies(states, truth, price)[b].numpy() == pytest.approx(energy)
        assert inferred(states, truth, price)[b] == energy.argmin()
        wanted = prior * np.exp(-error / price)
        q = posterior(states, truth, price)[b].numpy()
        assert q == pytest.approx(wanted / wanted.sum())
        # what the posterior pays is the free energy, and any other choice pays more
        nats = scipy.stats.entropy(q, prior)
        assert told(states, truth, price)[b].item() == pytest.approx(nats, abs=1e-12)
        assert nats <= math.log(1 / prior.min())
        least = free_energy(states, truth, price)[b].item()
        assert least == pytest.approx(q @ error + price * nats)
        for other in np.random.default_rng(b).dirichlet([1, 1, 1], size=20):
            assert least <= other @ error + price * scipy.stats.entropy(other, prior) + 1e-12
        # and up to a constant it is the likelihood under Gaussians of variance price * size / 2
        density = [
            scipy.stats.multivariate_normal(mean, price).pdf(truth[b].numpy())
            for mean in states["outcomes"][b].numpy()
        ]
        constant = -price * math.log(2 * math.pi * price)  # two numbers
        assert least == pytest.approx(-price * math.log(prior @ density) + constant)


def test_the_head_tells_mean_and_variance_of_the_mixture_and_draws_from_it():
    torch.manual_seed(0)
    head = OutcomesHead(5, 2, values=3)
    head.noise.copy_(torch.tensor([0.04, 0.01]))
    spread = torch.tensor([2.0, 0.5])
    entries = head(torch.randn(1, 2), 4 * torch.randn(1, 5), spread)
    state = TensorDict(entries, batch_size=[1])
    generator = torch.Generator().manual_seed(1)
    many = state.expand(200_000)
    samples = drawn(
        many,
        torch.randn(200_000, 2, generator=generator),
        torch.rand(200_000, generator=generator),
    )
    assert torch.allclose(samples.mean(dim=0), state["latent"][0], atol=0.02)
    assert torch.allclose(samples.var(dim=0), state["variance"][0], rtol=0.02)
    quiet = state.clone()
    quiet["noise"] = torch.zeros(1, 2)
    points = drawn(quiet.expand(100_000), torch.zeros(100_000, 2), torch.rand(100_000))
    for z in range(3):
        share = (points == outcome(quiet, torch.tensor([z]))).all(-1).double().mean().item()
        assert share == pytest.approx(state["log_prior"][0, z].exp().item(), abs=0.01)
    gaussian = TensorDict({"latent": torch.ones(3, 2), "variance": torch.ones(3, 2)}, [3])
    noise = torch.randn(3, 2)
    assert torch.equal(drawn(gaussian, noise, torch.rand(3)), 1 + noise)


@pytest.mark.parametrize("sampling", ["ts_inf", "ts1"])
@torch.no_grad()
def test_particles_are_dealt_to_the_outcomes_of_their_members_as_evenly_as_can_be(sampling):
    torch.manual_seed(0)
    scales = Scales(torch.ones(2), torch.ones(1))
    head = partial(OutcomesHead, values=3)
    members = [ResidualMLP(scales, hidden=8, head=head) for _ in range(2)]
    count = 40
    world = Ensemble(members, particles=count, sampling=sampling)
    latent, action = torch.randn(5, 2), torch.randn(5, 1)
    state = world.step(world.start(latent), action)
    assert set(state["memory", "members"].keys()) == {"latent", "variance"}
    for m, member in enumerate(members):
        alone = member.step(member.start(latent), action)
        own = state["particles"][:, m * count : (m + 1) * count]
        away = (own[:, :, None] - alone["outcomes"][:, None]).abs().amax(dim=-1)
        found = away < 1e-5
        assert (found.sum(dim=-1) == 1).all()
        shares = alone["log_prior"].exp()
        assert ((found.sum(dim=1) / count - shares).abs() < 2 / count).all()
    assert torch.isfinite(world.step(state, action)["particles"]).all()


def test_recurrent_dynamics_take_the_head_and_remember():
    scales = Scales(torch.ones(2), torch.ones(1))
    model = Ensemble([GRU(scales, hidden=8, head=OutcomesHead)], particles=3)
    states = model.rollout(model.start(torch.randn(4, 2)), torch.randn(5, 4, 6, 1))
    assert states["particles"].shape == (5, 4, 6, 3, 2)


JUMP, CHANCE, STEPS = 3.0, 0.3, 4


def coins(count, seed):
    """One number; each action is added to it, and with the chance that the action's sign gives
    (CHANCE for a positive one, none else) so is a jump."""
    generator = torch.Generator().manual_seed(seed)
    latents = [torch.randn(count, 1, generator=generator)]
    actions = 0.5 * torch.randn(count, STEPS, 1, generator=generator)
    for t in range(STEPS):
        heads = torch.rand(count, 1, generator=generator) < CHANCE
        jump = JUMP * (heads & (actions[:, t] > 0))
        latents.append(latents[-1] + actions[:, t] + jump)
    return torch.stack(latents, dim=1), actions


@pytest.fixture(scope="module")
def learnt():
    """Dynamics with z that learnt the coins."""
    torch.manual_seed(0)
    scales = Scales(torch.tensor([2.0]), torch.tensor([0.5]))
    dynamics = ResidualMLP(scales, hidden=32, head=partial(OutcomesHead, values=3))
    rows = [{"observations": z, "actions": a} for z, a in zip(*coins(4000, 1), strict=True)]
    training = DynamicsTraining(**by_free_energy(dynamics, 0.1), learning_rate=8e-3)
    lightning.Trainer(
        max_steps=250, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(training, DataLoader(rows, batch_size=256, shuffle=True))  # fmt: skip
    return dynamics.eval()


@torch.no_grad()
def test_z_learns_both_outcomes_their_chances_and_nothing_else(learnt):
    latents, actions = coins(2000, 2)
    measure_noise(learnt, latents, actions, 0.1)
    states = learnt.follow(latents[:, :-1], actions)
    gap = (states["outcomes"] - latents[:, 1:, None]).square().sum(-1).amin(-1).sqrt()
    assert gap.mean() < 0.2
    assert learnt.head.noise.sqrt().item() * 2 < 0.3
    up = actions[..., 0] > 0.3
    jumped = states["outcomes"][..., 0] > (latents[:, :-1] + actions + JUMP / 2)
    chance = (states["log_prior"].exp() * jumped).sum(-1)
    assert chance[up].mean().item() == pytest.approx(CHANCE, abs=0.05)
    assert chance[actions[..., 0] < -0.3].mean() < 0.02
    # the information of z is that of the coin, where there is one
    nats = told(states, latents[:, 1:], 0.1)
    coin = -CHANCE * math.log(CHANCE) - (1 - CHANCE) * math.log(1 - CHANCE)
    assert nats[up].mean().item() == pytest.approx(coin, abs=0.08)
    assert nats[actions[..., 0] < -0.3].mean() < 0.05


@torch.no_grad()
def test_particles_are_the_true_futures_and_one_expects_their_energy(learnt):
    actions = torch.full((1, STEPS, 1), 0.5)
    world = Ensemble([learnt], particles=400)
    states = world.rollout(world.start(torch.zeros(1, 1)), actions)
    jumps = (states["particles"][0, :, :, 0] - 0.5 * torch.arange(1, STEPS + 1)[:, None]) / JUMP
    for t in range(STEPS):
        shares = [(jumps[t].round() == k).double().mean().item() for k in range(t + 2)]
        wanted = scipy.stats.binom(t + 1, CHANCE).pmf(range(t + 2))
        assert shares == pytest.approx(wanted, abs=0.08)
    goal = TensorDict({"latent": torch.tensor([[2.0 + JUMP]])}, batch_size=[1])
    found = Expected(GoalDistance(goal))(states, actions).item()
    ends = 2.0 + JUMP * np.arange(STEPS + 1)
    true = scipy.stats.binom(STEPS, CHANCE).pmf(range(STEPS + 1)) @ np.abs(ends - 2.0 - JUMP)
    assert found == pytest.approx(true, rel=0.15)


@torch.no_grad()
def test_explained_windows_go_on_from_outcomes_and_follow_the_truth(learnt):
    latents, actions = coins(500, 3)
    explained = Explained(learnt, 0.1)
    states = explained.follow(latents[:, :-1], actions)
    # by hand, step by step, from the first latent alone
    here = latents[:, 0]
    for t in range(STEPS):
        state = learnt.step(learnt.start(here), actions[:, t])
        assert torch.allclose(states["outcomes"][:, t], state["outcomes"], atol=1e-5)
        here = outcome(state, inferred(state, latents[:, t + 1], 0.1))
    assert (here - latents[:, -1]).abs().mean() < 0.4
    blind = learnt.rollout(learnt.start(latents[:, 0]), actions)["latent"][:, -1]
    assert (blind - latents[:, -1]).abs().mean() > 1.5


def test_particle_scores_are_those_of_the_exact_distribution():
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(3000, 2, 1, generator=rng) * torch.tensor([1.0, 2.0])[:, None]
    particles = torch.randn(3000, 2, 64, 1, generator=rng) * torch.tensor([1.0, 2.0])[:, None, None]
    crps, coverage = particle_scores(particles, truth, level=0.8)
    # a Gaussian forecast of the true deviation scores std / sqrt(pi)
    assert (crps * math.sqrt(math.pi)).tolist() == pytest.approx([1.0, 2.0], rel=0.05)
    assert coverage.tolist() == pytest.approx([0.8, 0.8], abs=0.04)
    sure, none = particle_scores(torch.zeros(3000, 2, 1, 1), truth, level=0.8)
    assert sure.tolist() == pytest.approx(truth.abs().mean(dim=(0, 2)).tolist(), rel=1e-5)
    assert none.tolist() == [0.0, 0.0]


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        OutcomesHead(4, 2, values=0)
    dynamics = ResidualMLP(Scales(torch.ones(1), torch.ones(1)), hidden=4)
    with pytest.raises(ValueError, match="PointHead"):
        measure_noise(dynamics, torch.zeros(2, 3, 1), torch.zeros(2, 2, 1), 0.1)
