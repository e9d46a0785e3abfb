"""Low-shot: what a representation is worth when there are few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int64
from sklearn.base import BaseEstimator, clone

from jepa.seeds import derive

from .intervals import Interval, mean_variance, summed

Shots: TypeAlias = int | float

SHOTS: tuple[Shots, ...] = (1, 5, 10, 0.01, 0.1)


class LowShot(NamedTuple):
    """Test accuracy with few labels: `accuracy` is the mean of `draws`, one per draw of labels.

    shots: labels per class (int), or the share of all labels (float).
    labels: rows that were fitted on, the same in every draw.
    accuracy: the 95 % interval covers both that were drawn: the labels, and the test rows or
        groups of them. Of two variances, that of the mean over draws and that of the mean over
        rows of how often each is right, it takes the sum: what a draw makes of a row counts
        twice, so that it is a little too wide rather than too narrow (Owen 2007, "The pigeonhole
        bootstrap"). Rows that labels are drawn from are taken as they are.
    """

    shots: Shots
    labels: int
    accuracy: Interval
    draws: tuple[float, ...]


def low_shot(
    estimator: BaseEstimator,
    X: Float[np.ndarray, "n ..."],
    y: Int64[np.ndarray, "n"],
    X_test: Float[np.ndarray, "m ..."],
    y_test: Int64[np.ndarray, "m"],
    *,
    shots: Sequence[Shots] = SHOTS,
    draws: int = 5,
    groups: Int64[np.ndarray, "_"] | None = None,
    test_groups: Int64[np.ndarray, "_"] | None = None,
    seed: int = 0,
) -> list[LowShot]:
    """Accuracy of an estimator that is fitted on few labelled rows, over several draws of them.

    A clone is fitted on each draw and scored on all test rows; whatever it chooses (a penalty, a
    learning rate) it must choose on those few rows. Draws are named by `seed`, shots and number:
    they do not depend on the features, so that encoders may be compared draw by draw.

    Args:
        estimator: any scikit-learn classifier.
        shots: see `few`.
        draws: at least 2, or nothing could be said of their spread.
        groups: as `few`.
        test_groups: which test rows show the same thing, see `accuracy_interval`.
    """
    if draws < 2:
        raise ValueError(f"expected at least 2 draws, to see how they differ; got {draws}")

    def right(rows: Int64[np.ndarray, "r"]) -> Bool[np.ndarray, "m"]:
        fresh: Any = clone(estimator)
        return np.asarray(fresh.fit(X[rows], y[rows]).predict(X_test) == y_test)

    records = []
    for shot in shots:
        picked = [
            few(y, shot, seed=derive(seed, "low shot", str(shot), draw), groups=groups)
            for draw in range(draws)
        ]
        answers = np.stack([right(rows) for rows in picked])
        scores, often = answers.mean(axis=1), answers.mean(axis=0)
        parts = [mean_variance(scores), mean_variance(often, test_groups)]
        interval = summed(float(scores.mean()), parts)
        records.append(LowShot(shot, len(picked[0]), interval, tuple(scores.tolist())))
    return records


def few(
    y: Int64[np.ndarray, "n"],
    shots: Shots,
    *,
    seed: int,
    groups: Int64[np.ndarray, "_"] | None = None,
) -> Int64[np.ndarray, "m"]:
    """Row numbers of a random draw of few rows, ascending, every class among them.

    Args:
        shots: that many rows of each class (int); or that share of each class (float), rounded,
            at least one.
        groups: rows of one group show the same thing, so the things are counted instead of the
            rows, and one row is drawn of each: ten shots are ten things.

    Raises:
        ValueError: for shots that are neither, and if a class has too few rows (or groups).
    """
    share = isinstance(shots, float)
    if not (0 < shots <= 1 if share else shots >= 1):
        raise ValueError(
            f"shots are labels per class (1, 5, ...) or a share of them (0.01, ...); got {shots!r}"
        )
    if groups is not None and len(groups) != len(y):
        raise ValueError(f"expected one group per row, {len(y)}; got {len(groups)}")
    random = np.random.default_rng(seed)
    picked = []
    for label in np.unique(y):
        rows = random.permutation(np.flatnonzero(y == label))
        if groups is not None:
            rows = rows[np.sort(np.unique(groups[rows], return_index=True)[1])]
        wanted = max(1, round(shots * len(rows))) if share else shots
        if len(rows) < wanted:
            what = "rows" if groups is None else "groups"
            raise ValueError(
                f"class {label} has {len(rows)} {what}, too few for shots={shots!r} ({wanted}); "
                "give fewer shots, or leave the class out"
            )
        picked.append(rows[:wanted])
    return np.sort(np.concatenate(picked))
