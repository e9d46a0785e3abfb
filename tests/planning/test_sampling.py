"""What sampling planners are made of: refits, weights and noise, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.planning.icem import ICEM, adapted
from jepa.planning.planner import drawn
from jepa.planning.sampling import (
    Elite,
    Gaussian,
    geometric,
    log_ranks,
    power_law,
    refitted,
    shares,
    weighted,
)

H, A = 5, 2


def elite(count=4, batch=2):
    generator = torch.Generator().manual_seed(3)
    actions = torch.randn(batch, H * A, count, generator=generator)
    energy = torch.rand(batch, count, generator=generator).sort(dim=1).values
    energy[0, -1] = torch.inf
    return Elite(actions, energy)


def standard(batch=2, root=None):
    return Gaussian(torch.zeros(batch, H * A, 1), torch.ones(batch, H * A, 1), root)


def test_refitting_against_numpy():
    some = elite()
    weight = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    new = weighted(standard(), some, shares(some, weight))
    for b, finite in enumerate((3, 4)):
        w = np.array([4.0, 3.0, 2.0, 1.0][:finite])
        x = some.actions[b, :, :finite].double().numpy()
        mean = np.average(x, axis=1, weights=w)
        std = np.sqrt(np.average((x - mean[:, None]) ** 2, axis=1, weights=w))
        assert np.allclose(new.mean[b, :, 0], mean, atol=1e-6)
        assert np.allclose(new.std[b, :, 0], std, atol=1e-6)


def test_an_environment_without_a_finite_energy_keeps_its_gaussian():
    some, root = elite(), geometric(H, 0.6).expand(2, -1, -1)
    energy = torch.stack([torch.full((4,), torch.inf), some.energy[1]])
    old, floor = standard(root=root), torch.full((H * A, 1), 0.5)
    new = refitted(old, Elite(some.actions, energy), ICEM(elites=4)._refit, floor)
    for before, after in zip(old, new, strict=True):
        assert torch.equal(after[0], before[0])
        assert after.isfinite().all()
        assert not torch.allclose(after[1], before[1])
    assert new.std.min() == 0.5, "and none is narrower than asked"


def test_log_rank_weights_are_those_of_the_tutorial():
    weight = log_ranks(elite())
    assert torch.allclose(weight[0], torch.tensor([4.5 / i for i in (1, 2, 3, 4)]).log())
    assert torch.allclose(shares(elite(), weight).sum(dim=1), torch.ones(2))


def test_the_learnt_correlation_against_numpy():
    some, root, adapt = elite(), geometric(H, 0.6), 0.4
    share = shares(some, log_ranks(some))
    found = adapted(root.expand(2, -1, -1), some.actions, share, adapt)
    old = (root @ root.T).double().numpy()
    for b in range(2):
        w, x = share[b].double().numpy(), some.actions[b].double().numpy().reshape(H, A, -1)
        unit = x / np.sqrt(np.einsum("k,hak->ha", w, x**2))[..., None]
        wanted = np.einsum("k,iak,jak->ij", w, unit, unit) / A
        assert np.allclose(np.diag(wanted), 1)
        new = (1 - adapt) * old + adapt * wanted + 1e-4 * np.eye(H)
        assert np.allclose((found[b] @ found[b].T).numpy(), new, atol=1e-5)
    still = adapted(root[None], torch.zeros(1, H * A, 4), torch.full((1, 4), 0.25), adapt)
    assert still.isfinite().all()


def test_coloured_noise_has_the_stated_correlation():
    wanted = 0.8 ** torch.tensor([[abs(i - j) for j in range(H)] for i in range(H)])
    assert torch.allclose(geometric(H, 0.8) @ geometric(H, 0.8).T, wanted, atol=1e-6)
    white = torch.randn(1, H * A, 40_000, generator=torch.Generator().manual_seed(0))
    moves = standard(1, geometric(H, 0.8)[None]).draw(white).view(H, A, -1)
    assert np.abs(np.corrcoef(moves[:, 0]) - wanted.numpy()).max() < 0.02


def test_noise_of_a_batch_is_white_for_every_environment_and_turned_between_them():
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([drawn(torch.randn, (6,), 4, generator) for _ in range(20_000)])
    assert draws.shape == (20_000, 4, 6)
    for environment in draws.unbind(dim=1):
        assert np.abs(np.cov(environment.T) - np.eye(6)).max() < 0.04
    assert torch.equal(draws[0].sort(dim=1).values, draws[0, :1].sort(dim=1).values.expand(4, -1))
    assert len({tuple(row) for row in draws[0].tolist()}) > 1


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_power_law_noise_against_the_fast_fourier_transform(beta):
    horizon = 12
    root = power_law(horizon, beta).double().numpy()
    power = np.maximum(np.arange(horizon + 1), 1.0) ** -beta
    circle = np.fft.irfft(power)  # the autocovariance of noise of period 2 horizon
    wanted = circle[:horizon] / circle[0]
    for i in range(horizon):
        for j in range(horizon):
            assert (root @ root.T)[i, j] == pytest.approx(wanted[abs(i - j)], abs=1e-5)
    assert np.allclose(power_law(horizon, 0.0), np.eye(horizon), atol=1e-6)
