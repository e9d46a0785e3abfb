"""What a comparison says: paired tests against one encoder, and all numbers as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..probes.intervals import Interval
from ..probes.paired import holm, mcnemar
from .measuring import Cell
from .results import Measured, Result

SHARES = {
    "linear_top1": "linear",
    "knn_top1": "kNN",
    "mlp_top1": "MLP",
    "attentive_top1": "attentive",
    "low_shot_top1/5": "5 labels per class",
    "corrupted_top1": "corrupted, linear",
    "retrieval_map": "retrieval, mAP",
    "clustering_nmi": "k-means, NMI",
}
DIAGNOSTICS = {
    "rankme": "RankMe",
    "alpha_req": "alpha-ReQ",
    "uniformity": "uniformity",
    "lidar": "LiDAR",
    "alignment": "alignment",
}
HEADLINES = SHARES | DIAGNOSTICS


class Test(NamedTuple):
    """A classifying probe of an encoder against the reference's, on the same test images.

    difference: of accuracies, encoder minus reference. p_value, adjusted: see `mcnemar`, and
    Holm's correction over all tests on that set of images.
    """

    difference: Interval
    p_value: float
    adjusted: float


Cells = Mapping[tuple[str, str], Cell]  # by (images, encoder)
Tests = Mapping[tuple[str, str, str], Test]  # by (images, encoder, probe)


def columns(cells: Cells) -> list[str]:
    """The encoders, in their order."""
    return list(dict.fromkeys(name for _, name in cells))


def places(cells: Cells) -> list[str]:
    """The sets of images, in their order."""
    return list(dict.fromkeys(place for place, _ in cells))


def headlines(cell: Cell) -> list[str]:
    """The metrics of a cell that tables show."""
    return [metric for metric in HEADLINES if metric in cell.metrics]


def paired_tests(cells: Cells, reference: str, seed: int) -> dict[tuple[str, str, str], Test]:
    """Each classifier of each encoder against the reference's, corrected for their number."""
    tests: dict[tuple[str, str, str], Test] = {}
    for place in places(cells):
        base = cells.get((place, reference))
        found = {}
        for (where, name), cell in cells.items():
            if base is None or where != place or name == reference:
                continue
            if not np.array_equal(cell.labels, base.labels):
                raise ValueError(f"{name} and {reference} were tested on different images")
            for probe in cell.predicted.keys() & base.predicted.keys():
                right, theirs = (c.predicted[probe] == c.labels for c in (cell, base))
                groups = cell.groups if base.groups is None else base.groups
                found[place, name, probe] = mcnemar(right, theirs, groups=groups, seed=seed)
        adjusted = holm([test.p_value for test in found.values()])
        for (key, test), p in zip(found.items(), adjusted, strict=True):
            tests[key] = Test(test.difference, test.p_value, float(p))
    return tests


def as_csv(cells: Cells, tests: Tests) -> str:
    """Every number, one a row; differences from the reference where they were tested."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["images", "encoder", "metric", "value", "low", "high",
         "difference", "difference_low", "difference_high", "p", "p_holm"]
    )  # fmt: skip
    for (place, name), cell in cells.items():
        for metric, number in cell.metrics.items():
            test = tests.get((place, name, metric.removesuffix("_top1")))
            compared = [*test.difference, test.p_value, test.adjusted] if test else [""] * 5
            numbers = [number["value"], number["low"], number["high"], *compared]
            shown = [f"{x:.6g}" if isinstance(x, float) else x for x in numbers]
            writer.writerow([place, name, metric, *shown])
    return stream.getvalue()


def as_markdown(cells: Cells, tests: Tests) -> str:
    """A table for each set of images: encoders down, probes across."""
    parts = []
    for place in places(cells):
        here = {name: cell for (where, name), cell in cells.items() if where == place}
        shown_here = [m for m in HEADLINES if any(m in c.metrics for c in here.values())]
        lines = [
            f"## {place}\n",
            "| encoder | " + " | ".join(HEADLINES[m] for m in shown_here) + " |",
            "|---" * (len(shown_here) + 1) + "|",
        ]
        for name, cell in here.items():
            row = [
                interval(m, cell.metrics[m])
                + mark(tests.get((place, name, m.removesuffix("_top1"))))
                if m in cell.metrics
                else ""
                for m in shown_here
            ]
            lines.append(f"| {name} | " + " | ".join(row) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def as_document(result: Result, table: str, reference: str) -> str:
    """comparison.md."""
    return (
        f"# {result['recipe']}\n\n`{result['command']}`, seed {result['seed']}, "
        f"{result['seconds'] / 60:.1f} minutes.\n\nTop-1 accuracies and shares in %, with 95 % "
        f"intervals. ▲ and ▼: better and worse than {reference} on the same test images "
        "(McNemar's test, by whole groups where images are known to share a place; p below 0.05 "
        "after Holm's correction over all tests on those images). Every number: comparison.csv."
        f"\n\n{table}\n"
    )


def mark(test: Test | None) -> str:
    """▲ or ▼ where the difference from the reference is sure."""
    if test is None or test.adjusted >= 0.05:
        return ""
    return " ▲" if test.difference.value > 0 else " ▼"


def interval(metric: str, number: Measured) -> str:
    """88.4 (87.8 to 89.0) for shares, in %; four digits for others."""
    value, low, high = (figure(metric, number[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def figure(metric: str, value: float) -> str:
    """A share in %, or another number in four digits."""
    return f"{value:.4g}" if metric in DIAGNOSTICS else f"{100 * value:.1f}"
