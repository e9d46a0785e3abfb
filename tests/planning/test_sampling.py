"""What sampling planners are made of: refits, weights and noise, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.planning.icem import adapted
from jepa.planning.sampling import (
    Elite,
    Gaussian,
    geometric,
    log_ranks,
    power_law,
    shares,
    weighted,
)

H, A = 5, 2


def elite(count=4, batch=2):
    generator = torch.Generator().manual_seed(3)
    actions = torch.randn(count, batch, H, A, generator=generator)
    energy = torch.rand(count, batch, generator=generator).sort(dim=0).values
    energy[-1, 0] = torch.inf
    return Elite(actions, energy)


def test_refitting_against_numpy():
    some, old = elite(), Gaussian(torch.zeros(2, H, A), torch.ones(2, H, A))
    weight = torch.tensor([4.0, 3.0, 2.0, 1.0])[:, None].expand(4, 2)
    new = weighted(old, some, shares(some, weight))
    for b, finite in enumerate((3, 4)):
        w = np.array([4.0, 3.0, 2.0, 1.0][:finite])
        x = some.actions[:finite, b].double().numpy()
        mean = np.average(x, axis=0, weights=w)
        std = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
        assert np.allclose(new.mean[b], mean, atol=1e-6)
        assert np.allclose(new.std[b], std, atol=1e-6)
    nothing = Elite(some.actions, torch.full((4, 2), torch.inf))
    kept = weighted(old, nothing, shares(nothing, weight))
    assert torch.equal(kept.mean, old.mean)
    assert torch.equal(kept.std, old.std)


def test_log_rank_weights_are_those_of_the_tutorial():
    weight = log_ranks(elite())
    assert torch.allclose(weight[:, 1], torch.tensor([4.5 / i for i in (1, 2, 3, 4)]).log())
    assert torch.allclose(shares(elite(), weight).sum(dim=0), torch.ones(2))


def test_the_learnt_correlation_against_numpy():
    some, root, adapt = elite(), geometric(H, 0.6), 0.4
    share = shares(some, log_ranks(some))
    found = adapted(root, some.actions, share, adapt)
    old = (root @ root.T).double().numpy()
    for b in range(2):
        w, x = share[:, b].double().numpy(), some.actions[:, b].double().numpy()
        unit = x / np.sqrt(np.einsum("k,kha->ha", w, x**2))
        wanted = np.einsum("k,kia,kja->ij", w, unit, unit) / A
        assert np.allclose(np.diag(wanted), 1)
        new = (1 - adapt) * old + adapt * wanted + 1e-4 * np.eye(H)
        assert np.allclose((found[b] @ found[b].T).numpy(), new, atol=1e-5)
    none = adapted(root, some.actions, torch.zeros(4, 2), adapt)
    assert np.allclose((none[0] @ none[0].T).numpy(), old, atol=2e-4)
    still = adapted(root, torch.zeros(4, 2, H, A), torch.full((4, 2), 0.25), adapt)
    assert still.isfinite().all()


def test_coloured_noise_has_the_stated_correlation():
    wanted = 0.8 ** torch.tensor([[abs(i - j) for j in range(H)] for i in range(H)])
    assert torch.allclose(geometric(H, 0.8) @ geometric(H, 0.8).T, wanted, atol=1e-6)
    white = torch.randn(40_000, 1, H, A, generator=torch.Generator().manual_seed(0))
    drawn = Gaussian(torch.zeros(1, H, A), torch.ones(1, H, A), geometric(H, 0.8)).draw(white)
    assert np.abs(np.corrcoef(drawn[:, 0, :, 0].T) - wanted.numpy()).max() < 0.02


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
