"""Held-out parts of a training set: what every choice of a probe is made on."""

from __future__ import annotations

import warnings
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils import check_random_state

PARTS = 5
ENOUGH = 10_000  # rows from which a single fifth, held out, is a sure enough judge

Fold: TypeAlias = tuple[Int64[np.ndarray, "fitted"], Int64[np.ndarray, "held"]]


def folds(
    codes: Int64[np.ndarray, "n"],
    most: int,
    random_state: int | np.random.RandomState | None,
    groups: Int64[np.ndarray, "_"] | None = None,
) -> list[Fold]:
    """Rows to fit on and to hold out, so that a choice can be judged.

    Each fold holds out about a fifth of every class; a class of fewer than five rows holds none
    out. From 10,000 rows on there is one fold, below five: every fifth in turn. At most about
    `most` rows are used in total, the classes in their proportions.

    With `groups`, whole groups are held out (scikit-learn's StratifiedGroupKFold); a group
    without which nothing of some class would be left is fitted on.

    Returns:
        (fitted, held out) row numbers, ascending; folds that hold nothing out are left out.
    """
    if groups is not None and len(groups) != len(codes):
        raise ValueError(f"expected one group per row, {len(codes)}; got {len(groups)}")
    random = check_random_state(random_state)
    share = min(1.0, most / len(codes))
    kept, part = [], []
    for code in np.unique(codes):
        rows = random.permutation(np.flatnonzero(codes == code))
        rows = rows[: max(2, round(share * len(rows)))]
        fifth = len(rows) // PARTS
        kept.append(rows)
        part.append(np.arange(len(rows)) // max(fifth, 1) if fifth else np.full(len(rows), PARTS))
    rows, part = np.concatenate(kept), np.concatenate(part)
    order = rows.argsort()
    rows, part = rows[order], part[order]
    if groups is not None:
        part = _grouped(codes[rows], groups[rows], random)
    count = 1 if len(rows) >= ENOUGH else PARTS
    held = [_with_every_class(part == i, codes[rows], groups, rows) for i in range(count)]
    return [(rows[~out], rows[out]) for out in held if out.any()]


def split(
    codes: Int64[np.ndarray, "n"],
    most: int,
    random_state: int | np.random.RandomState | None,
    groups: Int64[np.ndarray, "_"] | None = None,
) -> Fold:
    """The first of the `folds`; everything is fitted on where there is none."""
    found = folds(codes, most, random_state, groups)
    return found[0] if found else (np.arange(len(codes)), np.arange(0))


def _grouped(codes: np.ndarray, groups: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """The part that each row is in; groups are whole. Fewer groups than parts, or fewer rows in
    every class: none is held out."""
    part = np.full(len(codes), PARTS)
    if min(len(np.unique(groups)), np.bincount(codes).max()) >= PARTS:
        kfold = StratifiedGroupKFold(PARTS, shuffle=True, random_state=random)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class of fewer rows than parts
            for i, (_, held) in enumerate(kfold.split(codes, codes, groups)):
                part[held] = i
    return part


def _with_every_class(
    held: np.ndarray, codes: np.ndarray, groups: np.ndarray | None, rows: np.ndarray
) -> np.ndarray:
    """`held` without the groups that are all there is of some class."""
    if groups is None:
        return held
    held, own = held.copy(), groups[rows]
    for code in np.setdiff1d(codes, codes[~held]):
        held[np.isin(own, own[codes == code])] = False
    return held
