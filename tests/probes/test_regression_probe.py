"""RidgeProbe against the closed form, and what an R2 is worth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.regression import RidgeProbe, r2, r2_interval


def linear(n=300, d=12, noise=0.5, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) * np.logspace(-2, 2, d) + 3
    y = (x / np.logspace(-2, 2, d)) @ random.normal(size=d) + noise * random.normal(size=n) + 40
    return x, y


def test_the_solution_is_the_closed_form_on_standardised_features():
    x, y = linear()
    probe = RidgeProbe(alphas=(7.0,)).fit(x, y)
    z = (x - x.mean(0)) / x.std(0)
    w = np.linalg.solve(z.T @ z + 7.0 * np.eye(12), z.T @ (y - y.mean()))
    np.testing.assert_allclose(probe.predict(x), z @ w + y.mean(), rtol=1e-9)
    np.testing.assert_allclose(probe.coef_, w / x.std(0), rtol=1e-8)
    assert probe.held_out_ == {}


def test_r2_of_a_known_function_and_of_noise():
    x, y = linear(2000, noise=1.0)
    probe = RidgeProbe().fit(x[:1000], y[:1000])
    signal = np.var(y - np.random.default_rng(0).normal(size=1)) - 1.0
    interval = r2_interval(y[1000:], probe.predict(x[1000:]), seed=0)
    assert interval.value == pytest.approx(probe.score(x[1000:], y[1000:]))
    assert interval.low < interval.value < interval.high
    assert interval.low < signal / (signal + 1.0) < interval.high
    nothing = np.random.default_rng(1).normal(size=1000)
    assert RidgeProbe().fit(x[:1000], nothing).score(x[1000:], nothing) < 0.02


def test_many_features_and_few_rows_choose_a_strong_penalty():
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 150))
    y = x[:, 0] + 3 * random.normal(size=600)
    probe = RidgeProbe().fit(x[:200], y[:200])
    assert probe.alpha_ > 10
    assert probe.held_out_[probe.alpha_] == max(probe.held_out_.values())
    assert probe.score(x[200:], y[200:]) > RidgeProbe((0.01,)).fit(x[:200], y[:200]).score(
        x[200:], y[200:]
    )


def test_near_copies_do_not_choose_the_penalty():
    random = np.random.default_rng(0)
    points, values = random.normal(size=(60, 100)), random.normal(size=60)
    x = np.repeat(points, 10, axis=0) + 0.01 * random.normal(size=(600, 100))
    y, groups = np.repeat(values, 10), np.repeat(np.arange(60), 10)
    assert max(RidgeProbe().fit(x, y).held_out_.values()) > 0.9
    assert max(RidgeProbe().fit(x, y, groups).held_out_.values()) < 0.5


@pytest.mark.parametrize("alphas", [(7.0,), (1.0, 10.0)])
def test_targets_in_columns_are_foretold_in_columns(alphas):
    x, y = linear()
    alone = RidgeProbe(alphas).fit(x, y)
    for k in (1, 2):
        probe = RidgeProbe(alphas).fit(x, np.stack([y] * k, axis=1))
        assert probe.coef_.shape == (k, 12)
        assert probe.intercept_.shape == (k,)
        np.testing.assert_allclose(probe.predict(x), np.stack([alone.predict(x)] * k, axis=1))
    assert np.ndim(alone.intercept_) == 0


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    check_estimator(RidgeProbe(), on_skip=None)


@pytest.mark.parametrize("noise", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("truth", [np.zeros(2), np.full(7, 0.1), np.arange(5.0) - 1e6])
def test_r2_is_scikit_learns(truth, noise):
    said = truth + noise * np.random.default_rng(0).normal(size=len(truth))
    assert r2(np.stack([truth, said], axis=1)) == pytest.approx(r2_score(truth, said), rel=1e-9)
