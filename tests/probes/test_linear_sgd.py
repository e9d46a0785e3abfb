"""LinearSGDProbe against the optimum of the same layer, and SGD and LARS written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.linear import LinearProbe
from jepa.probes.linear_sgd import LinearSGDProbe, _lars

QUICK = {"learning_rates": (0.03, 0.3), "epochs": 20, "batch_size": 64}


def blobs(n=600, d=12, classes=4, seed=0):
    """Gaussian classes that overlap, features of different scales and offsets."""
    random = np.random.default_rng(seed)
    centres, y = random.normal(size=(classes, d)), random.integers(classes, size=n)
    x = centres[y] + random.normal(size=(n, d))
    return x * np.logspace(-2, 2, d) + 5, y


def test_it_comes_near_the_optimum_whatever_the_scale_of_the_features():
    x, y = blobs(1200)
    best = LinearProbe().fit(x[:600], y[:600]).score(x[600:], y[600:])
    for optimiser, rates in (("sgd", (0.03, 0.3)), ("lars", (10.0, 100.0))):
        probe = LinearSGDProbe(**QUICK | {"optimiser": optimiser, "learning_rates": rates})
        assert probe.fit(x[:600], y[:600]).score(x[600:], y[600:]) > best - 0.04
        assert probe.held_out_[probe.learning_rate_, 0.0] == max(probe.held_out_.values())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_one_step_is_the_closed_form(batch_norm):
    """One batch, one epoch: weights move by the rate times the gradient of the mean loss."""
    x, y = blobs(32, d=3, classes=3)
    x = x / x.std(axis=0)
    still = LinearSGDProbe(
        learning_rates=(0.0,), epochs=1, batch_size=32, batch_norm=batch_norm
    ).fit(x, y)
    moved = clone(still).set_params(learning_rates=(0.5,)).fit(x, y)
    z = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6) if batch_norm else x
    start, bias = (p.detach().numpy() for p in still.head_[-1].parameters())
    p = np.exp(z @ start.T + bias)
    error = (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]) / 32
    np.testing.assert_allclose(
        moved.head_[-1].weight.detach(), start - 0.5 * error.T @ z, rtol=1e-6, atol=1e-5
    )
    np.testing.assert_allclose(
        moved.head_[-1].bias.detach(), bias - 0.5 * error.sum(0), rtol=1e-6, atol=1e-5
    )


def test_predictions_normalise_with_the_average_of_the_batches():
    x, y = blobs(100, d=3)
    norm = LinearSGDProbe(learning_rates=(0.1,), epochs=3, batch_size=33).fit(x, y).head_[1]
    assert norm.num_batches_tracked == 9, "the last row of each epoch is alone: no variance"
    np.testing.assert_allclose(norm.running_mean, x.mean(axis=0), rtol=0.1)


def test_lars_scales_the_step_of_matrices_only():
    """You et al. 2017, with trust coefficient 0.001: |w| / |g| of the layer times the rate."""
    weight, bias = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])
    weight.grad, bias.grad = torch.tensor([[0.0, 2.0]]), torch.tensor([0.5])
    groups = [{"params": [p], "lr": 10.0, "weight_decay": 0.0} for p in (weight, bias)]
    _lars(groups).step()
    torch.testing.assert_close(weight, torch.tensor([[3.0, 4.0 - 10 * 0.001 * (5 / 2) * 2]]))
    torch.testing.assert_close(bias, torch.tensor([1.0 - 10 * 0.5]))


def test_groups_are_held_out_whole_and_the_seed_repeats():
    random = np.random.default_rng(0)
    points, labels = random.normal(size=(60, 100)), random.permutation(np.arange(60) % 2)
    x = np.repeat(points, 10, axis=0) + 0.01 * random.normal(size=(600, 100))
    y, groups = np.repeat(labels, 10), np.repeat(np.arange(60), 10)
    one = LinearSGDProbe(**QUICK).fit(x, y)
    assert max(one.held_out_.values()) == 1.0
    assert max(clone(one).fit(x, y, groups).held_out_.values()) < 0.85
    np.testing.assert_array_equal(clone(one).fit(x, y).predict_proba(x), one.predict_proba(x))


def test_what_goes_wrong_is_said():
    x, y = blobs(40)
    with pytest.raises(ValueError, match="'sgd' or 'lars'"):
        LinearSGDProbe(optimiser="adam").fit(x, y)
    with pytest.raises(ValueError, match="at least 1"):
        LinearSGDProbe(epochs=0).fit(x, y)
    with pytest.raises(ValueError, match="smaller learning_rates"):
        LinearSGDProbe(learning_rates=(1e38,), epochs=3).fit(x, y)
    with pytest.raises(ValueError, match="1 class"):
        LinearSGDProbe().fit(x, np.zeros(40))


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    check_estimator(LinearSGDProbe(**QUICK), on_skip=None)
