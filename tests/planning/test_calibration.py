"""Calibration scores against scipy, integrals and a process whose futures are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytorch_lightning as lightning
import scipy.integrate
import scipy.stats
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader

from jepa.planning.calibration import (
    calibration,
    gaussian_covers,
    gaussian_crps,
    gaussian_nll,
    rank_correlation,
    sample_covers,
    sample_crps,
)
from jepa.planning.dynamics import ResidualMLP, Scales
from jepa.planning.ensemble import Ensemble
from jepa.planning.heads import GaussianHead
from jepa.planning.training import DynamicsTraining, negative_log_likelihood

CASES = [(0.0, 1.0, 0.0), (0.3, 2.0, -1.7), (-1.0, 0.2, 4.0), (5.0, 1e-6, 5.5)]


@pytest.mark.parametrize(("mean", "std", "truth"), CASES)
def test_gaussian_scores_against_scipy_and_the_integral(mean, std, truth):
    normal = scipy.stats.norm(mean, std)
    m, v, y = (torch.tensor(x, dtype=torch.float64) for x in (mean, std**2, truth))
    assert gaussian_nll(m, v, y).item() == pytest.approx(-normal.logpdf(truth), rel=1e-9)

    # CRPS is the integral of (F(x) - [x >= y])^2.
    def gap(x):
        return (normal.cdf(x) - (x >= truth)) ** 2

    ends = (min(mean - 12 * std, truth - 1), max(mean + 12 * std, truth + 1))
    wanted, _ = scipy.integrate.quad(gap, *ends, points=[mean, truth], limit=400, epsabs=1e-10)
    assert gaussian_crps(m, v, y).item() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    for level in (0.5, 0.9, 0.99):
        low, high = normal.interval(level)
        assert gaussian_covers(m, v, y, level).item() == (low <= truth <= high)


def test_scores_of_samples_against_loops_and_the_gaussian_form():
    rng = np.random.default_rng(0)
    samples, truth = rng.normal(size=(7, 9)), rng.normal(size=7)
    found = sample_crps(torch.as_tensor(samples), torch.as_tensor(truth)).numpy()
    for x, y, one in zip(samples, truth, found, strict=True):
        pairs = np.abs(x[:, None] - x[None]).mean() / 2
        assert one == pytest.approx(np.abs(x - y).mean() - pairs, rel=1e-9)
    covered = sample_covers(torch.as_tensor(samples), torch.as_tensor(truth), 0.6).numpy()
    for x, y, one in zip(samples, truth, covered, strict=True):
        low, high = np.quantile(x, [0.2, 0.8], method="weibull")
        assert one == (low <= y <= high)
    assert covered.any()
    assert not covered.all()
    many = torch.as_tensor(rng.normal(0.4, 1.3, size=(1, 200_000)))
    exact = gaussian_crps(*(torch.tensor([x], dtype=torch.float64) for x in (0.4, 1.69, -0.8)))
    assert sample_crps(many, torch.tensor([-0.8]).double()).item() == pytest.approx(
        exact.item(), rel=0.01
    )


@pytest.mark.parametrize(
    ("count", "level", "wanted"),
    [(64, 0.9, 0.9), (19, 0.9, 0.9), (9, 0.5, 0.5), (9, 0.9, 8 / 10), (2, 0.5, 1 / 3)],
)
def test_samples_of_the_true_distribution_cover_what_they_promise_or_all_they_can(
    count, level, wanted
):
    draw, rows = torch.Generator().manual_seed(0), 40_000
    samples = torch.rand(rows, count, generator=draw, dtype=torch.float64)
    truth = torch.rand(rows, generator=draw, dtype=torch.float64)
    covered = sample_covers(samples, truth, level).double().mean().item()
    assert covered == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / rows) ** 0.5)
    # and their CRPS is above the distribution's by one over their number
    crps = sample_crps(samples, truth).mean().item()
    assert crps == pytest.approx((1 + 1 / count) / 6, rel=0.02)


def test_rank_correlation_with_ties_against_the_definition():
    """Pearson's correlation of the mean ranks."""
    a = torch.tensor([[1.0, 3], [2, 2], [2, 2], [5, 1], [4, 0]])
    b = torch.tensor([[2.0, 0], [1, 0], [7, 0], [7, 5], [9, 5]])
    found = rank_correlation(a, b)
    ranks = [([1, 2.5, 2.5, 5, 4], [2, 1, 3.5, 3.5, 5]), ([5, 3.5, 3.5, 2, 1], [2, 2, 2, 4.5, 4.5])]
    for one, (x, y) in zip(found, ranks, strict=True):
        assert one.item() == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-6)
    with pytest.warns(scipy.stats.ConstantInputWarning):
        assert rank_correlation(torch.ones(5, 1), b[:, :1]).isnan().all()


MATRIX = 0.9 * torch.linalg.matrix_exp(torch.tensor([[0.0, -0.3], [0.3, 0.0]]))
NOISE = torch.tensor([0.2, 0.3])  # standard deviations
H = 6


def episodes(count, seed):
    """z' = MATRIX z + a + noise."""
    generator = torch.Generator().manual_seed(seed)
    latents = [torch.randn(count, 2, generator=generator)]
    actions = 0.5 * torch.randn(count, H, 2, generator=generator)
    for t in range(H):
        noise = NOISE * torch.randn(count, 2, generator=generator)
        latents.append(latents[-1] @ MATRIX.T + actions[:, t] + noise)
    return torch.stack(latents, dim=1), actions


def exact(latents, actions):
    """The true distribution of every future."""
    mean, covariance, states = latents[:, 0], torch.zeros(2, 2), []
    for t in range(H):
        mean = mean @ MATRIX.T + actions[:, t]
        covariance = MATRIX @ covariance @ MATRIX.T + NOISE.square().diag()
        variance = covariance.diagonal().expand_as(mean)
        states.append(TensorDict({"latent": mean, "variance": variance}, batch_size=[len(mean)]))
    return TensorDict.stack(states, dim=1)


def covers_as_binomial(coverage, episodes, level=0.9):
    """Whether each share of covered numbers is one that a true interval would give, but for one
    in a million. The two numbers of a latent are nearly independent; each is bounded alone."""
    low, high = scipy.stats.binom(episodes, level).interval(1 - 1e-6)
    return ((coverage * episodes >= low) & (coverage * episodes <= high)).tolist()


def test_the_exact_distribution_has_the_scores_of_the_closed_form():
    latents, actions = episodes(4000, 0)
    states = exact(latents, actions)
    found = calibration(states, latents[:, 1:])
    variance = states["variance"][0].double()
    assert torch.allclose(found.rmse, variance.mean(-1).sqrt(), rtol=0.04)
    entropy = 0.5 * (2 * math.pi * math.e * variance).log().mean(-1)
    assert torch.allclose(found.nll, entropy, atol=0.04)
    crps = variance.sqrt().mean(-1) / math.sqrt(math.pi)
    assert torch.allclose(found.crps, crps, rtol=0.04)
    assert all(covers_as_binomial(found.coverage, 4000))
    assert found.disagreement is None
    for factor in (0.25, 4.0):
        wrong = states.clone()
        wrong["variance"] = wrong["variance"] * factor
        worse = calibration(wrong, latents[:, 1:])
        assert not any(covers_as_binomial(worse.coverage, 4000))
        assert (worse.nll > found.nll).all()
        assert (worse.crps > found.crps).all()
    with pytest.raises(ValueError, match="GaussianHead"):
        calibration(states.select("latent"), latents[:, 1:])


@pytest.fixture(scope="module")
def trained():
    """An ensemble of Gaussian networks that learnt the process."""
    torch.manual_seed(0)
    scales = Scales(torch.ones(2), 0.5 * torch.ones(2))
    ensemble = Ensemble(
        [ResidualMLP(scales, hidden=32, head=GaussianHead) for _ in range(4)], particles=25
    )
    rows = [{"observations": z, "actions": a} for z, a in zip(*episodes(3000, 1), strict=True)]
    training = DynamicsTraining(
        ensemble, error=negative_log_likelihood, rollout=0.0, teacher_forced=1.0,
        learning_rate=5e-3,
    )  # fmt: skip
    lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(training, DataLoader(rows, batch_size=64))  # fmt: skip
    return ensemble


def test_a_trained_ensemble_covers_what_it_promises_and_an_overconfident_one_is_caught(trained):
    latents, actions = episodes(400, 2)
    states = trained.rollout(trained.start(latents[:, 0]), actions)
    found, truth = calibration(states, latents[:, 1:]), latents[:, 1:]
    assert all(covers_as_binomial(found.coverage, 400))
    best = calibration(exact(latents, actions), truth)
    assert (found.nll < best.nll + 0.1).all()
    assert (found.crps < 1.05 * best.crps).all()
    particles = states["particles"].movedim(-2, -1).detach()
    assert all(covers_as_binomial(sample_covers(particles, truth, 0.9).float().mean((0, 2)), 400))
    crps = sample_crps(particles, truth).mean((0, 2))
    assert torch.allclose(crps.double(), found.crps, rtol=0.04)
    # What members disagree about is not the noise: as the only variance it promises too much.
    blind = states.clone()
    blind["variance"] = (states["disagreement"] / 2)[..., None].expand_as(states["variance"])
    caught = calibration(blind, truth)
    assert not any(covers_as_binomial(caught.coverage, 400))
    assert (caught.nll > found.nll + 1).all()


def test_disagreement_ranks_errors_where_some_starts_are_far_from_what_was_learnt(trained):
    latents, actions = episodes(400, 3)
    scale = torch.linspace(0.2, 8, 400)[:, None]
    start = scale * latents[:, 0]
    mean, states = start, trained.rollout(trained.start(start), actions)
    truth = []
    for t in range(H):
        mean = mean @ MATRIX.T + actions[:, t]
        truth.append(mean)
    found = calibration(states, torch.stack(truth, dim=1))
    assert found.disagreement is not None
    assert (found.disagreement > 0.5).all()


def test_a_certain_prediction_is_scored_by_its_error():
    mean, none, truth = torch.zeros(3), torch.zeros(3), torch.tensor([0.0, 1.0, -2.0])
    assert gaussian_crps(mean, none, truth).tolist() == [0.0, 1.0, 2.0]
    assert gaussian_nll(mean, none, truth).tolist() == [-math.inf, math.inf, math.inf]
