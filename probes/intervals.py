"""How sure is a number? 95 % confidence intervals for accuracies and for other statistics."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.special import stdtrit

from jepa.seeds import derive


class Interval(NamedTuple):
    """A measured value between its confidence limits; `_asdict()` is what results are saved as."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927): right for few trials and near 0 and 1.

    Raises:
        ValueError: unless 0 <= successes <= trials, trials > 0 and 0 < confidence < 1.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected 0 <= successes <= trials > 0; got {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)
    p = successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return Interval(
        p, min(p, max(0.0, float(centre - half))), max(p, min(1.0, float(centre + half)))
    )


def bootstrap(
    rows: Num[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], float],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of `statistic(rows)`.

    Args:
        rows: independent observations; those that belong together (a prediction and its label)
            share a row and are drawn together, with replacement.
        statistic: rows to one number.
    """
    if len(rows) == 0:
        raise ValueError("no rows to resample")
    tail = 100 * (1 - _checked(confidence)) / 2
    random = np.random.default_rng(derive(seed, "bootstrap"))
    drawn = [statistic(rows[random.integers(len(rows), size=len(rows))]) for _ in range(resamples)]
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(statistic(rows)), float(low), float(high))


def mean_interval(values: Float[np.ndarray, "n"], confidence: float = 0.95) -> Interval:
    """Mean of a few independent repetitions, with Student's t interval (n - 1 degrees).

    Raises:
        ValueError: for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval of a mean needs at least 2 values; got {len(values)}")
    t = stdtrit(len(values) - 1, 0.5 + _checked(confidence) / 2)
    mean, half = values.mean(), t * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(mean), float(mean - half), float(mean + half))


def jackknife(
    rows: Num[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], float],
    *,
    seed: int,
    parts: int = 10,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a smooth statistic whose value depends on how many rows there are (a rank, say).

    The jackknife (Tukey 1958): the value is that of all rows, its standard error from leaving out
    each of `parts` random parts in turn. The bootstrap would repeat rows, which lowers a rank.

    Args:
        rows: independent observations.
        statistic: rows to one number.
        parts: of equal size, up to a row; at least 2.
    """
    if not 2 <= parts <= len(rows):
        raise ValueError(f"expected 2 <= parts <= {len(rows)}, the number of rows; got {parts}")
    order = np.random.default_rng(derive(seed, "jackknife")).permutation(len(rows))
    without = [statistic(np.delete(rows, part, axis=0)) for part in np.array_split(order, parts)]
    value = float(statistic(rows))
    error = np.sqrt((parts - 1) * np.var(without))
    half = float(stdtrit(parts - 1, 0.5 + _checked(confidence) / 2) * error)
    return Interval(value, value - half, value + half)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a probability such as 0.95; got {confidence}")
    return confidence
