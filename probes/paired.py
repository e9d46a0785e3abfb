"""Is one encoder better than another? Both on the same test images, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Num
from scipy.stats import binomtest

from .intervals import Interval, bootstrap, group_codes


class Paired(NamedTuple):
    """A minus B on the same images.

    difference: of the accuracies, with its 95 % interval over images or groups of them.
    p_value: two-sided, that A and B are equally often right where they differ.
    """

    difference: Interval
    p_value: float


def mcnemar(
    right_a: Bool[np.ndarray, "n"],
    right_b: Bool[np.ndarray, "_"],
    *,
    groups: Int64[np.ndarray, "_"] | None = None,
    seed: int = 0,
) -> Paired:
    """Difference of two accuracies, tested exactly (McNemar 1947).

    Only images on which A and B differ tell anything: if neither is better, each of those is A's
    with probability 1/2, and the p-value is the binomial's. The interval is that of the paired
    bootstrap; with fewer than ten or so such images it is too narrow, and the p-value is what
    counts.

    Several images of one scene are not independent. With groups A and B change places in whole
    groups, each with probability 1/2: the p-value is the share of all these exchanges whose
    difference is at least as large (Fisher's randomisation test, 1935), and the bootstrap draws
    whole groups. With one image each it is McNemar's.

    Args:
        right_a, right_b: whether A and B are right about each image, in the same order.
        groups: which images show the same place or scene; None: none do.
        seed: of the bootstrap.

    Raises:
        ValueError: unless both are of the same, at least one, image.
    """
    gap = difference(
        right_a.astype(np.float64), right_b.astype(np.float64), groups=groups, seed=seed
    )
    codes = group_codes(groups, len(right_a))
    a, b = (np.bincount(codes, right).astype(np.int64) for right in (right_a, right_b))
    if len(a) < len(codes):
        return Paired(gap, _exchanged(a - b))
    only_a, differing = int((a > b).sum()), int((a != b).sum())
    return Paired(gap, float(binomtest(only_a, differing).pvalue) if differing else 1.0)


def _exchanged(gaps: Int64[np.ndarray, "g"]) -> float:
    """Probability that gaps, each of either sign by a coin, add up to what is as far from 0."""
    sizes = np.abs(gaps[gaps != 0])
    total = int(sizes.sum())
    chance = np.zeros(total + 1)  # that the positive ones add up to 0, 1, ... total
    chance[0] = 1.0
    for size in sizes:
        kept = chance.copy()
        kept[size:] += chance[:-size]
        chance = kept / 2
    far = np.abs(2 * np.arange(total + 1) - total) >= abs(int(gaps.sum()))
    return min(1.0, float(chance[far].sum()))


def difference(
    of_a: Num[np.ndarray, "n ..."],
    of_b: Num[np.ndarray, "_ ..."],
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    groups: Int64[np.ndarray, "_"] | None = None,
    seed: int = 0,
) -> Interval:
    """statistic(A's rows) - statistic(B's rows), with its 95 % paired bootstrap interval.

    Images are drawn with replacement, and what A and B say about an image stays together: what
    makes an image hard for both cancels, so that the interval is narrower than those of A and B
    alone would suggest.

    Args:
        of_a, of_b: one row per image, in the same order: average precisions, errors, pairs of a
            truth and a prediction.
        statistic: rows to one number.
        groups: images that are drawn together; None: each by itself.

    Raises:
        ValueError: unless both have the same shape, of at least one row.
    """
    if of_a.shape != of_b.shape:
        raise ValueError(
            "expected what A and B say about the same images; "
            f"got shapes {of_a.shape} and {of_b.shape}"
        )
    return bootstrap(
        np.stack([of_a, of_b], axis=1),
        lambda rows: float(statistic(rows[:, 0]) - statistic(rows[:, 1])),
        groups=groups,
        seed=seed,
    )


def holm(p_values: Float[np.ndarray, "m"] | Sequence[float]) -> Float64[np.ndarray, "m"]:
    """p-values of m comparisons, adjusted so that any false alarm has at most its p (Holm 1979).

    The smallest is multiplied by m, the next by m - 1, and so on; none may be below one before it,
    or above 1. The order is that of the arguments. Right for dependent comparisons too.

    Raises:
        ValueError: for what is no probability.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values are between 0 and 1; got {p.tolist()}")
    order = p.argsort()
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted
