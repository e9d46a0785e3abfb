"""Retrieval against loops over float64 similarities, and scikit-learn's average precision."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jepa.probes import knn, retrieval
from jepa.probes.knn import nearest, ranking
from jepa.probes.retrieval import retrieval as search
from jepa.probes.retrieval import retrieval_within


def brute_force(queries, labels, gallery, gallery_labels, ks, leave_out=False):
    """One query at a time, one rank at a time, by the definitions."""
    recall, full, at_r = {k: [] for k in ks}, [], []
    for i, query in enumerate(queries.astype(np.float64)):
        length = np.linalg.norm(gallery.astype(np.float64), axis=1) * np.linalg.norm(query)
        similarity = (gallery.astype(np.float64) @ query / length).round(12)
        order = sorted(range(len(gallery)), key=lambda j: (-similarity[j], j))
        right = [gallery_labels[j] == labels[i] for j in order if not (leave_out and j == i)]
        total = sum(right)
        if total == 0:
            continue
        precisions = [sum(right[: r + 1]) / (r + 1) if right[r] else 0 for r in range(len(right))]
        full.append(sum(precisions) / total)
        at_r.append(sum(precisions[:total]) / total)
        for k in ks:
            recall[k].append(any(right[:k]))
    return {k: np.mean(v) for k, v in recall.items()}, np.mean(full), np.mean(at_r), len(full)


def clusters(n, seed, classes=4):
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=n)
    centres = np.random.default_rng(9).normal(size=(classes, 6))
    return (centres[y] + random.normal(size=(n, 6))).astype(np.float32), y


def assert_equal(found, truth):
    recall, full, at_r, queries = truth
    assert {k: i.value for k, i in found.recall.items()} == pytest.approx(recall, abs=1e-12)
    assert found.mean_average_precision.value == pytest.approx(full, abs=1e-12)
    assert found.mean_average_precision_at_r.value == pytest.approx(at_r, abs=1e-12)
    assert found.queries == queries


def test_queries_in_a_gallery_equal_brute_force(monkeypatch):
    (queries, labels), (gallery, own) = clusters(70, 0), clusters(150, 1)
    labels[:3] = 99  # of a class that the gallery does not have
    truth = brute_force(queries, labels, gallery, own, (1, 5, 10))
    assert 0.3 < truth[1] < 0.9
    assert_equal(search(queries, labels, gallery, own), truth)
    monkeypatch.setattr(retrieval, "_BLOCK", 1000)  # six queries at a time
    monkeypatch.setattr(knn, "_BLOCK", 400)
    assert_equal(search(queries, labels, gallery, own), truth)


def test_leave_one_out_equals_brute_force(monkeypatch):
    features, labels = clusters(90, 2)
    features[40:80] = features[:40]  # twins: equals in order, and never oneself
    labels[0] = 7  # alone in its class
    truth = brute_force(features, labels, features, labels, (1, 3), leave_out=True)
    assert truth[-1] == 89
    monkeypatch.setattr(retrieval, "_BLOCK", 1000)
    assert_equal(retrieval_within(features, labels, ks=(1, 3)), truth)


def test_average_precision_is_scikit_learns():
    (queries, labels), (gallery, own) = clusters(20, 3), clusters(200, 4)
    similarity = (queries @ gallery.T) / np.linalg.norm(gallery, axis=1)
    truth = [average_precision_score(own == y, s) for y, s in zip(labels, similarity, strict=True)]
    found = search(queries, labels, gallery, own)
    assert found.mean_average_precision.value == pytest.approx(np.mean(truth), abs=1e-6)


def test_the_ranking_begins_with_the_nearest():
    (queries, _), (gallery, _) = clusters(30, 5), clusters(300, 6)
    gallery[100:200] = gallery[:100]
    np.testing.assert_array_equal(
        ranking(queries, gallery)[:, :50], nearest(queries, gallery, 50)[1]
    )


def test_a_perfect_and_a_useless_representation():
    y = np.arange(60) % 3
    perfect = retrieval_within(np.eye(3)[y], y, ks=(1,))
    assert perfect.mean_average_precision == perfect.recall[1] == (1, 1, 1)
    random = np.random.default_rng(0)
    found = search(random.normal(size=(400, 8)), random.integers(4, size=400),
                   random.normal(size=(1000, 8)), random.integers(4, size=1000))  # fmt: skip
    assert found.mean_average_precision.value == pytest.approx(0.25, abs=0.01)
    assert found.recall[1].low < 0.25 < found.recall[1].high
    assert found.recall[10].value == pytest.approx(1 - 0.75**10, abs=0.04)


def test_nonsense_is_refused():
    features, labels = clusters(10, 0)
    with pytest.raises(ValueError, match="1 <= k <= 9"):
        retrieval_within(features, labels, ks=(10,))
    with pytest.raises(ValueError, match="no query is of a class"):
        search(features, labels + 50, features, labels)
