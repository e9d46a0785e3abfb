"""AttentiveProbe: finds the token that matters, chooses honestly, repeats itself exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.attentive_fit import Fitting, Rate, Training, new_head, outputs_of
from jepa.probes.attentive_probe import AttentiveProbe, AttentiveRegressor, _r2, heads_of
from jepa.probes.linear import LinearProbe

ONE = {"learning_rates": (3e-3,), "weight_decays": (0.01,)}


def needle(n=800, tokens=12, dim=32, classes=4, seed=0):
    """The token with the mark carries the pattern of the class; all others carry random ones."""
    random = np.random.default_rng(seed)
    patterns, mark = random.normal(size=(classes, dim)), random.normal(size=dim) * 2
    y, place = random.integers(classes, size=n), random.integers(tokens, size=n)
    x = patterns[random.integers(classes, size=(n, tokens))]
    x[np.arange(n), place] = patterns[y] + mark
    x += 0.3 * random.normal(size=x.shape)
    return x.astype(np.float16), y


def test_attention_finds_what_a_mean_hides():
    x, y = needle()
    probe = AttentiveProbe(**ONE, epochs=12).fit(x[:600], y[:600])
    assert probe.score(x[600:], y[600:]) > 0.95
    means = x.astype(np.float32).mean(axis=1)
    assert LinearProbe().fit(means[:600], y[:600]).score(means[600:], y[600:]) < 0.6


def test_v_jepa_2s_depth_learns_too_and_in_bfloat16():
    x, y = needle(700, tokens=6)
    rates = {"learning_rates": (1e-3,), "weight_decays": (0.01,)}
    probe = AttentiveProbe(**rates, depth=4, epochs=10, precision="bfloat16").fit(x[:600], y[:600])
    assert probe.score(x[600:], y[600:]) > 0.9


@pytest.mark.parametrize("depth", [1, 2])
def test_one_pass_for_all_is_a_pass_for_each(depth):
    x, y = needle(100, tokens=5)
    table, targets, rows = x[:, None], torch.from_numpy(y), np.arange(100)
    fitting = Fitting(2, 16, "float32", torch.device("cpu"), seed=1)
    rates = [Rate(3e-3, 0.0), Rate(1e-3, 0.5), Rate(1e30, 0.0), Rate(3e-4, 0.1)]

    def fitted(rates):
        heads = [new_head(32, 4, 2, depth, fitting) for _ in rates]
        loss = torch.nn.functional.cross_entropy
        Training(heads, rates, table, targets, rows, loss=loss, fitting=fitting).finish()
        return outputs_of(heads, table, rows, fitting)

    together = fitted(rates)
    for i in (0, 1, 3):
        torch.testing.assert_close(together[i], fitted([rates[i]])[0], atol=2e-4, rtol=2e-4)
    assert (together[0] - together[1]).abs().max() > 0.01
    assert not together[2].isfinite().all(), "the third was to diverge, and to harm nobody"


@pytest.mark.parametrize("depth", [1, 2])
def test_heads_that_stay_learn_what_they_would_have_learnt_and_those_that_leave_nothing(depth):
    x, y = needle(100, tokens=5)
    fitting = Fitting(3, 16, "float32", torch.device("cpu"), seed=1)
    rates = [Rate(3e-3, 0.0), Rate(1e-3, 0.5), Rate(1e-2, 0.0), Rate(3e-4, 0.1)]

    def learning():
        heads = [new_head(32, 4, 2, depth, fitting) for _ in rates]
        loss = torch.nn.functional.cross_entropy
        table, targets, rows = x[:, None], torch.from_numpy(y), np.arange(100)
        return Training(heads, rates, table, targets, rows, loss=loss, fitting=fitting)

    def weights(training, i):
        return torch.cat([p.detach().flatten().clone() for p in training.heads[i].parameters()])

    whole, halved = learning(), learning()
    whole.run(range(4), whole.steps)
    halved.run(range(4), 7)
    left = weights(halved, 0)
    halved.run([3, 1], 14)  # in the order of their scores, as a grid has them
    halved.run([3], halved.steps)
    assert torch.equal(weights(halved, 0), left)
    torch.testing.assert_close(weights(halved, 3), weights(whole, 3), atol=2e-5, rtol=0)
    assert (weights(halved, 1) - weights(whole, 1)).abs().max() > 1e-4
    assert (weights(halved, 3) - weights(whole, 1)).abs().max() > 1e-4


def test_halving_finds_the_rate_that_the_whole_grid_finds():
    x, y = needle(500)
    rates = (1e30, 1e-9, 1e-8, 3e-3, 1e-7)
    grid = {"learning_rates": rates, "weight_decays": (0.01,), "epochs": 12}
    whole, halved = AttentiveProbe(**grid).fit(x, y), AttentiveProbe(**grid, halving=True).fit(x, y)
    assert whole.learning_rate_ == halved.learning_rate_ == 3e-3
    np.testing.assert_allclose(halved.predict_proba(x), whole.predict_proba(x), atol=1e-6)
    assert set(halved.held_out_) == set(whole.held_out_)
    assert halved.held_out_[3e-3, 0.01] == pytest.approx(whole.held_out_[3e-3, 0.01], abs=0.011)


def test_halving_with_fewer_steps_than_parts():
    x, y = needle(80)
    probe = AttentiveProbe(epochs=1, batch_size=64, halving=True).fit(x, y)
    assert len(probe.held_out_) == 20


def test_the_choice_is_made_on_rows_that_were_not_trained_on():
    """Random labels: held-out accuracy is chance, although every label can be learnt by heart."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(120, 4, 32)), random.permutation(np.arange(120) % 2)
    grid = {"learning_rates": (1e-2, 3e-3), "weight_decays": (0.0,), "epochs": 25}
    probe = AttentiveProbe(**grid).fit(x, y)
    assert probe.score(x, y) > 0.95
    assert all(accuracy < 0.8 for accuracy in probe.held_out_.values())
    assert set(probe.held_out_) == {(1e-2, 0.0), (3e-3, 0.0)}
    assert probe.held_out_[probe.learning_rate_, probe.weight_decay_] == max(
        probe.held_out_.values()
    )


def test_groups_are_held_out_whole():
    """Copies of few points: found again when held out one by one, unknown when held out whole."""
    random = np.random.default_rng(0)
    points, labels = random.normal(size=(30, 2, 32)), random.permutation(np.arange(30) % 2)
    x, y, groups = np.repeat(points, 6, 0), np.repeat(labels, 6), np.repeat(np.arange(30), 6)
    grid = AttentiveProbe(learning_rates=(3e-3, 1e-3), weight_decays=(0.01,), epochs=15)
    assert max(clone(grid).fit(x, y).held_out_.values()) > 0.95
    assert max(clone(grid).fit(x, y, groups).held_out_.values()) < 0.9


def test_the_useless_rate_is_not_chosen_and_a_diverged_head_never_is():
    x, y = needle(400)
    rates = (1e30, 1e-9, 3e-3)
    probe = AttentiveProbe(learning_rates=rates, weight_decays=(0.01,), epochs=12).fit(x, y)
    assert probe.learning_rate_ == 3e-3
    assert probe.held_out_[1e30, 0.01] == -np.inf
    with pytest.raises(ValueError, match="smaller learning_rates"):
        AttentiveProbe(learning_rates=(1e30,), weight_decays=(0.0,), epochs=2).fit(x, y)


def test_the_same_seed_gives_the_same_bits_and_spares_the_generator():
    x, y = needle(80)
    before = torch.random.get_rng_state()
    probe = AttentiveProbe(learning_rates=(3e-3, 1e-3), weight_decays=(0.01,), epochs=2)
    one = probe.fit(x, y).predict_proba(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(clone(probe).fit(x, y).predict_proba(x), one)
    other = clone(probe).set_params(random_state=1).fit(x, y).predict_proba(x)
    assert np.abs(other - one).max() > 1e-3


def test_a_memory_map_of_half_precision_is_the_array(tmp_path):
    x, y = needle(80)
    np.save(tmp_path / "tokens.npy", x)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    probe = AttentiveProbe(**ONE, epochs=2)
    one = probe.fit(x.astype(np.float32), y).predict_proba(x)
    np.testing.assert_array_equal(probe.fit(mapped, y).predict_proba(mapped), one)


def test_views_are_averaged_and_segments_are_one_sequence():
    x, y = needle(120, tokens=6)
    probe = AttentiveProbe(**ONE, epochs=4).fit(x, y)
    views = x.reshape(40, 3, 6, 32)
    alone = probe.predict_proba(x).reshape(40, 3, 4)
    np.testing.assert_allclose(probe.predict_proba(views), alone.mean(axis=1), atol=1e-6)
    segments = x.reshape(20, 2, 3, 6, 32)
    joined = probe.predict_proba(x.reshape(20, 2, 18, 32))
    np.testing.assert_array_equal(probe.predict_proba(segments), joined)
    assert np.abs(joined - alone.reshape(20, 6, 4).mean(axis=1)).max() > 1e-3


def test_every_view_is_trained_on():
    """The class is in one of four views only, and there plainly."""
    random = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = 0.1 * random.normal(size=(200, 4, 3, 16))
    x[np.arange(200), random.integers(4, size=200), :, 0] += np.where(y == 1, 5, -5)[:, None]
    probe = AttentiveProbe(**ONE, epochs=30).fit(x, y)
    assert probe.score(x, y) > 0.95


def test_heads_are_at_least_64_wide():
    assert [heads_of(d) for d in (1, 32, 64, 96, 192, 384, 1024, 1408)] == [
        1,
        1,
        1,
        1,
        3,
        6,
        16,
        22,
    ]


def test_a_speed_is_regressed_from_the_token_that_tells_it():
    random = np.random.default_rng(0)
    n, tokens, dim = 600, 4, 16
    mark, scale = 3 * random.normal(size=dim), random.normal(size=dim)
    speed, place = random.uniform(0.5, 2.5, n), random.integers(tokens, size=n)
    x = 0.5 * random.normal(size=(n, tokens, dim))
    x[np.arange(n), place] += mark + speed[:, None] * scale
    grid = {"learning_rates": (5e-3, 1e-4), "weight_decays": (0.01,), "epochs": 40}
    probe = AttentiveRegressor(**grid).fit(x[:450], speed[:450])
    assert probe.score(x[450:], speed[450:]) > 0.8
    assert probe.learning_rate_ == 5e-3
    assert probe.held_out_[5e-3, 0.01] > 0.7
    both = np.stack([speed, -100 * speed + 7], axis=1)
    pair = clone(probe).set_params(learning_rates=(5e-3,)).fit(x[:450], both[:450])
    assert pair.predict(x[450:]).shape == (150, 2)
    assert pair.score(x[450:], both[450:]) > 0.8


def test_a_target_that_does_not_vary_chooses_no_rates():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4, 16))
    y = 4 * x.mean(axis=1)[:, 0]
    grid = {"learning_rates": (1e-1, 1e-2, 3e-3), "weight_decays": (0.01,), "epochs": 8}
    alone = AttentiveRegressor(**grid).fit(x, y)
    for constant in (1.0, 0.1):
        both = np.stack([y, np.full(200, constant)], axis=1)
        pair = AttentiveRegressor(**grid).fit(x, both)
        assert all(-5 < r2 < 1 for r2 in pair.held_out_.values())
        assert pair.learning_rate_ == alone.learning_rate_
        np.testing.assert_allclose(pair.predict(x)[:, 1], constant, atol=0.5)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_held_out_r2_is_scikit_learns(noise):
    random = np.random.default_rng(0)
    truth = torch.from_numpy(np.stack([random.normal(size=50), np.full(50, 0.1)], axis=1)).float()
    said = truth + noise * torch.from_numpy(random.normal(size=(50, 2))).float()
    expected = r2_score(truth.double(), said.double())
    assert _r2(said[:, None], truth) == pytest.approx((expected, expected))


def test_what_goes_wrong_is_said():
    x, y = needle(40)
    with pytest.raises(ValueError, match="1 class"):
        AttentiveProbe().fit(x, np.zeros(40))
    with pytest.raises(ValueError, match="at least 1"):
        AttentiveProbe(epochs=0).fit(x, y)
    with pytest.raises(ValueError, match="bfloat16"):
        AttentiveProbe(precision="half").fit(x, y)
    with pytest.raises(ValueError, match=">= 0"):
        AttentiveProbe(learning_rates=(-1.0,)).fit(x, y)
    probe = AttentiveProbe(**ONE, epochs=1).fit(x, y)
    with pytest.raises(ValueError, match="width 32, as fitted; got 16"):
        probe.predict(x[..., :16])
    x[3, 1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        probe.predict(x)


# Its data have two features: a layer norm leaves of two numbers only which one is larger.
TWO_FEATURES = {"check_classifiers_train": "a layer norm of two features keeps one bit"}
# float32 products of 4 rows and of 20 differ in the last bit; the check allows 1e-7.
FLOAT32 = {"check_methods_subset_invariance": "float32 products depend on the batch size"}


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    classifier = AttentiveProbe(learning_rates=(1e-3,), weight_decays=(0.01,), epochs=2)
    check_estimator(classifier, on_skip=None, expected_failed_checks=TWO_FEATURES | FLOAT32)
    regressor = AttentiveRegressor(**ONE, epochs=15)
    check_estimator(regressor, on_skip=None, expected_failed_checks=FLOAT32)
