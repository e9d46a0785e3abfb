"""Losses against loops and numpy."""

import numpy as np
import pytest
import torch

from jepa.losses import DISTANCES, VarianceCovariance, covariance_loss, variance_loss


def test_variance_and_covariance_are_vicregs():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([0.1, 0.5, 1.0, 2.0, 0.0]) + torch.tensor([3.0, 0, 0, -1, 7])
    rows = x.numpy()
    hinge = [max(0.0, 1.0 - np.sqrt(rows[:, d].var(ddof=1) + 1e-4)) for d in range(5)]
    np.testing.assert_allclose(variance_loss(x).item(), np.mean(hinge), rtol=1e-9)
    c = np.cov(rows.T)
    expected = sum(c[i, j] ** 2 for i in range(5) for j in range(5) if i != j) / 5
    np.testing.assert_allclose(covariance_loss(x).item(), expected, rtol=1e-9)


def test_white_latents_cost_nothing_and_collapsed_ones_cost_the_weight():
    weights = VarianceCovariance(variance=3.0, covariance=5.0)
    white = torch.randn(64, 256, 8, generator=torch.Generator().manual_seed(1)) * 1.2
    collapsed = torch.ones(4, 10, 8)
    assert weights(white)["variance"] == 0
    assert weights(white)["covariance"] < 0.01
    assert abs(weights(collapsed)["variance"].item() - 3.0 * 0.99) < 1e-4
    copies = white[..., :1].expand(-1, -1, 8)
    assert weights(copies)["covariance"] > 5.0
    assert weights(white.bfloat16())["variance"].dtype == torch.float32
    with pytest.raises(ValueError, match="at least 0"):
        VarianceCovariance(variance=-1.0)


def test_gradients_spread_a_collapsed_batch():
    torch.manual_seed(0)
    latents = (1 + 0.01 * torch.randn(8, 16, 6)).requires_grad_()
    loss = VarianceCovariance(variance=1.0, covariance=0.0)
    before = latents.flatten(0, 1).std(0).mean().item()
    step = torch.autograd.grad(sum(loss(latents).values()), latents)[0]
    assert (latents - 10 * step).flatten(0, 1).std(0).mean() > 1.5 * before


def test_distances():
    a, b = torch.tensor([0.0, 0.0]), torch.tensor([0.5, 3.0])
    expected = {"l1": 1.75, "mse": 4.625, "smooth_l1": (0.125 + 2.5) / 2}
    for name, value in expected.items():
        assert DISTANCES[name](a, b).item() == pytest.approx(value)
