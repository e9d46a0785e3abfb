"""Segmentation: how well do predicted masks agree with the truth? mIoU over all pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Num

from .intervals import Interval, bootstrap, group_codes

IGNORED = 255  # the class of pixels that nobody is asked about, as in most published sets


class Segmentation(NamedTuple):
    """How well masks are predicted, with 95 % bootstrap intervals over images,
    or groups of them.

    mean_iou: mean over classes of intersection / union, of the pixels of all images together.
    pixel_accuracy: share of pixels that are right.
    iou: {class: intersection / union}, of the classes that are there or were predicted.
    """

    mean_iou: Interval
    pixel_accuracy: Interval
    iou: dict[int, float]


def segmentation(
    truth: Num[np.ndarray, "n H W"],
    predicted: Num[np.ndarray, "n H W"],
    *,
    groups: Int64[np.ndarray, "_"] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Segmentation:
    """Scores of predicted masks; pixels of class 255 in the truth do not count.

    Args:
        groups: which images show the same place, and are drawn together; None: none do.
        seed, resamples: of the bootstrap. Whole images are drawn, of those with a pixel that
            counts: pixels of one are not independent.

    Raises:
        ValueError: if no pixel counts.
    """
    classes = np.union1d(truth[truth != IGNORED], predicted)
    codes = np.where(truth == IGNORED, -1, np.searchsorted(classes, truth))
    tables = confusion(codes, np.searchsorted(classes, predicted), len(classes))
    counted = tables.any(axis=(1, 2))
    tables, groups = tables[counted], group_codes(groups, len(tables))[counted]
    if not len(tables):
        raise ValueError(f"expected masks with a class; all pixels are {IGNORED}, which is ignored")
    pixels = tables.sum(axis=(1, 2))
    right = np.trace(tables, axis1=1, axis2=2)
    return Segmentation(
        bootstrap(tables, mean_iou, groups=groups, seed=seed, resamples=resamples),
        bootstrap(
            np.stack([right, pixels], axis=1),
            lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()),
            groups=groups,
            seed=seed,
            resamples=resamples,
        ),
        {int(c): float(v) for c, v in zip(classes, _iou(tables), strict=True) if v == v},
    )


def confusion(
    truth: Int64[np.ndarray, "n H W"], predicted: Int64[np.ndarray, "n H W"], classes: int
) -> Int64[np.ndarray, "n c c"]:
    """For each image, how many pixels of each class (rows) were called what (columns)."""
    cells = [
        np.bincount(t[t >= 0] * classes + p[t >= 0], minlength=classes**2)
        for t, p in zip(truth, predicted, strict=True)
    ]
    return np.stack(cells).reshape(-1, classes, classes)


def mean_iou(tables: Int64[np.ndarray, "n c c"]) -> float:
    """Over the classes that are there or were predicted, of all images together."""
    return float(np.nanmean(_iou(tables)))


def _iou(tables: Int64[np.ndarray, "n c c"]) -> Float64[np.ndarray, "c"]:
    """NaN for a class that is neither there nor predicted."""
    total = tables.sum(axis=0)
    both = np.diag(total).astype(np.float64)
    union = total.sum(axis=0) + total.sum(axis=1) - both
    return np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0)
