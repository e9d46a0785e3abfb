"""The honest number: every probe on every pooling, with what it must be compared to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from jepa.frozen import FrozenEncoder
from jepa.seeds import derive

from .features import GRID, TOKENS, Encoder, FeatureTable, Precision, extract, poolings_of
from .intervals import accuracy_interval
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
    test_groups: Int64[np.ndarray, "m"] | None = None,
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
        test_groups: of the test images, likewise: images of one group are not independent, see
            `accuracy_interval`.
        k: neighbours of the kNN probe.
        seed: of the held-out splits.

    Returns:
        {"metrics": {name: {"value", "low", "high"}}, "chosen": {probe: pooling}, "held_out":
        {"probe/pooling": accuracy}, "C": {pooling: C}, "images": {"train", "test"}}. Metrics are
        `linear_top1` and `knn_top1`, of the pooling that was best on held-out training images,
        and `linear_top1/last`, `knn_top1/last4`, ... for all; 95 % intervals. kNN, which
        needs no training, is also measured on `grid4`, where places matter.
    """
    poolings = [*poolings_of(encoder), *([GRID] if isinstance(encoder, FrozenEncoder) else [])]
    tables = [
        extract(encoder, loader, poolings, cache=cache, data=name,
                precision=precision, progress=progress)
        for loader, name in zip((train_loader, test_loader), data or (None, None), strict=True)
    ]  # fmt: skip
    return evaluate_tables(*tables, groups=groups, test_groups=test_groups, k=k, seed=seed)


def evaluate_tables(
    train: FeatureTable,
    test: FeatureTable,
    *,
    groups: Int64[np.ndarray, "n"] | None = None,
    test_groups: Int64[np.ndarray, "m"] | None = None,
    k: int = 20,
    seed: int = 0,
) -> dict:
    """`evaluate_frozen` on tables that are there already."""
    found = fit_and_score(train, test, groups=groups, test_groups=test_groups, k=k, seed=seed)
    return {
        "metrics": found.metrics,
        "chosen": found.chosen,
        "held_out": found.held_out,
        "C": found.C,
        "images": {"train": len(train.labels), "test": len(test.labels)},
    }


@dataclass(frozen=True)
class Scores:
    """`evaluate_frozen`'s numbers, and of each probe on its chosen pooling what it said.

    predicted: {probe: label of each test image}. linear: the fitted linear probe, if it is one of
    the probes.
    """

    metrics: dict[str, dict]
    chosen: dict[str, str]
    held_out: dict[str, float]
    C: dict[str, float]
    predicted: dict[str, Int64[np.ndarray, "n"]]
    linear: LinearProbe | None


def fit_and_score(
    train: FeatureTable,
    test: FeatureTable,
    probes: Sequence[str] = ("linear", "knn"),
    *,
    groups: Int64[np.ndarray, "n"] | None = None,
    test_groups: Int64[np.ndarray, "m"] | None = None,
    k: int = 20,
    seed: int = 0,
) -> Scores:
    """The linear probe and kNN, or one of them, on every pooling of the tables."""
    metrics, held_out, strengths, predicted, fitted = {}, {}, {}, {}, {}
    for pooling, features in train.features.items():
        if pooling == TOKENS:
            continue
        if "knn" in probes:
            fitted["knn", pooling] = KNNProbe(k=k).fit(features, train.labels)
            held_out[f"knn/{pooling}"] = _held_out_knn(features, train.labels, groups, k, seed)
        if "linear" in probes and pooling != GRID:
            linear = LinearProbe(random_state=int32(seed)).fit(features, train.labels, groups)
            fitted["linear", pooling], strengths[pooling] = linear, linear.C_
            held_out[f"linear/{pooling}"] = max(linear.held_out_.values(), default=0.0)
    for (name, pooling), probe in fitted.items():
        said = probe.predict(test.features[pooling])
        predicted[name, pooling] = said
        found = accuracy_interval(said == test.labels, test_groups)
        metrics[f"{name}_top1/{pooling}"] = found._asdict()
    chosen = {}
    for name in probes:
        scores = {p: held_out[f"{name}/{p}"] for p in train.features if (name, p) in fitted}
        chosen[name] = max(scores, key=scores.__getitem__)
        metrics[f"{name}_top1"] = metrics[f"{name}_top1/{chosen[name]}"]
    return Scores(
        dict(sorted(metrics.items())),
        chosen,
        held_out,
        strengths,
        {name: predicted[name, pooling] for name, pooling in chosen.items()},
        fitted.get(("linear", chosen.get("linear", ""))),
    )


def _held_out_knn(
    features: np.ndarray,
    labels: Int64[np.ndarray, "n"],
    groups: Int64[np.ndarray, "n"] | None,
    k: int,
    seed: int,
) -> float:
    """Accuracy on held-out parts of the training set; at most 20,000 rows are used."""
    right, rows = 0, 0
    for bank, held_out in folds(labels, 20_000, int32(seed), groups):
        probe = KNNProbe(k=k).fit(features[bank], labels[bank])
        right += int((probe.predict(features[held_out]) == labels[held_out]).sum())
        rows += len(held_out)
    return right / max(rows, 1)


def int32(seed: int) -> int:
    """The seed of held-out splits, as scikit-learn takes it."""
    return derive(seed, "held_out") % 2**32
