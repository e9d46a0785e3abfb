"""Intervals against scipy's and against the closed form of a mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jepa.probes.intervals import (
    accuracy_interval,
    bootstrap,
    jackknife,
    mean_interval,
    mean_variance,
    wilson,
)


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


def clustered(random, groups, share, alike):
    """Right or wrong in groups of 3 to 39 rows, whose shares are Beta's of the given mean and
    intraclass correlation."""
    a, b = share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike
    of_each = np.repeat(np.arange(groups), random.integers(3, 40, groups))
    return random.random(len(of_each)) < random.beta(a, b, groups)[of_each], of_each


@pytest.mark.parametrize(("groups", "share"), [(139, 0.25), (40, 0.05), (12, 0.5)])
def test_accuracies_of_rows_in_groups_are_covered_where_wilsons_interval_is_not(groups, share):
    random, covered = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        right, of_each = clustered(random, groups, share, 0.3)
        both = wilson(int(right.sum()), len(right)), accuracy_interval(right, of_each)
        covered += [found.low <= share <= found.high for found in both]
    assert covered[0] < 0.65 * 400
    assert 0.9 * 400 <= covered[1] <= 0.98 * 400


@pytest.mark.parametrize("right", [0, 1, 13, 50])
def test_groups_of_one_row_are_no_groups(right):
    answers = np.random.default_rng(0).permutation(np.arange(50) < right)
    alone = np.random.default_rng(1).permutation(50) + 7
    for groups in (None, alone):
        assert accuracy_interval(answers, groups) == wilson(right, 50)
    values = answers + np.linspace(0, 1, 50)
    for function in (bootstrap, jackknife):
        assert function(values, np.mean, seed=3, groups=alone) == function(values, np.mean, seed=3)
    assert mean_variance(values, alone) == mean_variance(values)
    assert mean_variance(values)[0] == pytest.approx(stats.sem(values) ** 2)


def test_equal_rows_of_a_group_count_once():
    """Each row seven times: the variance is that of the rows, to which Student's t is added."""
    values = np.random.default_rng(0).random(40)
    groups = np.repeat(np.arange(40), 7)
    many = np.repeat(values, 7)
    assert mean_variance(many, groups) == pytest.approx(mean_variance(values))
    assert bootstrap(many, np.mean, seed=2, groups=groups) == pytest.approx(
        bootstrap(values, np.mean, seed=2)
    )
    assert jackknife(many, np.mean, seed=2, groups=groups) == pytest.approx(
        jackknife(values, np.mean, seed=2)
    )
    right = np.arange(40) < 11
    found, alone = accuracy_interval(np.repeat(right, 7), groups), wilson(11, 40)
    assert found.value == alone.value
    assert 1 < (found.high - found.low) / (alone.high - alone.low) < 1.1
    none = accuracy_interval(np.zeros(280, dtype=bool), groups)
    assert 1 < none.high / wilson(0, 40).high < 1.1


def test_bootstrap_and_jackknife_cover_means_of_rows_in_groups():
    random, covered = np.random.default_rng(0), np.zeros(3)
    for i in range(100):
        right, groups = clustered(random, 60, 0.4, 0.3)
        rows = right.astype(float)
        found = [
            bootstrap(rows, np.mean, seed=i, groups=groups, resamples=100),
            jackknife(rows, np.mean, seed=i, groups=groups),
            bootstrap(rows, np.mean, seed=i, resamples=100),
        ]
        covered += [interval.low <= 0.4 <= interval.high for interval in found]
    assert (covered[:2] >= 0.88 * 100).all()
    assert covered[2] < 0.65 * 100


def test_groups_that_vary_less_than_rows_make_no_more_of_them():
    right, groups = np.arange(200) % 2 == 0, np.arange(200) // 10
    found, alone = accuracy_interval(right, groups), wilson(100, 200)
    assert found.low < alone.low < found.high - 0.1


def test_one_group_tells_nothing_of_others():
    right, groups = np.arange(10) < 3, np.zeros(10, dtype=int)
    assert accuracy_interval(right, groups) == (0.3, 0, 1)
    rows = right.astype(float)
    value, low, high = bootstrap(rows, np.mean, seed=0, groups=groups)
    assert value == pytest.approx(0.3)
    assert np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="number of groups"):
        jackknife(rows, np.mean, seed=0, groups=groups)
    with pytest.raises(ValueError, match="one group per row, 10; got 9"):
        accuracy_interval(right, groups[1:])


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
