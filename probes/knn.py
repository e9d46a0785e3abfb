"""k nearest neighbours: no training at all, so nothing but the features is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, no_type_check

import faiss
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from jepa.seeds import derive

from .approximate import hnsw, ivf
from .intervals import Interval, bootstrap

_TIE = 12  # decimals to which similarities are compared: rounding noise must not order twins
_BLOCK = 4_000_000  # numbers in one block of float64 work


class KNNProbe(ClassifierMixin, BaseEstimator):
    """Weighted k-nearest-neighbour classifier on cosine similarity.

    The protocol of Wu et al. 2018 (arXiv:1805.01978), section 3.4, used since by DINO and
    others: a neighbour of similarity s votes for its class with weight exp(s / temperature).

    Args:
        k: neighbours; all rows of the bank if it has fewer. The literature takes 20 (DINO) or
            200 (Wu et al.), the latter for a bank of a million images.
        temperature: of the weights.
        index: `flat` compares with every row, and is exact; `ivf` and `hnsw` look at part of a
            large bank and miss some neighbours: see approximate.py, and ask `recall`.
        random_state: of the k-means that `ivf` begins with.

    Attributes:
        classes_: sorted labels, the columns of `predict_proba`.
        bank_, codes_: rows [n, D] and the class number [n] of each.
        index_: faiss's index; None if flat.
    """

    @no_type_check  # scikit-learn's rule: the constructor takes anything, `fit` refuses
    def __init__(
        self,
        k: int = 20,
        temperature: float = 0.07,
        *,
        index: Literal["flat", "ivf", "hnsw"] = "flat",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.index = index
        self.random_state = random_state

    def fit(self, X, y) -> KNNProbe:
        """Remember the bank: X [n, D], y [n]."""
        if self.k < 1 or self.temperature <= 0:
            raise ValueError(
                f"expected k >= 1 and temperature > 0; got {self.k}, {self.temperature}"
            )
        if self.index not in ("flat", "ivf", "hnsw"):
            raise ValueError(f"index is 'flat', 'ivf' or 'hnsw'; got {self.index!r}")
        rows, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        check_classification_targets(y)
        self.classes_, self.codes_ = np.unique(y, return_inverse=True)
        self.bank_ = np.asarray(rows)
        self.index_ = None
        if self.index == "ivf":
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            with _faiss_threads(torch.get_num_threads()):
                self.index_ = ivf(_unit32(self.bank_), seed)
        elif self.index == "hnsw":
            with _faiss_threads(1):  # several would each time build another graph
                self.index_ = hnsw(_unit32(self.bank_))
        return self

    def neighbours(self, X) -> tuple[Float64[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
        """Cosine similarity and bank row of the k neighbours, nearest first."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))
        k = min(self.k, len(self.bank_))
        if self.index_ is None:
            return nearest(X, self.bank_, k)
        return nearest_in(self.index_, X, self.bank_, k)

    def predict_proba(self, X) -> Float64[np.ndarray, "q c"]:
        """The share of the votes that each class gets."""
        similarity, index = self.neighbours(X)
        weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / self.temperature)
        votes = np.zeros((len(index), len(self.classes_)))
        np.add.at(votes, (np.arange(len(index))[:, None], self.codes_[index]), weights)
        return votes / votes.sum(axis=1, keepdims=True)

    def predict(self, X) -> np.ndarray:
        """The class with most votes; of equals, the first in `classes_`."""
        winner = self.predict_proba(X).argmax(axis=1)
        return self.classes_[winner]

    def recall(self, X, *, queries: int = 1000, seed: int = 0) -> Interval:
        """Share of the exact neighbours that the index finds, of a draw of at most `queries` rows.

        A row as near as the exact k-th counts as one of them. The 95 % interval is the bootstrap's
        over queries.
        """
        X = np.asarray(X)
        drawn = np.random.default_rng(derive(seed, "recall")).permutation(len(X))[:queries]
        found, _ = self.neighbours(X[drawn])
        exact, _ = nearest(X[drawn], self.bank_, found.shape[1])
        hits = (found >= exact[:, -1:] - 10.0**-_TIE).mean(axis=1)
        return bootstrap(hits, np.mean, seed=seed)


def nearest(
    queries: Float[np.ndarray, "q d"], bank: Float[np.ndarray, "n d"], k: int
) -> tuple[Float64[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    """Cosine similarity and bank row of the k nearest, nearest first; equals in bank order.

    The result is that of float64 arithmetic: faiss proposes twice as many candidates in
    float32, they are ranked again in float64, and where float32 rounding could have hidden a
    better row (or equals reach beyond the candidates), the whole bank is ranked in float64.
    A row of zeros has similarity 0 to everything.
    """
    count = min(len(bank), 2 * k + 8)
    with _faiss_threads(torch.get_num_threads()):
        rough, candidates = faiss.knn(
            _unit32(queries), _unit32(bank), count, metric=faiss.METRIC_INNER_PRODUCT
        )
    similarity, index = _ranked(queries, bank, candidates, k)
    if count < len(bank):
        doubt = (bank.shape[1] + 4) * 2.0**-24 + 10.0**-_TIE  # error bound of a float32 product
        unsure = np.flatnonzero(similarity[:, -1] <= rough[:, -1] + doubt)
        if len(unsure):
            similarity[unsure], index[unsure] = _exhaustive(queries[unsure], bank, k)
    return similarity, index


def nearest_in(
    index: faiss.Index,
    queries: Float[np.ndarray, "q d"],
    bank: Float[np.ndarray, "n d"],
    k: int,
) -> tuple[Float64[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    """`nearest` among the rows that an index of approximate.py proposes, or among all rows where
    it proposes fewer than k."""
    count = min(len(bank), 2 * k + 8)
    with _faiss_threads(torch.get_num_threads()):
        _, candidates = index.search(_unit32(queries), count)
    similarity, found = _ranked(queries, bank, candidates, k)
    short = np.flatnonzero(candidates[:, k - 1] < 0)
    if len(short):
        similarity[short], found[short] = nearest(queries[short], bank, k)
    return similarity, found


def _ranked(
    queries: np.ndarray, bank: np.ndarray, candidates: Int64[np.ndarray, "q c"], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query's candidates, in float64; a candidate below 0 is none."""
    similarity = np.empty((len(queries), k))
    index = np.empty((len(queries), k), dtype=np.int64)
    block = _BLOCK // 8  # stays in the processor's cache
    for rows in gen_batches(len(queries), max(1, block // (candidates.shape[1] * bank.shape[1]))):
        near = candidates[rows]
        there = bank[near].astype(np.float64)
        length = np.sqrt(np.einsum("qcd,qcd->qc", there, there))
        exact = np.einsum("qcd,qd->qc", there, _unit(queries[rows]))
        exact /= np.where(length == 0, 1, length)
        exact[near < 0] = -np.inf
        order = np.lexsort((near, -exact.round(_TIE)), axis=-1)[:, :k]
        similarity[rows] = np.take_along_axis(exact, order, axis=1)
        index[rows] = np.take_along_axis(near, order, axis=1)
    return similarity, index


def ranking(
    queries: Float[np.ndarray, "q d"], bank: Float[np.ndarray, "n d"]
) -> Int64[np.ndarray, "q n"]:
    """All rows of the bank, nearest first: `nearest` with k = n, for a block of queries."""
    order = np.empty((len(queries), len(bank)), dtype=np.int64)
    for row, s in enumerate(_similarities(queries, bank)):
        key = -s.round(_TIE)
        order[row] = key.argsort()  # several times as fast as a stable sort, and ties are rare
        if (np.diff(key[order[row]]) == 0).any():
            order[row] = key.argsort(kind="stable")
    return order


def _exhaustive(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` in float64 over the whole bank."""
    similarity = np.empty((len(queries), k))
    index = np.empty((len(queries), k), dtype=np.int64)
    for row, s in enumerate(_similarities(queries, bank)):
        key = s.round(_TIE)
        near = np.flatnonzero(key >= np.partition(key, -k)[-k])
        index[row] = near[np.argsort(-key[near], kind="stable")[:k]]
        similarity[row] = s[index[row]]
    return similarity, index


def _similarities(queries: np.ndarray, bank: np.ndarray) -> Iterator[Float64[np.ndarray, "n"]]:
    """Of each query to the whole bank, in float64."""
    for rows in gen_batches(len(queries), max(1, _BLOCK // len(bank))):
        exact = np.empty((rows.stop - rows.start, len(bank)))
        for part in gen_batches(len(bank), max(1, _BLOCK // bank.shape[1])):
            exact[:, part] = _unit(queries[rows]) @ _unit(bank[part]).T
        yield from exact


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows over their length, in float64; zeros stay zeros."""
    rows = rows.astype(np.float64)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


def _unit32(rows: np.ndarray) -> Float32[np.ndarray, "n d"]:
    """`_unit` rounded to float32, without a float64 copy of everything."""
    unit = np.empty(rows.shape, dtype=np.float32)
    for part in gen_batches(len(rows), max(1, _BLOCK // rows.shape[1])):
        unit[part] = _unit(rows[part])
    return unit


@contextmanager
def _faiss_threads(count: int) -> Iterator[None]:
    """faiss brings an OpenMP of its own: let it use as many threads as torch does, then restore."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
