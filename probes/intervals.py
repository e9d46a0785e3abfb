"""How sure is a number? 95 % confidence intervals for accuracies and for other statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Num
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
    return _score(successes / trials, float(trials), z)


def accuracy_interval(
    right: Bool[np.ndarray, "n"],
    groups: Int64[np.ndarray, "_"] | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Share of rows that are right: `wilson`, where several rows are of one group for as many
    rows as they are worth.

    Rows of one group (crops of one place, clips over one scene) are right or wrong together. The
    variance between groups (`mean_variance`) over that of independent rows is the design effect,
    by which the rows are divided; there are never more than there are. Student's t with one
    degree less than groups stands for the normal quantile: the effective sample size of Korn and
    Graubard 1998 (Survey Methodology 24), in Wilson's interval. Where all are right, or none is,
    nothing tells how alike the rows of a group are, and they count as one. Groups are taken as
    drawn at random, whatever their class; where each is of one of a few fixed classes, the
    interval is wider than it need be, on the photographs up to twice. Of a dozen groups, or of
    shares so near 0 that few groups have any, it covers 85 to 90 %.

    Args:
        right: whether each row is.
        groups: which rows belong together; None: none do.

    Returns:
        0 to 1 of a single group, which does not tell how others would be.
    """
    codes = group_codes(groups, len(right))
    sizes = np.bincount(codes)
    if len(sizes) == len(right):
        return wilson(int(right.sum()), len(right), confidence)
    p, level = float(right.mean()), 0.5 + _checked(confidence) / 2
    variance, freedom = mean_variance(right.astype(np.float64), codes)
    if freedom == 0:
        return Interval(p, 0.0, 1.0)
    if 0 < p < 1:
        worth = p * (1 - p) / max(variance, p * (1 - p) / len(right))
    else:
        worth = len(right) ** 2 / float(np.square(sizes).sum())
    return _score(p, worth, float(stdtrit(freedom, level)))


def _score(p: float, trials: float, z: float) -> Interval:
    """Wilson's, of a share p of so many trials."""
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return Interval(
        p, min(p, max(0.0, float(centre - half))), max(p, min(1.0, float(centre + half)))
    )


def mean_variance(
    values: Float[np.ndarray, "n"], groups: Int64[np.ndarray, "_"] | None = None
) -> tuple[float, int]:
    """Variance of the mean over rows, and its degrees of freedom, one less than groups.

    From the sums over whole groups of the distances to the mean (Cameron and Miller 2015, "A
    practitioner's guide to cluster-robust inference", section II); without groups it is the
    variance of the rows over their number. NaN of a single group.
    """
    codes = group_codes(groups, len(values))
    off = np.bincount(codes, values - values.mean())
    freedom = len(off) - 1
    spread = float(np.square(off).sum()) / len(values) ** 2
    return (len(off) / freedom * spread if freedom else float("nan")), freedom


def summed(value: float, parts: Sequence[tuple[float, int]]) -> Interval:
    """95 % interval of a share or score that is at most 1, which moves for several reasons.

    Args:
        parts: of each source its variance and degrees of freedom. Variances are added; the
            degrees of their sum are Satterthwaite's (1946). With a source of none, of which
            nothing is known, the limits are NaN.
    """
    if not all(degrees for _, degrees in parts):
        return Interval(value, float("nan"), float("nan"))
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return Interval(value, value, value)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    half = stdtrit(freedom, 0.975) * np.sqrt(total)
    return Interval(value, float(value - half), float(min(value + half, 1.0)))


def group_codes(groups: Int64[np.ndarray, "_"] | None, n: int) -> Int64[np.ndarray, "n"]:
    """The group of each of n rows, numbered as they first appear; None: each is its own.

    Raises:
        ValueError: unless there is one group per row.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"expected one group per row, {n}; got {len(groups)}")
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    return first.argsort().argsort()[codes]


def redrawn(
    n: int, groups: Int64[np.ndarray, "_"] | None = None
) -> Callable[[np.random.Generator], Int64[np.ndarray, "m"]]:
    """A function that draws as many groups as there are, with replacement: their row numbers."""
    codes = group_codes(groups, n)
    rows, sizes = codes.argsort(kind="stable"), np.bincount(codes)
    starts = sizes.cumsum() - sizes

    def draw(random: np.random.Generator) -> Int64[np.ndarray, "m"]:
        drawn = random.integers(len(sizes), size=len(sizes))
        if len(sizes) == n:
            return drawn
        ends = sizes[drawn].cumsum()
        shift = starts[drawn] + sizes[drawn] - ends
        return rows[np.arange(ends[-1]) + np.repeat(shift, sizes[drawn])]

    return draw


def bootstrap(
    rows: Num[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], float],
    *,
    seed: int,
    groups: Int64[np.ndarray, "_"] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of `statistic(rows)`.

    Args:
        rows: observations; those that belong together (a prediction and its label) share a row
            and are drawn together, with replacement.
        statistic: rows to one number.
        groups: rows of one group are not independent, and are drawn together too (the pairs
            cluster bootstrap, Cameron and Miller 2015). Of fewer than ten or so groups the
            interval is too narrow; the limits of a single one are NaN. None: each row by itself.
    """
    if len(rows) == 0:
        raise ValueError("no rows to resample")
    tail = 100 * (1 - _checked(confidence)) / 2
    if len(rows) > 1 and not group_codes(groups, len(rows)).any():
        return Interval(float(statistic(rows)), float("nan"), float("nan"))
    random, some = np.random.default_rng(derive(seed, "bootstrap")), redrawn(len(rows), groups)
    drawn = [statistic(rows[some(random)]) for _ in range(resamples)]
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
    groups: Int64[np.ndarray, "_"] | None = None,
    parts: int = 10,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a smooth statistic whose value depends on how many rows there are (a rank, say).

    The jackknife (Tukey 1958): the value is that of all rows, its standard error from leaving out
    each of `parts` random parts in turn. The bootstrap would repeat rows, which lowers a rank.

    Args:
        rows: observations.
        statistic: rows to one number.
        groups: rows of one group are not independent, and are left out together; None: each is
            its own.
        parts: of as many rows, or groups, up to one; at least 2.
    """
    codes = group_codes(groups, len(rows))
    count, what = len(np.bincount(codes)), "rows" if groups is None else "groups"
    if not 2 <= parts <= count:
        raise ValueError(f"expected 2 <= parts <= {count}, the number of {what}; got {parts}")
    order = np.random.default_rng(derive(seed, "jackknife")).permutation(count)
    without = [statistic(rows[~np.isin(codes, part)]) for part in np.array_split(order, parts)]
    value = float(statistic(rows))
    error = np.sqrt((parts - 1) * np.var(without))
    half = float(stdtrit(parts - 1, 0.5 + _checked(confidence) / 2) * error)
    return Interval(value, value - half, value + half)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a probability such as 0.95; got {confidence}")
    return confidence
