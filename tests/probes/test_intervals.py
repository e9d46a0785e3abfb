"""Intervals against scipy's and against the closed form of a mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jepa.probes.intervals import bootstrap, jackknife, mean_interval, wilson


@pytest.mark.parametrize(("right", "of"), [(0, 10), (10, 10), (3, 7), (880, 1000), (1, 10_000)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_wilson_equals_scipy(right, of, confidence):
    truth = stats.binomtest(right, of).proportion_ci(confidence, method="wilson")
    found = wilson(right, of, confidence)
    assert found.value == right / of
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high), abs=1e-12)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("bad", [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(bad):
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        wilson(*bad)


def test_bootstrap_of_a_mean_is_near_its_closed_form():
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    found = bootstrap(rows, np.mean, seed=0, resamples=4000)
    half = 1.96 * rows.std() / 20
    assert found.value == pytest.approx(rows.mean())
    assert found.low == pytest.approx(rows.mean() - half, abs=0.03)
    assert found.high == pytest.approx(rows.mean() + half, abs=0.03)
    assert found == bootstrap(rows, np.mean, seed=0, resamples=4000)
    assert found != bootstrap(rows, np.mean, seed=1, resamples=4000)


def test_bootstrap_draws_rows_whole():
    rows = np.repeat(np.arange(50.0)[:, None], 2, axis=1)
    assert bootstrap(rows, lambda r: np.abs(r[:, 0] - r[:, 1]).max(), seed=0) == (0, 0, 0)


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.95), (5, 0.95), (5, 0.99), (300, 0.95)])
def test_the_interval_of_a_mean_is_students(n, confidence):
    values = np.random.default_rng(n).normal(0.7, 0.1, size=n)
    truth = stats.t.interval(confidence, n - 1, values.mean(), stats.sem(values))
    found = mean_interval(values, confidence)
    assert found == pytest.approx((values.mean(), *truth), abs=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(values[:1])


def test_the_jackknife_of_a_mean_is_students_interval_of_the_means_of_the_parts():
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=200)
    found = jackknife(rows, np.mean, seed=0, parts=200)
    truth = mean_interval(rows)
    assert found == pytest.approx(truth, rel=1e-9)
    coarse = jackknife(rows, np.mean, seed=0, parts=8)
    assert coarse.value == pytest.approx(rows.mean())
    assert 0.3 < (coarse.high - coarse.low) / (truth.high - truth.low) < 3


def test_the_jackknife_covers_a_ratio_that_has_a_closed_form():
    random = np.random.default_rng(1)
    inside = 0
    for i in range(200):
        rows = random.normal(size=(150, 2)) * [1.0, 2.0]
        found = jackknife(rows, lambda x: float(x[:, 1].var() / x[:, 0].var()), seed=i)
        inside += found.low <= 4.0 <= found.high
    assert 175 <= inside <= 199


@pytest.mark.parametrize("parts", [1, 11])
def test_the_jackknife_needs_parts_that_are_there(parts):
    with pytest.raises(ValueError, match="2 <= parts <= 10"):
        jackknife(np.arange(10.0), np.mean, seed=0, parts=parts)
