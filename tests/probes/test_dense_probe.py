"""DenseProbe against optima found in other ways, and scores against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.dense import DenseProbe
from jepa.probes.intervals import bootstrap
from jepa.probes.segmentation import segmentation
from jepa.probes.splits import split

THOROUGH = {"learning_rates": (0.1,), "weight_decay": 0.0, "epochs": 250, "batch_size": 64}


def noisy(n=30, grid=(3, 4), d=4, seed=0, classes=3):
    """Tokens, and a class for each that they tell with many errors: the optimum is finite."""
    random = np.random.default_rng(seed)
    x = 3 + 2 * random.normal(size=(n, grid[0] * grid[1], d)).astype(np.float32)
    weights = np.random.default_rng(9).normal(size=(d, classes))
    y = ((x - 3) @ weights + 3 * random.gumbel(size=(*x.shape[:2], classes))).argmax(axis=-1)
    return x, y.reshape(n, *grid)


def test_with_a_pixel_per_token_it_is_logistic_regression():
    x, y = noisy()
    probe = DenseProbe(**THOROUGH, grid=(3, 4)).fit(x, y + 5)
    rows = x.reshape(-1, 4).astype(np.float64)
    truth = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(rows, y.ravel())
    found = probe.coef_ - probe.coef_.mean(axis=0)
    np.testing.assert_allclose(found, truth.coef_ - truth.coef_.mean(axis=0), atol=5e-3)
    guessed = truth.predict(rows).reshape(y.shape) + 5
    assert (probe.predict(x) == guessed).mean() > 0.99
    np.testing.assert_array_equal(probe.classes_, [5, 6, 7])


def weights_of(size, tokens):
    """Bilinear enlargement of one axis, from its definition: tokens stand mid-patch."""
    matrix = np.zeros((size, tokens))
    for pixel in range(size):
        place = np.clip((pixel + 0.5) * tokens / size - 0.5, 0, tokens - 1)
        left = min(int(place), tokens - 2)
        matrix[pixel, left : left + 2] = 1 - (place - left), place - left
    return matrix


def test_logits_are_enlarged_and_every_pixel_counts():
    """The same minimum of the mean cross entropy over pixels as scipy finds."""
    random = np.random.default_rng(1)
    x = random.normal(size=(12, 4, 2)).astype(np.float32)
    y = random.integers(3, size=(12, 6, 5))
    y[:, :2, 1:] = (x[:, 0, 0] > 0)[:, None, None]
    probe = DenseProbe(**THOROUGH).fit(x, y)
    enlarge = np.kron(weights_of(6, 2), weights_of(5, 2))

    def logits(theta):
        weights = theta.reshape(3, 3)
        return enlarge @ (x @ weights[:2] + weights[2])

    def loss(theta):
        said = logits(theta)
        right = np.take_along_axis(said, y.reshape(12, 30, 1), axis=2)[..., 0]
        return float((np.log(np.exp(said).sum(axis=2)) - right).mean())

    best = minimize(loss, np.zeros(9), tol=1e-10)
    found = np.concatenate([probe.coef_.T, probe.intercept_[None]])
    assert loss(found.ravel()) == pytest.approx(best.fun, abs=1e-5)
    np.testing.assert_array_equal(probe.predict(x), logits(found).argmax(axis=2).reshape(12, 6, 5))


def test_ignored_pixels_have_no_influence():
    x, y = noisy()
    alone = DenseProbe(grid=(3, 4), epochs=5).fit(x, y)
    twice = np.concatenate([x, x], axis=1)  # the same tokens below, without labels
    masked = np.concatenate([y, np.full_like(y, 255)], axis=1)
    both = DenseProbe(grid=(6, 4), epochs=5).fit(twice, masked)
    np.testing.assert_allclose(both.coef_, alone.coef_, atol=1e-5)
    assert set(alone.held_out_) == {1e-1, 1e-2, 1e-3}
    found = segmentation(masked, both.predict(twice), resamples=20)
    assert found.mean_iou.value == pytest.approx(alone.score(x, y), abs=1e-6)


def test_the_best_rate_on_held_out_images_is_used():
    x, y = noisy(60)
    rates = (1e-4, 3e-2, 1e-3)
    grid = DenseProbe(grid=(3, 4), learning_rates=rates, epochs=4)
    probe = clone(grid).fit(x, y)
    seed = check_random_state(0).randint(2**31 - 1)
    fitted, held_out = split(np.zeros(60, dtype=np.int64), 60, seed)
    alone = {rate: clone(grid).set_params(learning_rates=(rate,)) for rate in rates}
    scores = {
        r: p.fit(x[fitted], y[fitted]).score(x[held_out], y[held_out]) for r, p in alone.items()
    }
    assert probe.held_out_ == pytest.approx(scores, abs=1e-3)
    assert len(set(scores.values())) > 1
    assert probe.learning_rate_ == max(scores, key=scores.__getitem__)
    again = alone[probe.learning_rate_].fit(x, y)
    np.testing.assert_allclose(again.coef_, probe.coef_, atol=1e-6)
    assert (
        np.abs(clone(again).set_params(random_state=1).fit(x, y).coef_ - again.coef_).max() > 1e-6
    )


def test_groups_are_held_out_whole():
    """Copies of few images: learnt by heart, and of no use for others."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(15, 1, 40)), random.integers(2, size=(15, 1, 1))
    x, y, groups = np.repeat(x, 6, 0), np.repeat(y, 6, 0), np.repeat(np.arange(15), 6)
    assert max(DenseProbe().fit(x, y).held_out_.values()) == 1
    assert max(DenseProbe().fit(x, y, groups).held_out_.values()) < 0.9


def test_a_memory_map_of_half_precision_is_the_array(tmp_path):
    x, y = noisy()
    np.save(tmp_path / "tokens.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    probe = DenseProbe(grid=(3, 4), epochs=2)
    one = probe.fit(x.astype(np.float16).astype(np.float32), y).coef_
    np.testing.assert_array_equal(probe.fit(mapped, y).coef_, one)


def test_scores_are_scikit_learns_and_intervals_are_over_images():
    random = np.random.default_rng(0)
    truth, said = random.integers(4, size=(20, 5, 6)), random.integers(4, size=(20, 5, 6))
    said[:12] = truth[:12]
    truth[random.random(truth.shape) < 0.1] = 255
    truth[truth == 3], said[said == 2] = 7, 9  # 7 is never said, 9 is never there
    found = segmentation(truth, said, seed=1, resamples=300)
    counted = truth != 255
    flat = truth[counted], said[counted]
    classes = np.union1d(*flat)
    iou = jaccard_score(*flat, average=None, labels=classes, zero_division=0)
    assert found.iou == pytest.approx(dict(zip(classes.tolist(), iou, strict=True)))
    assert found.mean_iou.value == pytest.approx(iou.mean())
    assert found.pixel_accuracy.value == pytest.approx(accuracy_score(*flat))

    def accuracy(rows):
        t, s = rows[:, 0], rows[:, 1]
        return float((t == s)[t != 255].mean())

    pairs = np.stack([truth, said], axis=1)
    assert found.pixel_accuracy == pytest.approx(bootstrap(pairs, accuracy, seed=1, resamples=300))
    assert found.mean_iou.low < found.mean_iou.value < found.mean_iou.high


def test_an_image_without_a_counted_pixel_changes_no_score():
    random = np.random.default_rng(0)
    truth, said = random.integers(3, size=(6, 4, 4)), random.integers(3, size=(6, 4, 4))
    nothing = np.full((1, 4, 4), 255)
    known = segmentation(truth, said, resamples=200)
    more = np.concatenate([truth[:2], nothing, truth[2:]])
    assert segmentation(more, np.insert(said, 2, 1, axis=0), resamples=200) == known
    with pytest.raises(ValueError, match="expected masks with a class; all pixels are 255"):
        segmentation(nothing, said[:1])


def test_ignored_rows_do_not_count_as_wrong():
    random = np.random.default_rng(0)
    x = random.normal(size=(100, 3))
    y = np.where(np.arange(100) < 30, 255, x[:, 0] > 0)
    weights = random.random(100)
    probe = DenseProbe(learning_rates=(0.1,)).fit(x, y)
    assert probe.score(x, y) == probe.score(x[30:], y[30:]) > 0.9
    assert probe.score(x, y, weights) == pytest.approx(probe.score(x[30:], y[30:], weights[30:]))


def test_what_goes_wrong_is_said():
    x, y = noisy()
    with pytest.raises(ValueError, match=r"12 tokens are no grid of 3 x 3; give grid="):
        DenseProbe().fit(x, y)
    probe = DenseProbe(grid=(3, 4), epochs=1)
    with pytest.raises(ValueError, match="1 class"):
        probe.fit(x, np.where(y == 1, 255, 0))
    with pytest.raises(ValueError, match=r"masks \[n, H, W\]"):
        probe.fit(x, y[:, 0, 0])
    with pytest.raises(ValueError, match="learning rates > 0"):
        DenseProbe(learning_rates=()).fit(x, y)
    with pytest.raises(ValueError, match="at least 1"):
        DenseProbe(grid=(3, 4), epochs=0).fit(x, y)
    with pytest.raises(ValueError, match="width 4, as fitted; got 3"):
        probe.fit(x, y).predict(x[..., :3])
    x[3, 1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        probe.predict(x)
    with pytest.raises(ValueError, match="NaN"):
        probe.fit(x, y)


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    check_estimator(DenseProbe(epochs=5), on_skip=None)
