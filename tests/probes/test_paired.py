"""Paired tests against enumeration, the closed form and definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from jepa.probes.intervals import Interval, bootstrap
from jepa.probes.paired import difference, holm, mcnemar


def answers(only_a, only_b, both, neither):
    counts = [only_a, only_b, both, neither]
    right = np.repeat([[True, False], [False, True], [True, True], [False, False]], counts, axis=0)
    a, b = np.random.default_rng(0).permutation(right).T
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 0), (3, 9), (9, 3), (6, 6)])
def test_the_p_value_is_that_of_all_coin_tosses(only_a, only_b):
    found = mcnemar(*answers(only_a, only_b, 40, 7))
    n, observed = only_a + only_b, abs(only_a - only_b)
    far = [abs(sum(tosses)) >= observed for tosses in product((-1, 1), repeat=n)]
    assert found.p_value == pytest.approx(np.mean(far), abs=1e-12)
    assert found.difference.value == pytest.approx((only_a - only_b) / (n + 47), abs=1e-12)


def test_the_interval_is_near_its_closed_form_and_far_from_the_unpaired():
    a, b = answers(60, 30, 800, 110)
    value, low, high = mcnemar(a, b).difference
    half = 1.96 * np.sqrt((0.09 - 0.03**2) / 1000)
    assert (value, low, high) == pytest.approx((0.03, 0.03 - half, 0.03 + half), abs=2e-3)
    unpaired = 1.96 * np.sqrt((a.var() + b.var()) / 1000)
    assert high - low < 0.7 * 2 * unpaired
    assert mcnemar(a, b, seed=1).difference != (value, low, high)
    back = mcnemar(b, a)
    assert back.difference == pytest.approx((-value, -high, -low), abs=1e-12)


def test_equal_answers_differ_by_nothing():
    a, _ = answers(5, 5, 5, 5)
    assert mcnemar(a, a) == ((0, 0, 0), 1.0)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_the_p_value_of_groups_is_that_of_all_exchanges(count):
    random = np.random.default_rng(count)
    groups = np.repeat(np.arange(count), random.integers(2, 9, count)) + 3
    a, b = random.random((2, len(groups))) < [[0.7], [0.4]]
    gaps = [(a.astype(int) - b)[groups == group].sum() for group in np.unique(groups)]
    exchanged = [abs(np.dot(signs, gaps)) for signs in product((-1, 1), repeat=count)]
    shuffled = random.permutation(len(groups))
    found = mcnemar(a[shuffled], b[shuffled], groups=groups[shuffled])
    assert found.p_value == pytest.approx(np.mean(np.array(exchanged) >= abs(sum(gaps))), abs=1e-12)
    assert found.difference.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)


def test_groups_of_one_image_are_mcnemars():
    a, b = answers(9, 3, 40, 7)
    assert mcnemar(a, b, groups=np.random.default_rng(0).permutation(len(a))) == mcnemar(a, b)


def crowds(random, count=40):
    """Two equally good answers about images in groups, which each finds hard or easy as a whole."""
    groups = np.repeat(np.arange(count), random.integers(3, 20, count))
    return *(random.random((2, len(groups))) < random.beta(0.7, 1.3, (2, count))[:, groups]), groups


def test_where_neither_is_better_p_values_of_groups_are_uniform(monkeypatch):
    none = Interval(0.0, 0.0, 0.0)
    monkeypatch.setattr("jepa.probes.paired.difference", lambda *_, **__: none)  # it is slow
    random, found, single = np.random.default_rng(0), [], []
    for _ in range(600):
        a, b, groups = crowds(random)
        found.append(mcnemar(a, b, groups=groups).p_value)
        single.append(mcnemar(a, b).p_value)
    assert stats.kstest(found, "uniform").statistic < 0.08
    assert np.mean(np.array(found) < 0.05) < 0.075
    assert np.mean(np.array(single) < 0.05) > 0.3


def test_the_difference_is_covered_by_the_interval_of_groups(monkeypatch):
    def fewer(*rows, **options):
        return bootstrap(*rows, **options, resamples=100)

    monkeypatch.setattr("jepa.probes.paired.bootstrap", fewer)
    random, covered = np.random.default_rng(0), np.zeros(2)
    for seed in range(80):
        a, b, groups = crowds(random)
        both = (mcnemar(a, b, groups=some, seed=seed).difference for some in (groups, None))
        covered += [interval.low <= 0 <= interval.high for interval in both]
    assert covered[0] >= 0.88 * 80
    assert covered[1] < 0.7 * 80


def test_any_statistic_of_rows_is_compared_pair_by_pair():
    random = np.random.default_rng(0)
    truth = random.normal(size=300)
    a, b = (np.stack([truth, truth + s * random.normal(size=300)], axis=1) for s in (0.3, 0.6))

    def r2(rows):
        return 1 - np.square(rows[:, 0] - rows[:, 1]).mean() / rows[:, 0].var()

    found = difference(a, b, r2, seed=3)
    assert found.value == pytest.approx(r2(a) - r2(b), abs=1e-12)
    assert found.low > 0
    means = difference(a[:, 1], b[:, 1], seed=3)
    assert means == pytest.approx(bootstrap(a[:, 1] - b[:, 1], np.mean, seed=3), abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 5, 9])
def test_holm_rejects_step_by_step(m):
    """The definition: go from the smallest on, stop at the first above level / (left)."""
    random = np.random.default_rng(m)
    p = (random.random(m) ** 3).round(3)
    p[-1] = p[0]
    adjusted = holm(p)
    for level in np.linspace(0.001, 0.999, 101):
        rejected = set()
        for rank, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] > level / (m - rank):
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(adjusted <= level)) == rejected


def test_holm_of_known_values():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_array_equal(holm([0.9, 0.8]), [1, 1])
    assert holm([]).shape == (0,)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"same images; got shapes \(3,\) and \(2,\)"):
        mcnemar(np.ones(3, dtype=bool), np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="no rows"):
        mcnemar(np.ones(0, dtype=bool), np.ones(0, dtype=bool))
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, np.nan])
