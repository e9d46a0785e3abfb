"""KNNProbe against brute force in float64."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from jepa.probes.knn import KNNProbe, nearest


def brute_force(queries, bank, k):
    def unit(x):
        x = np.asarray(x, dtype=np.float64)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, length, out=np.zeros_like(x), where=length > 0)

    similarity = (unit(queries)[:, None] * unit(bank)[None]).sum(axis=2).round(12)
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, axis=1), index


def brute_force_votes(queries, bank, labels, k, temperature):
    similarity, index = brute_force(queries, bank, k)
    votes = np.zeros((len(queries), labels.max() + 1))
    for row, (s, i) in enumerate(zip(similarity, index, strict=True)):
        for one, neighbour in zip(s, i, strict=True):
            votes[row, labels[neighbour]] += np.exp(one / temperature)
    return votes / votes.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 20, 200, 500])
def test_neighbours_and_votes_equal_brute_force(dtype, k):
    random = np.random.default_rng(0)
    bank, queries = random.normal(size=(500, 12)).astype(dtype), random.normal(size=(60, 12))
    labels = random.integers(4, size=500)
    similarity, index = nearest(queries.astype(dtype), bank, k)
    true_similarity, true_index = brute_force(queries.astype(dtype), bank, k)
    np.testing.assert_array_equal(index, true_index)
    np.testing.assert_allclose(similarity, true_similarity, atol=1e-10)
    found = KNNProbe(k=k).fit(bank, labels).predict_proba(queries.astype(dtype))
    truth = brute_force_votes(queries.astype(dtype), bank, labels, k, 0.07)
    np.testing.assert_allclose(found, truth, atol=1e-10)


def test_differences_below_float32_are_seen():
    random = np.random.default_rng(1)
    base = random.normal(size=300)
    bank = base + 1e-3 * random.normal(size=(400, 300))  # cosines differ by 1e-8
    queries = base + 1e-3 * random.normal(size=(20, 300))
    np.testing.assert_array_equal(nearest(queries, bank, 5)[1], brute_force(queries, bank, 5)[1])


def test_equals_are_taken_in_bank_order():
    random = np.random.default_rng(2)
    distinct = random.normal(size=(6, 8)).astype(np.float32)
    which = random.integers(6, size=900)
    similarity, index = nearest(distinct, distinct[which], 20)
    np.testing.assert_allclose(similarity, 1, atol=1e-12)
    for row, found in enumerate(index):
        np.testing.assert_array_equal(found, np.flatnonzero(which == row)[:20])


def test_zeros_are_like_nothing():
    bank = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(nearest(bank[:1], bank, 3)[0], [[0, 0, 0]])
    np.testing.assert_array_equal(nearest(bank[1:2], bank, 3)[1], [[1, 0, 2]])


def test_a_tiny_temperature_does_not_overflow():
    bank = np.random.default_rng(0).normal(size=(50, 4))
    labels = np.arange(50)
    np.testing.assert_array_equal(
        KNNProbe(temperature=1e-6).fit(bank, labels).predict(bank), labels
    )


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="k >= 1"):
        KNNProbe(k=0).fit(np.eye(3), [0, 1, 2])


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    check_estimator(KNNProbe(), on_skip=None)


def spread_out(n, seed, d=16, clusters=40):
    random = np.random.default_rng(seed)
    labels = random.integers(clusters, size=n)
    centres = np.random.default_rng(9).normal(size=(clusters, d))
    return (centres[labels] + 0.6 * random.normal(size=(n, d))).astype(np.float32), labels % 4


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
def test_the_recall_is_the_share_of_neighbours_that_brute_force_finds(index):
    (bank, labels), (queries, _) = spread_out(6000, 0), spread_out(300, 1)
    probe = KNNProbe(k=10, index=index).fit(bank, labels)
    if index == "ivf":
        probe.index_.nprobe = 2  # so that it misses some
    elif index == "hnsw":
        probe.index_.hnsw.efSearch = 1
    similarity, found = probe.neighbours(queries)
    true_similarity, true = brute_force(queries, bank, 10)
    share = np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, true, strict=True)])
    value, low, high = probe.recall(queries)
    assert value == pytest.approx(share, abs=1e-12)
    assert (value == 1) if index == "flat" else (0.5 < low < value < high < 1)
    hit = found == true
    np.testing.assert_allclose(similarity[hit], true_similarity[hit], atol=1e-12)
    assert (np.diff(similarity, axis=1) <= 1e-12).all()


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_index_finds_nearly_all_as_it_is_and_predicts_as_flat_does(index):
    (bank, labels), (queries, truth) = spread_out(6000, 0), spread_out(300, 1)
    probe = KNNProbe(index=index).fit(bank, labels)
    assert probe.recall(queries).value > 0.97
    flat = KNNProbe().fit(bank, labels)
    assert (probe.predict(queries) == flat.predict(queries)).mean() > 0.98
    assert flat.score(queries, truth) > 0.8
    again = KNNProbe(index=index).fit(bank, labels).predict_proba(queries)
    np.testing.assert_array_equal(probe.predict_proba(queries), again)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(probe)).predict_proba(queries), again)


def test_where_an_index_finds_too_few_the_whole_bank_is_searched():
    bank, labels = spread_out(2000, 0)
    queries, _ = spread_out(50, 1)
    probe = KNNProbe(k=200, index="ivf").fit(bank, labels)
    probe.index_.nprobe = 1  # one list of 50 or so rows
    np.testing.assert_array_equal(probe.neighbours(queries)[1], brute_force(queries, bank, 200)[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_check_estimator_of_an_index(index):
    check_estimator(KNNProbe(index=index), on_skip=None)


def test_an_unknown_index_is_refused():
    with pytest.raises(ValueError, match="'flat', 'ivf' or 'hnsw'; got 'pq'"):
        KNNProbe(index="pq").fit(np.eye(3), [0, 1, 2])
