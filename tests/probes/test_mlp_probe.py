"""MLPProbe: learns what no linear layer can, chooses honestly, repeats itself exactly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.linear import LinearProbe
from jepa.probes.mlp import MLPProbe

QUICK = {"width": 32, "learning_rates": (3e-2,), "weight_decays": (0.01,), "epochs": 20}


def quadrants(n=800, seed=0):
    """The class is whether two of four features have the same sign; scales and offsets differ."""
    x = np.random.default_rng(seed).normal(size=(n, 4))
    return x * np.array([1e-3, 1.0, 10.0, 1e3]) + 7 * np.array([0, 1, 1, 0]), (
        (x[:, 0] > 0) == (x[:, 3] > 0)
    ).astype(int)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_it_learns_what_no_linear_layer_can(activation):
    x, y = quadrants()
    probe = MLPProbe(**QUICK, activation=activation).fit(x[:500], y[:500])
    assert probe.score(x[500:], y[500:]) > 0.9
    assert LinearProbe().fit(x[:500], y[:500]).score(x[500:], y[500:]) < 0.65


def test_the_grid_is_chosen_on_rows_that_were_not_trained_on():
    x, y = quadrants()
    grid = {"learning_rates": (1e-6, 3e-2), "weight_decays": (0.01, 0.1)}
    probe = MLPProbe(**QUICK | grid).fit(x[:500], y[:500])
    assert set(probe.held_out_) == {(r, d) for r in (1e-6, 3e-2) for d in (0.01, 0.1)}
    assert probe.learning_rate_ == 3e-2
    np.testing.assert_array_equal(clone(probe).fit(x[:500], y[:500]).predict(x), probe.predict(x))
    y = np.random.default_rng(1).permutation(y)
    lucky = MLPProbe(**QUICK | {"width": 256, "epochs": 60, "weight_decays": (0.0, 0.01)})
    assert max(lucky.fit(x[:200], y[:200]).held_out_.values()) < 0.75


def test_groups_are_held_out_whole():
    random = np.random.default_rng(0)
    points, labels = random.normal(size=(60, 100)), random.permutation(np.arange(60) % 2)
    x = np.repeat(points, 10, axis=0) + 0.01 * random.normal(size=(600, 100))
    y, groups = np.repeat(labels, 10), np.repeat(np.arange(60), 10)
    grid = MLPProbe(**QUICK | {"learning_rates": (1e-2, 3e-3)})
    assert max(clone(grid).fit(x, y).held_out_.values()) == 1.0
    assert max(clone(grid).fit(x, y, groups).held_out_.values()) < 0.85


@pytest.mark.parametrize("constant", [0.1, 1e3 / 3])
def test_a_constant_feature_says_nothing_whatever_the_precision(constant):
    x, y = quadrants(300)
    x = np.column_stack([x, np.full(300, constant)])
    probe = MLPProbe(**QUICK).fit(x, y)
    assert probe.score(x, y) > 0.9
    np.testing.assert_array_equal(probe.predict_proba(x), probe.predict_proba(x.astype(np.float32)))


def test_what_goes_wrong_is_said():
    x, y = quadrants(40)
    with pytest.raises(ValueError, match="'gelu', 'relu'"):
        MLPProbe(activation="tanh").fit(x, y)
    with pytest.raises(ValueError, match="width"):
        MLPProbe(0).fit(x, y)
    with pytest.raises(ValueError, match=">= 0"):
        MLPProbe(weight_decays=(-1.0,)).fit(x, y)


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    check_estimator(MLPProbe(**QUICK), on_skip=None)
