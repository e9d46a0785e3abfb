"""Clustering against scikit-learn, and its intervals against fresh samples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from jepa.probes.clustering import agreement, cluster
from jepa.seeds import derive


def blobs(n, seed, noise, classes=4, d=5):
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=n)
    return (np.eye(classes, d)[y] + noise * random.normal(size=(n, d))).astype(np.float32), y


def truth(assigned, y):
    return normalized_mutual_info_score(y, assigned), adjusted_rand_score(y, assigned)


@pytest.mark.parametrize(("clusters", "classes"), [(2, 2), (7, 3), (3, 9), (1, 4), (1, 1), (60, 5)])
def test_agreement_is_scikit_learns(clusters, classes):
    random = np.random.default_rng(clusters)
    assigned, y = random.integers(clusters, size=60), random.integers(classes, size=60)
    y[:20] = assigned[:20] % classes
    table = contingency_matrix(y, assigned).T
    np.testing.assert_allclose(agreement(table), truth(assigned, y), atol=1e-12)


@pytest.mark.parametrize("clusters", [None, 9])
def test_the_scores_are_those_of_k_means_on_directions(clusters):
    x, y = blobs(300, 0, 0.5)
    stretched = x * np.random.default_rng(1).uniform(0.1, 10, size=(300, 1)).astype(np.float32)
    found = cluster(stretched, y + 5, clusters=clusters, starts=3, resamples=10, seed=4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for start, scores in enumerate(found.starts):
        seed = derive(4, "k-means", start) % 2**32
        assigned = KMeans(clusters or 4, n_init=1, random_state=seed).fit_predict(unit)
        assert scores == pytest.approx(truth(assigned, y), abs=1e-3)
    nmi, ari = np.mean(found.starts, axis=0)
    assert (found.nmi.value, found.ari.value) == pytest.approx((nmi, ari), abs=1e-12)
    assert 0.2 < found.ari.low < found.ari.value < found.ari.high < 0.95


def test_classes_that_stand_apart_are_found_and_noise_is_not():
    x, y = blobs(400, 0, 0.02)
    assert cluster(x, y, resamples=50).ari == pytest.approx((1, 1, 1))
    found = cluster(x, np.random.default_rng(0).permutation(y), resamples=50)
    assert found.ari.low < 0 < found.ari.high
    assert found.nmi.high < 0.05


def test_the_interval_covers_what_other_samples_and_starts_give():
    """95 % of the intervals hold the mean over samples; 85 % is what 40 can show."""
    found = [
        cluster(*blobs(150, seed, 0.45), starts=5, resamples=40, seed=seed) for seed in range(40)
    ]
    for intervals in zip(*[(f.nmi, f.ari) for f in found], strict=True):
        value, low, high = np.array(intervals).T
        covered = (low <= value.mean()) & (value.mean() <= high)
        assert covered.mean() >= 0.85
        assert (high - low).mean() < 6 * value.std(), "wide enough is no art"


def test_the_seed_is_all_that_chance_depends_on():
    x, y = blobs(200, 0, 0.6)
    one = cluster(x, y, starts=3, resamples=50)
    assert cluster(x, y, starts=3, resamples=50) == one
    assert cluster(x, y, starts=3, resamples=50, seed=1) != one


def test_nonsense_is_refused():
    x, y = blobs(20, 0, 0.5)
    with pytest.raises(ValueError, match="one label per row, 20; got 19"):
        cluster(x, y[1:])
    with pytest.raises(ValueError, match="got 1, 1, 10 and 100"):
        cluster(x, np.zeros(20, dtype=np.int64))
    with pytest.raises(ValueError, match="2 to 20 clusters"):
        cluster(x, y, clusters=21)
    with pytest.raises(ValueError, match="got 4, 4, 1 and 100"):
        cluster(x, y, starts=1)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        cluster(x, y)
