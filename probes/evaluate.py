"""The honest number: every probe on every pooling, with what it must be compared to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from jepa.frozen import FrozenEncoder
from jepa.seeds import derive

from .features import GRID, Encoder, FeatureTable, Precision, extract, poolings_of
from .intervals import wilson
from .knn import KNNProbe
from .linear import LinearProbe
from .splits import folds


def evaluate_frozen(
    encoder: Encoder,
    train_loader: Iterable,
    test_loader: Iterable,
    *,
    cache: Path | None = None,
    data: tuple[str, str] | None = None,
    precision: Precision = "float32",
    groups: Int64[np.ndarray, "n"] | None = None,
    k: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Top-1 accuracy of the linear and the kNN probe on frozen features.

    RawPixels and `random_encoder(encoder)` are measured by the same call.

    Args:
        train_loader, test_loader: (images, labels, ...) batches, fixed order, no augmentation.
        cache, data: as `extract`; `data` are the fingerprints of both sets.
        groups: of the training images, in the loader's order: images of one group (crops of one
            place, frames of one video) are never on both sides of a held-out split.
        k: neighbours of the kNN probe.
        seed: of the held-out splits.

    Returns:
        {"metrics": {name: {"value", "low", "high"}}, "chosen": {probe: pooling}, "held_out":
        {"probe/pooling": accuracy}, "C": {pooling: C}, "images": {"train", "test"}}. Metrics are
        `linear_top1` and `knn_top1`, of the pooling that was best on held-out training images,
        and `linear_top1/last`, `knn_top1/last4`, ... for all; 95 % Wilson intervals. kNN, which
        needs no training, is also measured on `grid4`, where places matter.
    """
    poolings = [*poolings_of(encoder), *([GRID] if isinstance(encoder, FrozenEncoder) else [])]
    tables = [
        extract(encoder, loader, poolings, cache=cache, data=name,
                precision=precision, progress=progress)
        for loader, name in zip((train_loader, test_loader), data or (None, None), strict=True)
    ]  # fmt: skip
    return evaluate_tables(*tables, groups=groups, k=k, seed=seed)


def evaluate_tables(
    train: FeatureTable,
    test: FeatureTable,
    *,
    groups: Int64[np.ndarray, "n"] | None = None,
    k: int = 20,
    seed: int = 0,
) -> dict:
    """`evaluate_frozen` on tables that are there already."""
    metrics, held_out, strengths = {}, {}, {}
    for pooling, features in train.features.items():
        probes: dict[str, LinearProbe | KNNProbe] = {}
        probes["knn"] = KNNProbe(k=k).fit(features, train.labels)
        held_out[f"knn/{pooling}"] = _held_out_knn(features, train.labels, groups, k, seed)
        if pooling != GRID:
            linear = LinearProbe(random_state=_int32(seed)).fit(features, train.labels, groups)
            probes["linear"], strengths[pooling] = linear, linear.C_
            held_out[f"linear/{pooling}"] = max(linear.held_out_.values(), default=0.0)
        for name, probe in probes.items():
            right = int((probe.predict(test.features[pooling]) == test.labels).sum())
            metrics[f"{name}_top1/{pooling}"] = wilson(right, len(test.labels))._asdict()
    chosen = {}
    for probe in ("linear", "knn"):
        tried = [p for p in train.features if f"{probe}/{p}" in held_out]
        scores = {pooling: held_out[f"{probe}/{pooling}"] for pooling in tried}
        chosen[probe] = max(scores, key=scores.__getitem__)
        metrics[f"{probe}_top1"] = metrics[f"{probe}_top1/{chosen[probe]}"]
    return {
        "metrics": dict(sorted(metrics.items())),
        "chosen": chosen,
        "held_out": held_out,
        "C": strengths,
        "images": {"train": len(train.labels), "test": len(test.labels)},
    }


def _held_out_knn(
    features: np.ndarray,
    labels: Int64[np.ndarray, "n"],
    groups: Int64[np.ndarray, "n"] | None,
    k: int,
    seed: int,
) -> float:
    """Accuracy on held-out parts of the training set; at most 20,000 rows are used."""
    right, rows = 0, 0
    for bank, held_out in folds(labels, 20_000, _int32(seed), groups):
        probe = KNNProbe(k=k).fit(features[bank], labels[bank])
        right += int((probe.predict(features[held_out]) == labels[held_out]).sum())
        rows += len(held_out)
    return right / max(rows, 1)


def _int32(seed: int) -> int:
    return derive(seed, "held_out") % 2**32
