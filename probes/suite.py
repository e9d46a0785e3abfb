"""The suite: any choice of probes on one pair of feature tables, every number with its interval."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.base import BaseEstimator

from jepa.diagnostics import alignment, alpha_req, covariance_spectrum, lidar, rankme, uniformity
from jepa.frozen import device_of
from jepa.seeds import derive

from .attentive_probe import AttentiveProbe
from .clustering import cluster
from .evaluate import fit_and_score, int32
from .features import TOKENS, Encoder, FeatureTable, pooled
from .intervals import Interval, accuracy_interval, bootstrap, group_codes, jackknife
from .linear import LinearProbe
from .low_shot import SHOTS, Shots, low_shot
from .mlp import MLPProbe
from .retrieval import retrieval

log = logging.getLogger(__name__)

Probe: TypeAlias = Literal[
    "linear",
    "knn",
    "mlp",
    "attentive",
    "low_shot",
    "retrieval",
    "clustering",
    "diagnostics",
    "corruptions",
]
PROBES: tuple[Probe, ...] = get_args(Probe)
QUICK: tuple[Probe, ...] = (
    "linear",
    "knn",
    "low_shot",
    "retrieval",
    "clustering",
    "diagnostics",
)

QUERIES, GALLERY = 1000, 20_000  # of retrieval: test and training images, drawn at random
NEAREST = (1, 5, 10)  # neighbours of recall, as far as there are so many training images
PARTS = 10  # of the jackknife, as far as there are so many test images
CLUSTERED, DIAGNOSED = 5000, 2000  # test images, drawn at random
PENALTY = 1.0  # C of the low-shot probe: a few labels are too few to choose it on

Views: TypeAlias = Iterable[tuple[torch.Tensor, torch.Tensor]]


class Tables(NamedTuple):
    """What all probes read: of one encoder, training and test images by `extract`, in all its
    poolings by mean and in `tokens` if the attentive probe is wanted.

    groups, test_groups: of the training and of the test images, see `evaluate_frozen`.
    """

    train: FeatureTable
    test: FeatureTable
    groups: Int64[np.ndarray, "n"] | None = None
    test_groups: Int64[np.ndarray, "m"] | None = None


@dataclass(frozen=True)
class Findings:
    """What was found.

    metrics: {name: {"value", "low", "high"}}, all with 95 % intervals; over whole groups of test
        images where these are known, but for `lidar` and `alignment`, whose views do not tell
        which images they are of.
    predicted: {classifying probe: label of each test image}.
    details: choices, and what curves are drawn over; goes into JSON.
    spectrum: variances of the test features along their principal axes, descending; empty
        without `diagnostics`.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    predicted: dict[str, Int64[np.ndarray, "n"]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    spectrum: Float[np.ndarray, "r"] = field(default_factory=lambda: np.empty(0))


def examine(
    encoder: Encoder,
    tables: Tables,
    probes: Sequence[Probe] = QUICK,
    *,
    views: Views = (),
    corrupted: Mapping[str, Iterable] | None = None,
    seed: int = 0,
) -> Findings:
    """The chosen probes of an encoder; those that are trained are so where the encoder is.

    The metrics are, by probe (all on test images; the poolings see `poolings_of`):

    linear, knn: `linear_top1`, `knn_top1` and `.../<pooling>`, see `evaluate_frozen`.
    mlp: `mlp_top1`, on the linear probe's pooling, or else the last layer's.
    attentive: `attentive_top1`, on all tokens.
    low_shot: `low_shot_top1/5` with five labels per class, `low_shot_top1/10%`, ...: a linear
        probe of C = 1 on the last layer, mean over five draws of the labels.
    retrieval: `retrieval_recall/k`, `retrieval_map`, `retrieval_map_at_r` of 1,000 test images in
        20,000 training images, last layer; k are 1, 5 and 10, of fewer images those there are.
    clustering: `clustering_nmi`, `clustering_ari` of k-means on 5,000 test images, last layer.
    diagnostics: `rankme`, `alpha_req`, `uniformity` of 2,000 test images; `lidar` and `alignment`
        of the views, if any. Last layer, without labels; intervals by the jackknife.
    corruptions: `corrupted_top1/<name>` of the linear probe, fitted on clean images, for each of
        the corrupted versions of test images, and `corrupted_top1`, the mean over all of them.

    Args:
        views: batches (views [B, V, C, H, W], labels) of augmented images.
        corrupted: by name, batches of the same test images under each corruption. Where test
            images are of groups, batches tell `rows`, or are of all test images in their order.
        seed: of every draw.
    """
    unknown = [name for name in probes if name not in PROBES]
    if unknown or not probes:
        raise ValueError(f"expected probes of {', '.join(PROBES)}; got {list(probes)}")
    if "corruptions" in probes and not corrupted:
        raise ValueError("the probe `corruptions` needs corrupted test images")
    train, test, groups, test_groups = tables
    fitted = {*probes} | ({"linear"} if "corruptions" in probes else set())
    both = [name for name in ("linear", "knn") if name in fitted]
    scores = fit_and_score(train, test, both, groups=groups, test_groups=test_groups, seed=seed)
    choices = {"chosen": scores.chosen, "held_out": scores.held_out, "C": scores.C}
    found = Findings(
        {k: v for k, v in scores.metrics.items() if k.split("_")[0] in probes},
        {k: v for k, v in scores.predicted.items() if k in probes},
        choices if both else {},
    )
    best, device = scores.chosen.get("linear", "last"), str(device_of(encoder))
    if "mlp" in probes:
        mlp = MLPProbe(random_state=int32(seed), device=device)
        _classify("mlp", mlp, train.features[best], test.features[best], tables, found)
    if "attentive" in probes:
        attentive = AttentiveProbe(
            learning_rates=(3e-3, 1e-3, 3e-4),
            weight_decays=(0.01, 0.1),
            device=device,
            random_state=int32(seed),
        )
        _classify("attentive", attentive, train.features[TOKENS], test.features[TOKENS],
                  tables, found)  # fmt: skip
    if "low_shot" in probes:
        _low_shot(tables, seed, found)
    if "retrieval" in probes:
        _retrieval(tables, seed, found)
    if "clustering" in probes:
        rows = draw(len(test.labels), CLUSTERED, seed, "clustering")
        some = _some(test_groups, rows)
        clusters = cluster(_last(test, rows), test.labels[rows], groups=some, seed=seed)
        _add(found, {"clustering_nmi": clusters.nmi, "clustering_ari": clusters.ari})
    if "diagnostics" in probes:
        found = _diagnostics(encoder, tables, views, seed, found)
    if "corruptions" in probes and corrupted and scores.linear is not None:
        _corruptions(encoder, scores.linear, best, corrupted, tables, seed, found)
    return found


def draw(n: int, most: int, seed: int, purpose: str) -> Int64[np.ndarray, "m"]:
    """At most so many of n rows, drawn at random, ascending."""
    random = np.random.default_rng(derive(seed, purpose))
    return np.sort(random.permutation(n)[:most])


def shots_of(
    labels: Int64[np.ndarray, "n"], groups: Int64[np.ndarray, "_"] | None
) -> tuple[Shots, ...]:
    """Those of SHOTS for which every class has enough images, or groups of them."""
    things = labels if groups is None else np.unique(np.stack([labels, groups]), axis=1)[0]
    least = np.unique(things, return_counts=True)[1].min()
    return tuple(shot for shot in SHOTS if isinstance(shot, float) or shot <= least)


def _add(found: Findings, intervals: Mapping[str, Interval]) -> None:
    found.metrics.update({name: interval._asdict() for name, interval in intervals.items()})


def _some(
    groups: Int64[np.ndarray, "n"] | None, rows: Int64[np.ndarray, "m"]
) -> Int64[np.ndarray, "m"] | None:
    return None if groups is None else groups[rows]


def _last(table: FeatureTable, rows: Int64[np.ndarray, "m"]) -> Float[np.ndarray, "m d"]:
    return np.asarray(table.features["last"][rows])


def _classify(
    name: str,
    estimator: BaseEstimator,
    X: np.ndarray,
    X_test: np.ndarray,
    tables: Tables,
    found: Findings,
) -> None:
    """Fit one more classifier, and count where it is right."""
    fitted: Any = estimator
    said = fitted.fit(X, tables.train.labels, tables.groups).predict(X_test)
    found.predicted[name] = said
    right = accuracy_interval(said == tables.test.labels, tables.test_groups)
    _add(found, {f"{name}_top1": right})


def _low_shot(tables: Tables, seed: int, found: Findings) -> None:
    train, test, groups, test_groups = tables
    records = low_shot(
        LinearProbe(C=PENALTY),
        train.features["last"],
        train.labels,
        test.features["last"],
        test.labels,
        shots=shots_of(train.labels, groups),
        groups=groups,
        test_groups=test_groups,
        seed=seed,
    )
    for record in records:
        share = isinstance(record.shots, float)
        name = f"{100 * record.shots:g}%" if share else f"{record.shots}"
        _add(found, {f"low_shot_top1/{name}": record.accuracy})
        found.details.setdefault("low_shot", {})[name] = {
            "labels": record.labels,
            "draws": record.draws,
        }


def _retrieval(tables: Tables, seed: int, found: Findings) -> None:
    train, test, _, test_groups = tables
    queries = draw(len(test.labels), QUERIES, seed, "queries")
    gallery = draw(len(train.labels), GALLERY, seed, "gallery")
    scores = retrieval(
        _last(test, queries),
        test.labels[queries],
        _last(train, gallery),
        train.labels[gallery],
        ks=[k for k in NEAREST if k <= len(gallery)],
        groups=_some(test_groups, queries),
        seed=seed,
    )
    _add(found, {f"retrieval_recall/{k}": recall for k, recall in scores.recall.items()})
    _add(found, {"retrieval_map": scores.mean_average_precision})
    _add(found, {"retrieval_map_at_r": scores.mean_average_precision_at_r})
    found.details["retrieval"] = {"queries": scores.queries, "gallery": len(gallery)}


def _diagnostics(
    encoder: Encoder, tables: Tables, views: Views, seed: int, found: Findings
) -> Findings:
    shown = draw(len(tables.test.labels), DIAGNOSED, seed, "diagnostics")
    features, groups = _last(tables.test, shown), _some(tables.test_groups, shown)

    def number(
        function: Any, rows: np.ndarray, name: str, groups: np.ndarray | None = None
    ) -> None:
        interval = jackknife(
            rows,
            lambda x: float(function(torch.from_numpy(x))),
            seed=seed,
            groups=groups,
            parts=min(PARTS, len(np.unique(group_codes(groups, len(rows))))),
        )
        _add(found, {name: interval})

    number(rankme, features, "rankme", groups)
    try:
        number(alpha_req, features, "alpha_req", groups)
    except ValueError as error:  # few images, or narrow features: no spectrum to fit a line to
        log.warning("alpha_req is left out: %s", error)
    number(uniformity, features, "uniformity", groups)
    several = features_of_views(encoder, views)
    if several is not None:
        number(lidar, several, "lidar")
        number(lambda v: alignment(v[:, 0], v[:, 1]), several, "alignment")
        found.details["views"] = {"images": several.shape[0], "of_each": several.shape[1]}
    spectrum = covariance_spectrum(torch.from_numpy(features)).numpy()
    return Findings(found.metrics, found.predicted, found.details, spectrum)


def features_of_views(encoder: Encoder, views: Views) -> Float[np.ndarray, "n V d"] | None:
    """Mean-pooled features of the last layer of all views; None where there are none."""
    parts = []
    for images, labels in views:
        flat = (images.flatten(0, 1), labels.repeat_interleave(images.shape[1]))
        (batch,) = pooled(encoder, [flat], ["last"])
        parts.append(batch["last"].reshape(*images.shape[:2], -1))
    return np.concatenate(parts) if parts else None


def _corruptions(
    encoder: Encoder,
    linear: LinearProbe,
    pooling: str,
    corrupted: Mapping[str, Iterable],
    tables: Tables,
    seed: int,
    found: Findings,
) -> None:
    every, groups = [], None
    for name, batches in corrupted.items():
        parts = list(pooled(encoder, batches, [pooling]))
        right = np.concatenate([linear.predict(p[pooling]) == p["labels"] for p in parts])
        groups = _groups_of(parts, tables)
        _add(found, {f"corrupted_top1/{name}": accuracy_interval(right, groups)})
        every.append(right)
    of_each_image = np.stack(every, axis=1).mean(axis=1)
    mean = bootstrap(of_each_image, lambda rows: float(rows.mean()), groups=groups, seed=seed)
    _add(found, {"corrupted_top1": mean})


def _groups_of(
    parts: Sequence[Mapping[str, np.ndarray]], tables: Tables
) -> Int64[np.ndarray, "n"] | None:
    """Groups of the images of batches, by the rows of the test table that they are."""
    known, groups = tables.test.rows, tables.test_groups
    if groups is None or not all("rows" in part for part in parts):
        return groups
    rows = np.concatenate([part["rows"] for part in parts])
    if known is None:
        return groups[rows]
    order = known.argsort()
    return groups[order[np.searchsorted(known, rows, sorter=order)]]
