"""Ensembles: members at once against one by one, and sampled futures against closed forms."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from jepa.planning.causal import CausalTransformer
from jepa.planning.cem import CEM
from jepa.planning.dynamics import Dynamics, ResidualMLP, Scales
from jepa.planning.energies import ComposableEnergy, GoalDistance
from jepa.planning.ensemble import Ensemble
from jepa.planning.gradient import GradientPlanner
from jepa.planning.heads import GaussianHead, PointHead
from jepa.planning.protocols import ActionSpace
from jepa.planning.recurrent import GRU
from jepa.planning.training import foresight_loss
from jepa.planning.uncertain import Expected, Uncertainty

B, D, A, H, M = 3, 2, 2, 5, 3
KINDS = {
    "mlp": partial(ResidualMLP, hidden=16),
    "gru": partial(GRU, hidden=16),
    "transformer": partial(CausalTransformer, window=3, dim=16, depth=2, heads=2),
}


def members(kind, head=GaussianHead):
    torch.manual_seed(0)
    made = [KINDS[kind](Scales(torch.ones(D), torch.ones(A)), head=head) for _ in range(M)]
    for weight in (weight for one in made for weight in one.parameters()):
        torch.nn.init.normal_(weight, std=0.3)
    return made


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_noise_each_member_goes_its_own_way(kind):
    some, start, actions = members(kind, PointHead), numbers(B, D), numbers(4, B, H, A)
    ensemble = Ensemble(some, particles=2)
    states = ensemble.rollout(ensemble.start(start), actions)
    ways = torch.stack([one.rollout(one.start(start), actions)["latent"] for one in some])
    assert torch.allclose(states["latent"], ways.mean(0), atol=1e-5)
    assert torch.allclose(states["variance"], ways.var(0, correction=0), atol=1e-5)
    gaps = (ways - ways.mean(0)).square().sum(-1).mean(0)
    assert torch.allclose(states["disagreement"], gaps, atol=1e-5)
    clouds = ways.repeat_interleave(2, dim=0).movedim(0, -2)
    assert torch.allclose(states["particles"], clouds, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradients_are_those_of_the_members_alone(kind):
    some, latents, actions = members(kind), numbers(B, H + 1, D), numbers(B, H, A)
    ensemble = Ensemble(some)
    loss = partial(foresight_loss, rollout=0.5, teacher_forced=1.0)
    together = ensemble.learn(loss, latents, actions)
    alone = torch.stack([loss(one, latents, actions) for one in some])
    assert torch.allclose(together, alone.mean(), rtol=1e-5)
    together.backward()
    alone.mean().backward()
    stacked = dict(ensemble.weights.flatten_keys(".").items())
    checked = 0
    for name, weight in some[1].named_parameters():
        if weight.grad is not None:
            assert torch.allclose(stacked[name].grad[1], weight.grad, atol=1e-5)
            checked += 1
    assert checked > 5


class LinearGaussian(Dynamics):
    """z' = z step^T + a, with noise of known variance: all futures are Gaussians."""

    def __init__(self, turn=0.3, noise=(0.04, 0.09)):
        super().__init__()
        turning = torch.tensor([[0.0, -turn], [turn, 0.0]])
        self.register_buffer("matrix", 0.9 * torch.linalg.matrix_exp(turning))
        self.register_buffer("noise", torch.tensor(noise))

    def step(self, state, action):
        latent = state["latent"] @ self.matrix.T + action
        entries = {"latent": latent, "variance": self.noise.expand_as(latent)}
        return type(state)(entries, batch_size=state.batch_size)


@pytest.mark.parametrize("sampling", ["ts_inf", "ts1"])
@torch.no_grad()
def test_particles_have_the_exact_mean_and_variance_at_every_step(sampling):
    truth = LinearGaussian()
    ensemble = Ensemble([truth, truth], particles=4000, sampling=sampling)
    start, actions = numbers(1, D), numbers(1, H, A)
    states = ensemble.rollout(ensemble.start(start), actions)
    mean, covariance = start[0].double(), torch.zeros(D, D, dtype=torch.float64)
    matrix, noise = truth.matrix.double(), truth.noise.double().diag()
    for t in range(H):
        mean = matrix @ mean + actions[0, t].double()
        covariance = matrix @ covariance @ matrix.T + noise
        assert torch.allclose(states["latent"][0, t].double(), mean, atol=1e-4)
        assert torch.allclose(states["variance"][0, t].double(), covariance.diagonal(), rtol=0.06)
        cloud = states["particles"][0, t].double()
        assert torch.allclose(torch.cov(cloud.T), covariance, atol=0.02)
        assert sampling == "ts1" or states["disagreement"][0, t] < 1e-6
    assert torch.allclose(states["variance"][0, 0], truth.noise)  # exact after one step


@torch.no_grad()
def test_members_that_differ_disagree_more_the_further_they_look():
    """Without noise, ts_inf keeps each particle on its member's path; ts1 deals them anew."""
    some = [LinearGaussian(turn, (0.0, 0.0)) for turn in (0.2, 0.4)]
    start, actions = torch.tensor([[1.0, 0.0]]), torch.zeros(1, H, A)
    kept, dealt = (
        Ensemble(some, particles=50, sampling=sampling) for sampling in ("ts_inf", "ts1")
    )
    kept, dealt = (one.rollout(one.start(start), actions) for one in (kept, dealt))
    ways = torch.stack([one.rollout(one.start(start), actions)["latent"] for one in some])
    gaps = (ways - ways.mean(0)).square().sum(-1).mean(0)
    assert torch.allclose(kept["disagreement"], gaps, atol=1e-6)
    angle = kept["particles"][0, -1].unique(dim=0)
    assert len(angle) == 2
    assert len(dealt["particles"][0, -1].unique(dim=0)) > 2
    assert torch.allclose(kept["variance"].sum(-1), gaps, atol=1e-6)
    assert (dealt["variance"][0, -1].sum() < kept["variance"][0, -1].sum()).all()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_luck_is_the_same_for_all_plans_and_does_not_depend_on_the_batch(kind):
    ensemble, start = Ensemble(members(kind)), numbers(B, D)
    actions = numbers(1, B, H, A).expand(2, -1, -1, -1)
    states = ensemble.rollout(ensemble.start(start), actions)
    assert torch.allclose(states["particles"][0], states["particles"][1], atol=1e-5)
    alone = ensemble.rollout(ensemble.start(start[1:2]), actions[0, 1:2])
    assert torch.allclose(alone["particles"][0], states["particles"][0, 1], atol=1e-5)
    other = Ensemble(members(kind), seed=1)
    other = other.rollout(other.start(start), actions)
    assert not torch.allclose(other["particles"], states["particles"], atol=1e-2)


@torch.no_grad()
def test_what_was_seen_gathers_the_particles_and_the_memory_stays():
    ensemble, seen = Ensemble(members("gru")), numbers(B, D, seed=3)
    state = ensemble.step(ensemble.start(numbers(B, D)), numbers(B, A))
    known = ensemble.observe(state, seen)
    assert torch.equal(known["latent"], seen)
    assert (known["disagreement"] == 0).all()
    hidden = known["memory", "members", "memory"]
    assert torch.equal(hidden, state["memory", "members", "memory"])
    after, fresh = (ensemble.step(s, numbers(B, A)) for s in (known, ensemble.start(seen)))
    assert not torch.allclose(after["latent"], fresh["latent"], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_can_be_kept_and_read(kind):
    ensemble, other = Ensemble(members(kind)), Ensemble([*reversed(members(kind))])
    start, actions = numbers(B, D), numbers(B, H, A)
    wanted = ensemble.rollout(ensemble.start(start), actions)["particles"]
    assert not torch.allclose(other.rollout(other.start(start), actions)["particles"], wanted)
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other.rollout(other.start(start), actions)["particles"], wanted)
    again = copy.deepcopy(ensemble)
    assert torch.equal(again.rollout(again.start(start), actions)["particles"], wanted)


def test_members_with_a_memory_cannot_be_dealt_anew():
    ensemble = Ensemble(members("gru"), sampling="ts1")
    with pytest.raises(ValueError, match='sampling="ts_inf"'):
        ensemble.start(numbers(B, D))
    with pytest.raises(ValueError, match="need members"):
        Ensemble([])


class Model:
    def __init__(self, dynamics):
        self.encode, self.step, self.rollout = dynamics.start, dynamics.step, dynamics.rollout


@pytest.mark.parametrize("kind", KINDS)
def test_planners_keep_away_from_what_members_disagree_about(kind):
    ensemble, start = Ensemble(members(kind)), numbers(B, D)
    state = ensemble.start(start)
    goal = GoalDistance(ensemble.start(numbers(B, D, seed=5)))
    space = ActionSpace(-torch.ones(A), torch.ones(A))
    bold: ComposableEnergy = Expected(goal)
    for planner in (
        CEM(horizon=3, samples=24, iterations=3, elites=6),
        GradientPlanner(horizon=3, restarts=2, iterations=6),
    ):
        plans = [
            planner.plan(
                Model(ensemble), state, energy, space, None, torch.Generator().manual_seed(0)
            )
            for energy in (bold, bold + 100.0 * Uncertainty())
        ]
        unsure = [
            Uncertainty()(ensemble.rollout(state, plan.actions), plan.actions) for plan in plans
        ]
        assert (unsure[1] < unsure[0]).all()
        again = bold(ensemble.rollout(state, plans[0].actions), plans[0].actions)
        assert torch.allclose(again, plans[0].energy, atol=1e-4)
