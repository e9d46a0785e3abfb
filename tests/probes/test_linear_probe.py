"""LinearProbe against scikit-learn's optimum."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.linear import LinearProbe
from jepa.probes.splits import folds, split


def correlated(n, d, classes, seed=0):
    """Features of very different scales and offsets, strongly correlated; noisy labels."""
    random = np.random.default_rng(seed)
    mixing = (
        random.normal(size=(d, d)) @ np.diag(np.logspace(0, -2, d)) @ random.normal(size=(d, d))
    )
    x = random.normal(size=(n, d)) @ mixing
    y = (x @ random.normal(size=(d, classes)) + random.gumbel(size=(n, classes)) * 3).argmax(axis=1)
    return x * np.logspace(-2, 2, d) + 5, y


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
def test_the_optimum_is_scikit_learns(classes, C):
    x, y = correlated(600, 20, classes)
    newton = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
    truth = make_pipeline(StandardScaler(), newton)
    truth.fit(x, y)
    probe = LinearProbe(C=C, tol=1e-8).fit(x, y)
    scale, linear = truth[0].scale_, truth[1]
    np.testing.assert_allclose(probe.coef_ * scale, linear.coef_, atol=3e-4)
    np.testing.assert_allclose(probe.predict_proba(x), truth.predict_proba(x), atol=3e-5)
    np.testing.assert_array_equal(probe.predict(x), truth.predict(x))


@pytest.mark.parametrize("rows", [39, 40, 41, 12])
@pytest.mark.parametrize("classes", [2, 3])
def test_with_fewer_rows_than_features_the_optimum_is_scikit_learns_too(rows, classes):
    x, _ = correlated(200, 40, classes, seed=1)
    x[:, 7] = 3.0  # tells nothing
    few, known = x[:rows], np.arange(rows) % classes
    truth = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-10)
    ).fit(few, known)
    probe = LinearProbe(C=0.3, tol=1e-8).fit(few, known)
    np.testing.assert_allclose(probe.coef_ * truth[0].scale_, truth[1].coef_, atol=1e-6)
    np.testing.assert_allclose(probe.intercept_ + probe.coef_ @ truth[0].mean_,
                               truth[1].intercept_, atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(probe.predict_proba(x), truth.predict_proba(x), atol=1e-6)


def test_default_tolerance_and_float32_are_enough():
    x, y = correlated(2000, 40, 5)
    exact = LinearProbe(C=0.1, tol=1e-8).fit(x, y).predict_proba(x)
    usual = LinearProbe(C=0.1).fit(x.astype(np.float32), y).predict_proba(x.astype(np.float32))
    np.testing.assert_allclose(usual, exact, atol=5e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_float32_features_that_are_nearly_the_same_few_have_an_optimum_too(seed):
    random = np.random.default_rng(seed)
    told = random.normal(size=(5000, 2))
    x = told @ random.normal(size=(2, 8)) + 1e-4 * random.normal(size=(5000, 8))
    x = x.astype(np.float32)
    y = (told + 0.1 * random.normal(size=(5000, 2)) > 0) @ [1, 2]
    exact = LinearProbe(C=1e4).fit(x.astype(np.float64), y)
    probe = LinearProbe(C=1e4).fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(x), exact.predict_proba(x), atol=0.02)


def test_the_chosen_strength_does_as_well_as_cross_validation():
    x, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": np.logspace(-4, 1, 6)},
        cv=3,
    ).fit(train, y_train)
    probe = LinearProbe().fit(train, y_train)
    assert probe.score(test, y_test) >= search.score(test, y_test) - 0.015
    best = max(probe.held_out_.values())
    assert probe.held_out_[probe.C_] == best


def test_the_choice_is_reproducible_and_ignores_the_scale_of_features():
    x, y = correlated(400, 10, 3)
    one, two = LinearProbe().fit(x, y), LinearProbe().fit(x, y)
    np.testing.assert_array_equal(one.coef_, two.coef_)
    scaled = LinearProbe().fit(x * 1000 + 7, y)
    assert scaled.C_ == one.C_
    np.testing.assert_allclose(scaled.predict_proba(x * 1000 + 7), one.predict_proba(x), atol=1e-5)


def test_split_is_stratified_disjoint_and_bounded():
    codes = np.repeat([0, 1, 2], [1000, 100, 3])
    fitted, held_out = split(codes, 10_000, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held_out])), np.arange(1103))
    np.testing.assert_array_equal(np.bincount(codes[held_out], minlength=3), [200, 20, 0])
    fitted, held_out = split(codes, 552, 0)
    assert not set(fitted) & set(held_out)
    np.testing.assert_array_equal(np.bincount(codes[held_out], minlength=3), [100, 10, 0])
    assert set(codes[fitted]) == {0, 1, 2}


def test_groups_are_held_out_whole():
    codes = np.repeat([0, 1, 2], [100, 50, 40])
    groups = np.concatenate([np.arange(100) // 10, 100 + np.arange(50) // 8, np.full(40, 300)])
    fitted, held_out = split(codes, 10_000, 0, groups)
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held_out])), np.arange(190))
    assert not set(groups[fitted]) & set(groups[held_out])
    held = np.bincount(codes[held_out], minlength=3)
    assert 10 <= held[0] <= 30
    assert held[2] == 0, "a class of one group cannot hold any out"


def test_small_sets_hold_out_every_fifth_in_turn_and_large_ones_one():
    codes = np.arange(500) % 4
    groups = np.arange(500) // 7
    for given in (None, groups):
        parts = folds(codes, 10_000, 0, given)
        assert len(parts) == 5
        held = np.concatenate([held_out for _, held_out in parts])
        np.testing.assert_array_equal(np.sort(held), np.arange(500))
        for fitted, held_out in parts:
            assert set(fitted).isdisjoint(held_out)
            assert len(fitted) + len(held_out) == 500
    assert len(folds(np.arange(20_000) % 4, 20_000, 0)) == 1


def test_groups_that_span_classes_are_held_out_whole():
    random = np.random.default_rng(0)
    codes, groups = random.integers(0, 4, 1000), random.integers(0, 40, 1000)
    fitted, held_out = split(codes, 10_000, 0, groups)
    assert not set(groups[fitted]) & set(groups[held_out])
    np.testing.assert_allclose(np.bincount(codes[held_out]) / np.bincount(codes), 0.2, atol=0.06)
    with pytest.raises(ValueError, match="one group per row"):
        split(codes, 10_000, 0, groups[:-1])


def test_where_no_group_can_be_held_out_the_strength_is_1():
    x, codes = np.random.default_rng(0).normal(size=(8, 3)), np.repeat([0, 1], 4)
    assert folds(codes, 10_000, 0, np.arange(8)) == []
    probe = LinearProbe().fit(x, codes, groups=np.arange(8))
    assert probe.C_ == 1
    assert probe.held_out_ == {}
    assert len(folds(np.repeat([0, 1], [5, 3]), 10_000, 0, np.arange(8))) == 5


def test_near_copies_do_not_choose_the_penalty():
    """Ten noisy copies of each of 60 points with random labels: held out one by one, a probe
    that learns the points by heart looks perfect; held out by point, nothing looks good."""
    random = np.random.default_rng(0)
    points, labels = random.normal(size=(60, 100)), random.permutation(np.arange(60) % 2)
    x = np.repeat(points, 10, axis=0) + 0.01 * random.normal(size=(600, 100))
    y, groups = np.repeat(labels, 10), np.repeat(np.arange(60), 10)
    assert max(LinearProbe().fit(x, y).held_out_.values()) == 1.0
    assert max(LinearProbe().fit(x, y, groups).held_out_.values()) < 0.85


def test_constant_features_and_strings():
    x, y = correlated(200, 4, 2)
    x[:, 1] = 3.0
    names = np.array(["no", "yes"])[y]
    probe = LinearProbe().fit(x, names)
    assert set(probe.predict(x)) <= {"no", "yes"}
    np.testing.assert_allclose(probe.coef_[:, 1], 0, atol=1e-12)


def test_what_goes_wrong_is_said():
    x, y = correlated(100, 5, 2)
    with pytest.raises(ValueError, match="1 class"):
        LinearProbe().fit(x, np.zeros(100))
    with pytest.raises(ValueError, match="0 < C"):
        LinearProbe(C=-1.0).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        LinearProbe(C=10.0, tol=1e-10, max_iter=2).fit(x, y)


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    check_estimator(LinearProbe(), on_skip=None)


def test_of_equally_accurate_strengths_the_surer_one_is_taken():
    """Two classes far apart, 9 rows and 10: in even parts any C separates them, the smallest ones
    by their weights; on everything these say the larger class of every row."""
    draw = np.random.default_rng(0)
    y = np.repeat([0, 1], [9, 10])
    x = draw.normal(size=(19, 4)) + 20 * y[:, None]
    probe = LinearProbe().fit(x, y)
    assert set(probe.held_out_.values()) == {1.0}
    assert probe.score(x, y) == 1
    assert probe.C_ > 1e-3
