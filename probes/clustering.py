"""Clustering: are the classes there before anybody names them? k-means against the labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int32, Int64, Num
from scipy.special import entr
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from jepa.seeds import derive

from .intervals import Interval, group_codes, redrawn, summed


class Clustering(NamedTuple):
    """How far k-means clusters and classes agree: 0 by chance, 1 for one cluster per class.

    nmi: normalised mutual information (over the mean of the two entropies, as scikit-learn's).
        Chance is a little above 0, the more so the more clusters there are.
    ari: adjusted Rand index (Hubert and Arabie 1985), chance is 0.
    starts: (nmi, ari) from each start of k-means.

    The values are means over the starts. The 95 % intervals cover both that were drawn: the starts,
    and the images, on another sample of which k-means would have found other clusters.
    """

    nmi: Interval
    ari: Interval
    starts: tuple[tuple[float, float], ...]


def cluster(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, "_"],
    *,
    clusters: int | None = None,
    starts: int = 10,
    resamples: int = 100,
    groups: Int64[np.ndarray, "_"] | None = None,
    seed: int = 0,
) -> Clustering:
    """k-means on features of length 1, without labels, then compared with them.

    Only directions count, as in the kNN probe and in retrieval. Each start is a k-means++ draw
    (Arthur and Vassilvitskii 2007) followed by Lloyd's iterations. No start is chosen over
    another: the smallest within-cluster distance is not the best agreement, and the spread over
    starts, often wider than that over images, would be hidden.

    Args:
        clusters: None: as many as there are classes.
        starts: independent runs of k-means.
        resamples: of the images, on each of which k-means goes on from the clusters of a start.
        groups: which images show the same place, and are drawn together; None: none do.
        seed: of the starts and of the resamples.

    Raises:
        ValueError: for fewer than 2 classes, clusters, starts or resamples, more clusters than
            rows, and features that are not finite.
    """
    if len(labels) != len(features):
        raise ValueError(f"expected one label per row, {len(features)}; got {len(labels)}")
    classes, codes = np.unique(labels, return_inverse=True)
    count = len(classes) if clusters is None else clusters
    if min(len(classes), count, starts, resamples) < 2 or count > len(features):
        raise ValueError(
            f"expected 2 to {len(features)} clusters and at least 2 classes, starts and resamples; "
            f"got {count}, {len(classes)}, {starts} and {resamples}"
        )
    unit, size = np.asarray(normalize(features)), (count, len(classes))
    runs = [
        _k_means(unit, count, random_state=derive(seed, "k-means", start) % 2**32)
        for start in range(starts)
    ]
    scores = np.stack([agreement(_table(assigned, codes, size)) for _, assigned in runs])
    moved = np.empty((resamples, 2))
    random = np.random.default_rng(derive(seed, "k-means", "resamples"))
    some, several = redrawn(len(unit), groups), group_codes(groups, len(unit)).any()
    for number in range(resamples):
        start, rows = number % starts, some(random)
        while len(rows) < count:  # small groups alone
            rows = some(random)
        _, again = _k_means(unit[rows], count, init=runs[start][0])
        moved[number] = agreement(_table(again, codes[rows], size)) - scores[start]
    freedom = (starts - 1, resamples - 1 if several else 0)
    nmi, ari = (_interval(*both, freedom) for both in zip(scores.T, moved.T, strict=True))
    return Clustering(nmi, ari, tuple((float(n), float(a)) for n, a in scores))


def agreement(table: Num[np.ndarray, "k c"]) -> Float64[np.ndarray, "2"]:
    """NMI and ARI of a contingency table: how many images are of cluster k and class c."""
    of_cluster, of_class, n = table.sum(axis=1), table.sum(axis=0), table.sum()

    def entropy(counts: np.ndarray) -> float:
        return float(entr(counts / n).sum())

    def pairs(counts: np.ndarray | np.integer) -> float:
        return float(np.sum(counts * (counts - 1) / 2))

    own = (entropy(of_cluster) + entropy(of_class)) / 2
    nmi = 2 - entropy(table) / own if own > 0 else 1.0
    expected = pairs(of_cluster) * pairs(of_class) / pairs(n)
    most = (pairs(of_cluster) + pairs(of_class)) / 2
    ari = (pairs(table) - expected) / (most - expected) if most > expected else 1.0
    return np.array([nmi, ari])


def _k_means(
    rows: Float[np.ndarray, "n d"], count: int, **start: Any
) -> tuple[Float[np.ndarray, "k d"], Int32[np.ndarray, "n"]]:
    """Centres, and the cluster of each row, from one start of scikit-learn's KMeans."""
    run: Any = KMeans(count, **{"n_init": 1}, **start).fit(rows)
    return run.cluster_centers_, run.labels_


def _table(
    assigned: Int32[np.ndarray, "n"], codes: Int64[np.ndarray, "n"], size: tuple[int, int]
) -> Int64[np.ndarray, "k c"]:
    """The contingency table."""
    cells = np.ravel_multi_index((assigned, codes), size)
    return np.bincount(cells, minlength=size[0] * size[1]).reshape(size)


def _interval(
    scores: Float64[np.ndarray, "s"], moved: Float64[np.ndarray, "r"], freedom: tuple[int, int]
) -> Interval:
    """Mean of the scores; the variances of starts and of images added."""
    variances = scores.var(ddof=1) / len(scores), moved.var(ddof=1)
    return summed(float(scores.mean()), list(zip(variances, freedom, strict=True)))
