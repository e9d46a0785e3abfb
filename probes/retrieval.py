"""Retrieval: does what looks alike to the encoder belong together? No training at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from sklearn.utils import gen_batches

from .intervals import Interval, bootstrap, group_codes
from .knn import ranking

_BLOCK = 4_000_000  # ranked rows that are held at once


class Retrieval(NamedTuple):
    """How well the rows of a query's class are found, with 95 % bootstrap intervals over queries,
    or groups of them.

    recall: {k: share of queries with a row of their class among the k nearest}.
    mean_average_precision: average precision is the mean, over all R rows of the query's class,
        of the precision at the rank of each.
    mean_average_precision_at_r: MAP@R (Musgrave et al. 2020, arXiv:2003.08505, section 3.2): the
        same sum over the first R ranks only.
    queries: those of a class that the gallery has; the others are left out.
    """

    recall: dict[int, Interval]
    mean_average_precision: Interval
    mean_average_precision_at_r: Interval
    queries: int


def retrieval(
    queries: Float[np.ndarray, "q d"],
    labels: Int64[np.ndarray, "q"],
    gallery: Float[np.ndarray, "n d"],
    gallery_labels: Int64[np.ndarray, "n"],
    *,
    ks: Sequence[int] = (1, 5, 10),
    groups: Int64[np.ndarray, "_"] | None = None,
    seed: int = 0,
) -> Retrieval:
    """Queries (test) look for their class in a gallery (train), by cosine similarity.

    The ranking is that of float64 arithmetic, equals in the gallery's order; queries are ranked
    block by block, so that memory does not grow with their number.

    Args:
        ks: neighbours of recall@k, at most n.
        groups: which queries show the same place, and are drawn together; None: none do.
        seed: of the bootstrap.
    """
    found = (
        gallery_labels[ranking(queries[rows], gallery)] == labels[rows, None]
        for rows in gen_batches(len(queries), max(1, _BLOCK // len(gallery)))
    )
    return _measured(found, len(gallery), ks, seed, group_codes(groups, len(queries)))


def retrieval_within(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, "n"],
    *,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
) -> Retrieval:
    """`retrieval` with every row in turn as the query, and all others as its gallery."""

    def found() -> Iterator[Bool[np.ndarray, "b m"]]:
        for rows in gen_batches(len(features), max(1, _BLOCK // len(features))):
            ranked = ranking(features[rows], features)
            own = np.arange(rows.start, rows.stop)[:, None]
            others = ranked[ranked != own].reshape(len(ranked), -1)
            yield labels[others] == labels[rows, None]

    return _measured(found(), len(features) - 1, ks, seed, np.arange(len(features)))


def _measured(
    blocks: Iterator[Bool[np.ndarray, "b n"]],
    size: int,
    ks: Sequence[int],
    seed: int,
    groups: Int64[np.ndarray, "q"],
) -> Retrieval:
    """From which rows of each query's ranking are of its class, and the queries' groups."""
    if not ks or not 1 <= min(ks) <= max(ks) <= size:
        raise ValueError(f"expected 1 <= k <= {size}, the rows of the gallery; got {list(ks)}")
    known, parts = [], []
    for block in blocks:
        known.append(block.any(axis=1))
        parts.append(_scores(block[known[-1]], ks))
    scores, groups = np.concatenate(parts), groups[np.concatenate(known)]
    if len(scores) == 0:
        raise ValueError(
            "no query is of a class that the gallery has: do training and test images have a class "
            "in common?"
        )
    *recall, full, at_r = [
        bootstrap(column, lambda rows: float(rows.mean()), groups=groups, seed=seed)
        for column in scores.T
    ]
    return Retrieval(dict(zip(ks, recall, strict=True)), full, at_r, len(scores))


def _scores(right: Bool[np.ndarray, "b n"], ks: Sequence[int]) -> Float64[np.ndarray, "b s"]:
    """Of each query: hit at every k, average precision, and that at R."""
    rank = np.arange(1, right.shape[1] + 1)
    hits = right.cumsum(axis=1)
    total = hits[:, -1:]
    gained = np.where(right, hits / rank, 0.0) / total
    hit = [right[:, :k].any(axis=1) for k in ks]
    at_r = np.where(rank <= total, gained, 0.0).sum(axis=1)
    return np.stack([*hit, gained.sum(axis=1), at_r], axis=1).astype(np.float64)
