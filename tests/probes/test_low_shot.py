"""Low-shot draws: stratified, reproducible, of different things; scores as by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier

from jepa.probes.linear import LinearProbe
from jepa.probes.low_shot import few, low_shot
from jepa.seeds import derive

NEAREST = KNeighborsClassifier(1)


def blobs(n=600, classes=4, d=8, seed=0):
    random = np.random.default_rng(seed)
    y = random.choice(classes, size=n, p=np.arange(1, classes + 1) / 10)
    return np.eye(classes, d)[y] + 0.5 * random.normal(size=(n, d)), y


@pytest.mark.parametrize(("shots", "expected"), [
    (1, [1, 1, 1]), (10, [10, 10, 10]),
    (0.01, [1, 2, 3]), (0.1, [6, 20, 30]), (1.0, [60, 200, 300]),
])  # fmt: skip
def test_the_draw_has_its_count_of_every_class(shots, expected):
    y = np.random.default_rng(0).permutation(np.repeat([5, 7, 9], [60, 200, 300]))
    rows = few(y, shots, seed=1)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(np.unique(y[rows], return_counts=True), ([5, 7, 9], expected))
    np.testing.assert_array_equal(few(y, shots, seed=1), rows)
    if shots != 1.0:
        assert set(few(y, shots, seed=2)) != set(rows)


def test_every_row_is_as_likely():
    y = np.arange(40) % 2
    drawn = np.bincount(np.concatenate([few(y, 5, seed=s) for s in range(800)]), minlength=40)
    assert stats.chisquare(drawn).pvalue > 1e-4


def test_one_row_of_each_thing():
    y, groups = np.repeat([0, 1], 60), np.arange(120) // 6
    rows = few(y, 10, seed=0, groups=groups)
    assert len(set(groups[rows])) == len(rows) == 20
    assert len(few(y, 0.1, seed=0, groups=groups)) == 2
    assert {few(y, 1, seed=s, groups=groups)[0] % 6 for s in range(60)} == set(range(6))
    with pytest.raises(ValueError, match="class 0 has 10 groups, too few for shots=11"):
        few(y, 11, seed=0, groups=groups)
    with pytest.raises(ValueError, match="one group per row"):
        few(y, 1, seed=0, groups=groups[1:])


def test_the_scores_are_those_by_hand():
    x, y = blobs()
    test, truth = blobs(300, seed=1)
    one, five = low_shot(NEAREST, x, y, test, truth, shots=(1, 5), draws=4, seed=3)
    assert (one.shots, one.labels, five.shots, five.labels) == (1, 4, 5, 20)
    assert len(set(one.draws)) > 1
    for record in (one, five):
        rows = [
            few(y, record.shots, seed=derive(3, "low shot", str(record.shots), d)) for d in range(4)
        ]
        right = np.stack([clone(NEAREST).fit(x[r], y[r]).predict(test) == truth for r in rows])
        np.testing.assert_array_equal(record.draws, right.mean(axis=1))
        parts = np.array([stats.sem(right.mean(axis=1)) ** 2, stats.sem(right.mean(axis=0)) ** 2])
        freedom = parts.sum() ** 2 / (parts**2 / [3, 299]).sum()
        limits = stats.t.interval(0.95, freedom, right.mean(), parts.sum() ** 0.5)
        assert record.accuracy == pytest.approx((right.mean(), *limits))
    again = low_shot(NEAREST, x, y, test, truth, shots=(5, 1), draws=4, seed=3)
    assert again == [five, one]
    assert low_shot(NEAREST, x, y, test, truth, shots=(1,), draws=4, seed=4) != [one]


@pytest.mark.parametrize("alike", [1, 10])
def test_the_interval_covers_what_other_test_rows_would_give(alike):
    """`alike` test rows of each thing; the truth is measured on 10,000 rows and 40 draws."""
    x, y = blobs(200)
    (truth,) = low_shot(NEAREST, x, y, *blobs(10_000, seed=1), shots=(5,), draws=40, seed=1)
    inside = 0
    for trial in range(80):
        test, labels = blobs(100, seed=2 + trial)
        things = np.repeat(np.arange(100), alike)
        (found,) = low_shot(NEAREST, x, y, test[things], labels[things], shots=(5,), draws=5,
                            test_groups=things, seed=2 + trial)  # fmt: skip
        inside += found.accuracy.low <= truth.accuracy.value <= found.accuracy.high
    assert inside >= 0.9 * 80


def test_more_labels_help_and_all_labels_are_the_probe_itself():
    x, y = blobs()
    test, truth = blobs(400, seed=1)
    found = low_shot(LinearProbe(C=0.1), x, y, test, truth, shots=(1, 10, 1.0), draws=3)
    values = [record.accuracy.value for record in found]
    assert values == sorted(values)
    assert found[-1].draws == (LinearProbe(C=0.1).fit(x, y).score(test, truth),) * 3


@pytest.mark.parametrize("shots", [0, -1, 0.0, 1.5])
def test_nonsense_is_refused(shots):
    x, y = blobs(60)
    with pytest.raises(ValueError, match="labels per class"):
        few(y, shots, seed=0)
    with pytest.raises(ValueError, match="at least 2 draws"):
        low_shot(NEAREST, x, y, x, y, draws=1)
    with pytest.raises(ValueError, match="too few for shots=50"):
        low_shot(NEAREST, x, y, x, y, shots=(50,))
