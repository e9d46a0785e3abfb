"""Diagnostics on cases whose answers are known, and against formulas written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa import diagnostics, seeds
from jepa.diagnostics import (
    alignment,
    alpha_req,
    covariance_spectrum,
    feature_spectrum,
    lidar,
    rankme,
    uniformity,
)


def normal(*shape, name="features"):
    return torch.randn(*shape, generator=seeds.generator(0, name), dtype=torch.float64)


def with_variances(variances, n):
    """Features whose covariance (mean over n) has exactly these eigenvalues, turned at random."""
    d = len(variances)
    draws = normal(n, d)
    axes = torch.linalg.qr(draws - draws.mean(dim=0))[0] * math.sqrt(n)
    turn = torch.linalg.qr(normal(d, d, name="turn"))[0]
    return axes * torch.as_tensor(variances).sqrt() @ turn + 7


def effective_rank(values, epsilon=1e-7):
    p = np.asarray(values) / np.sum(values) + epsilon
    return float(np.exp(-(p * np.log(p)).sum()))


def lidar_by_the_book(views, delta):
    """Sums over images and views, and an inverse square root by eigenvectors, as in the paper."""
    x = views.numpy()
    images, count, d = x.shape
    means = x.mean(axis=1)
    between, within = np.zeros((d, d)), np.eye(d) * delta
    for image in range(images):
        gap = means[image] - means.mean(axis=0)
        between += np.outer(gap, gap) / images
        for view in range(count):
            gap = x[image, view] - means[image]
            within += np.outer(gap, gap) / (images * count)
    values, vectors = np.linalg.eigh(within)
    root = vectors / np.sqrt(values) @ vectors.T
    return effective_rank(np.linalg.eigvalsh(root @ between @ root).clip(0)[-min(images, d) :])


@pytest.mark.parametrize(("images", "d"), [(30, 6), (5, 12)])
@pytest.mark.parametrize("delta", [1e-4, 1.0])
def test_lidar_is_the_papers_formula(images, d, delta):
    views = normal(images, 1, d) + 0.3 * normal(images, 4, d, name="views") * torch.arange(1, d + 1)
    assert lidar(views, delta=delta).item() == pytest.approx(
        lidar_by_the_book(views, delta), rel=1e-9
    )


def test_lidar_of_orthogonal_class_means_is_their_number_less_one():
    for classes in (2, 5, 9):
        views = torch.eye(classes, 16)[:, None] + torch.zeros(1, 3, 1)
        assert lidar(views).item() == pytest.approx(classes - 1, rel=1e-4)


def test_lidar_sees_only_what_augmentation_leaves():
    """Ten axes of equal variance; in five of them the views of an image differ just as much."""
    draws = normal(4000, 8, 10)
    draws[:, :, :5] = 10 * normal(4000, 1, 5, name="image") + 0.1 * draws[:, :, :5]
    draws[:, :, 5:] *= 10
    assert lidar(draws).item() == pytest.approx(5, rel=0.01)
    assert rankme(draws[:, 0]).item() == pytest.approx(10, rel=0.01)


def test_lidar_does_not_care_for_an_invertible_map_but_for_delta():
    views = normal(50, 1, 6) + normal(50, 5, 6, name="views")
    turned = views @ (normal(6, 6, name="map") * torch.logspace(-2, 2, 6))
    assert lidar(turned, delta=1e-12).item() == pytest.approx(
        lidar(views, delta=1e-12).item(), rel=1e-6
    )


def test_lidar_of_a_collapse_is_one():
    assert lidar(torch.ones(20, 4, 8)).item() == pytest.approx(1, rel=1e-3)
    line = torch.arange(20.0)[:, None, None] * torch.ones(8) + torch.zeros(1, 4, 1)
    assert lidar(line).item() == pytest.approx(1, rel=1e-3)
    with pytest.raises(ValueError, match="at least 2 views"):
        lidar(torch.ones(20, 1, 8))


def test_spectra_are_the_singular_values_and_the_variances():
    variances = [9.0, 4.0, 1.0, 0.25, 1e-10]
    features = with_variances(variances, 200)
    np.testing.assert_allclose(covariance_spectrum(features), variances, rtol=1e-5)
    truth = np.linalg.eigvalsh(features.T.numpy() @ features.numpy())[::-1]
    np.testing.assert_allclose(feature_spectrum(features) ** 2, truth, rtol=1e-6, atol=1e-9)
    assert feature_spectrum(features[:3]).shape == (3,)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
def test_alpha_of_an_exact_power_law_is_its_exponent(alpha):
    variances = torch.arange(1, 65, dtype=torch.float64) ** -alpha
    features = with_variances(variances, 300)
    assert alpha_req(features).item() == pytest.approx(alpha, abs=1e-8)
    assert alpha_req(features, first=1, last=64).item() == pytest.approx(alpha, abs=1e-8)


def test_alpha_is_a_weighted_fit_of_its_range_only():
    variances = torch.exp(-0.1 * torch.arange(40, dtype=torch.float64))
    i = np.arange(3, 21)
    slope = np.polyfit(np.log(i), variances[2:20].log().numpy(), 1, w=i**-0.5)[0]
    features = with_variances(variances, 100)
    assert alpha_req(features, first=3, last=20).item() == pytest.approx(-slope, rel=1e-8)


def test_alpha_needs_variances_to_fit():
    with pytest.raises(ValueError, match="0 variances"):
        alpha_req(torch.ones(100, 32))
    with pytest.raises(ValueError, match="3 variances"):
        alpha_req(with_variances([1.0, 1.0, 1.0], 50), first=1, last=4)


def test_alignment_of_known_pairs():
    features = normal(50, 8)
    assert alignment(features, 5 * features).item() == pytest.approx(0, abs=1e-25)
    assert alignment(features, -features).item() == pytest.approx(4)
    assert alignment(features, -features, alpha=3.0).item() == pytest.approx(8)
    assert alignment(torch.eye(4), torch.eye(4).roll(1, 0)).item() == pytest.approx(2)


def test_uniformity_of_known_pairs(monkeypatch):
    assert uniformity(torch.ones(20, 8)).item() == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.zeros(20, 8)).item() == pytest.approx(0, abs=1e-12)
    antipodal = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert uniformity(antipodal).item() == pytest.approx(-8)
    assert uniformity(antipodal, t=20.0).item() == pytest.approx(-80)
    monkeypatch.setattr(diagnostics, "_BLOCK", 100)  # several blocks, the last one ragged
    features = normal(70, 5)
    unit = torch.nn.functional.normalize(features, dim=1)
    truth = torch.pdist(unit).square().mul(-2).exp().mean().log()
    assert uniformity(features).item() == pytest.approx(truth.item(), rel=1e-12)


def test_uniformity_of_a_sphere_is_its_integral():
    """E exp(2 t u.v) over the sphere of R^3 is sinh(2 t) / (2 t); |u - v|^2 = 2 - 2 u.v."""
    truth = math.log(math.sinh(4) / 4) - 4
    assert uniformity(normal(3000, 3)).item() == pytest.approx(truth, abs=0.01)
    high = uniformity(normal(2000, 500)).item()
    assert high == pytest.approx(-4, abs=0.02)


def test_an_isotropic_gaussian_is_of_full_rank_and_flat():
    features = normal(20_000, 32)
    assert rankme(features).item() == pytest.approx(32, rel=0.01)
    assert alpha_req(features).item() == pytest.approx(0, abs=0.05)
    views = normal(3000, 1, 16, name="image") + normal(3000, 10, 16, name="views")
    assert lidar(views).item() == pytest.approx(16, rel=0.01)
