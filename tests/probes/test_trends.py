"""Trends against their noise: what warns and what does not."""

import numpy as np
import pytest

from jepa.probes.trends import Estimate, Progress, accuracy, loss_without_gain, trend

N = 1000  # held-out samples


def history(losses, linear, knn=None, n=N):
    """One evaluation before the first step, then one every 100 steps."""
    knn = linear if knn is None else knn
    losses = [None, *(Estimate(loss, 0.005) for loss in losses)]
    return [
        Progress(100 * i, loss, {"linear": accuracy(one, n), "knn": accuracy(other, n)})
        for i, (loss, one, other) in enumerate(zip(losses, linear, knn, strict=True))
    ]


def test_a_trend_is_the_line_of_least_squares_and_its_error_that_of_many_draws():
    steps, draw = [0, 50, 70, 200], np.random.default_rng(0)
    values, errors = np.array([0.3, 0.2, 0.25, 0.1]), np.array([0.02, 0.01, 0.03, 0.02])
    found = trend(steps, [Estimate(*pair) for pair in zip(values, errors, strict=True)])
    assert found.value == pytest.approx(200 * np.polyfit(steps, values, 1)[0])
    draws = values + errors * draw.standard_normal((4000, 4))
    changes = 200 * np.polyfit(steps, draws.T, 1)[0]
    assert found.error == pytest.approx(changes.std(), rel=0.05)


def test_the_error_of_an_accuracy_is_binomial_and_never_zero():
    draws = np.random.default_rng(0).binomial(N, 0.3, 20_000) / N
    assert accuracy(0.3, N).error == pytest.approx(draws.std(), rel=0.03)
    assert 0 < accuracy(1.0, N).error < 0.002


FALLING = [0.9, 0.7, 0.5]


@pytest.mark.parametrize(
    ("losses", "linear", "knn"),
    [
        (FALLING, [0.31, 0.30, 0.31, 0.30], None),  # never above where it began
        (FALLING, [0.31, 0.24, 0.20, 0.17], None),  # tells ever less
        (FALLING, [0.20, 0.60, 0.50, 0.40], [0.20, 0.50, 0.50, 0.50]),  # one falls, none rises
        ([0.9, 0.7, 0.72, 0.5], [0.3, 0.6, 0.6, 0.5, 0.45], None),  # later, and with a bump
    ],
)
def test_warns_of_a_loss_that_falls_in_vain(losses, linear, knn):
    message = loss_without_gain(history(losses, linear, knn))
    assert message is not None
    assert f"linear {100 * linear[0]:.1f} ->" in message


@pytest.mark.parametrize(
    ("losses", "linear", "knn"),
    [
        (FALLING, [0.30, 0.40, 0.50, 0.55], None),  # both fall and rise as they should
        (FALLING, [0.30, 0.30, 0.33, 0.36], [0.30, 0.28, 0.26, 0.24]),  # one probe rises
        (FALLING, [0.30, 0.895, 0.90, 0.899], None),  # at its ceiling
        (FALLING, [0.30, 0.61, 0.60, 0.58], None),  # falls, but within the noise
        ([0.5, 0.5, 0.5], [0.31, 0.24, 0.20, 0.17], None),  # the loss does not fall
        ([0.503, 0.5, 0.497], [0.31, 0.30, 0.31, 0.30], None),  # nor beyond its noise
        ([0.5, 0.6, 0.7], [0.30, 0.40, 0.50, 0.55], None),  # a target that gets richer
        ([float("nan")] * 3, [0.31, 0.30, 0.31, 0.30], None),
        (FALLING[:2], [0.31, 0.24, 0.20], None),  # too early to tell
    ],
)
def test_keeps_quiet_otherwise(losses, linear, knn):
    assert loss_without_gain(history(losses, linear, knn)) is None


def test_healthy_runs_with_noise_are_seldom_warned_of():
    """A probe that rises by 20 points and stays there, evaluated 12 times with binomial noise."""
    draw, warned = np.random.default_rng(0), 0
    truth = 0.3 + 0.2 * (1 - np.exp(-np.arange(13) / 3))
    for _ in range(200):
        shares = draw.binomial(N, truth) / N
        runs = history(np.linspace(1, 0.5, 12), shares, draw.binomial(N, truth) / N)
        warned += any(loss_without_gain(runs[:end]) for end in range(len(runs) + 1))
    assert warned <= 10
