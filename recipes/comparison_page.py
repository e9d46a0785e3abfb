"""The comparison as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ..datasets.corruptions import KINDS, SEVERITIES
from . import comparison_figures as figures
from . import page
from .comparison import (
    DIAGNOSTICS,
    SHARES,
    Cells,
    Test,
    Tests,
    columns,
    figure,
    interval,
    mark,
    places,
)
from .comparison_figures import Look, looks
from .comparison_pictures import Here, chip, confusion, maps, neighbours, patches
from .figures import share_bars
from .measuring import Cell
from .page import Html
from .results import Result


def comparison_page(result: Result, cells: Cells, tests: Tests, reference: str) -> Html:
    """A section for each set of images, with the encoders in the same colours throughout."""
    look = looks(columns(cells))
    sections = []
    for place in places(cells):
        here = {name: cell for (where, name), cell in cells.items() if where == place}
        there = {(n, p): test for (where, n, p), test in tests.items() if where == place}
        sections.append((place.replace("_", " "), section(here, there, look, reference)))
    sections.append(("How to repeat it", repetition(result)))
    return page.document(result["recipe"], introduction(result, look, reference), sections)


def introduction(result: Result, look: Mapping[str, Look], reference: str) -> Html:
    """What was run, and the colours."""
    key = "".join(f"<span>{chip(name, drawn)}</span>" for name, drawn in look.items())
    return (
        f'<p class="muted">seed {result["seed"]}, {result["seconds"] / 60:.1f} minutes of '
        "measuring. Encoders are frozen; all probes of an encoder read one table of its "
        "features. Intervals are of 95 %. ▲ and ▼: surely better and worse than "
        f"{escape(reference)} on the same test images (McNemar's exact test, by whole groups where "
        "images are known to share a place; p below 0.05 after Holm's correction over all tests "
        "on these images).</p>"
        f'<p class="encoders">{key}</p>'
    )


def section(
    here: Here,
    tests: Mapping[tuple[str, str], Test],
    look: Mapping[str, Look],
    reference: str,
) -> Html:
    """All that is known of the encoders on one set of images."""
    some = next(iter(here.values()))
    html = facts(some) + table(here, tests, look, SHARES)
    html += f'<div class="large">{bars(here, look)}</div>'
    html += differences(tests, look, reference)
    html += low_shot(here, look) + corruptions(here, look) + diagnostics(here, tests, look)
    return (
        html
        + maps(here, look)
        + neighbours(here, look)
        + patches(here, look)
        + confusion(here, look)
    )


def facts(cell: Cell) -> Html:
    """Which images."""
    about = cell.about
    sees = f"{about['labelled']:,} training labels" if about["labelled"] else "all training labels"
    return (
        f'<p class="muted">{escape(about["source"])}, {about["image_size"]} × '
        f"{about['image_size']} pixels, {len(cell.classes)} classes; {len(cell.labels):,} test "
        f"images; the probes see {sees}. Accuracies and other shares are in %.</p>"
    )


def table(
    here: Here,
    tests: Mapping[tuple[str, str], Test],
    look: Mapping[str, Look],
    metrics: Mapping[str, str],
) -> Html:
    """Encoders down, probes across; the best of each column is bold."""
    there = [m for m in metrics if any(m in cell.metrics for cell in here.values())]
    head = "".join(f'<th scope="col">{escape(metrics[m])}</th>' for m in there)
    best = {m: max(c.metrics[m]["value"] for c in here.values() if m in c.metrics) for m in there}
    rows = ""
    for name, cell in here.items():
        row = ""
        for m in there:
            number = cell.metrics.get(m)
            if number is None:
                row += "<td>–</td>"
                continue
            value = figure(m, number["value"])
            bold = m in SHARES and number["value"] == best[m]
            sure = mark(tests.get((name, m.removesuffix("_top1"))))
            value = f"<b>{value}</b>" if bold else value
            limits = interval(m, number).partition("(")[2].rstrip(")")
            row += f"<td>{value}{sure}<small>{limits}</small></td>"
        rows += f'<tr><th scope="row">{chip(name, look[name])}</th>{row}</tr>'
    return (
        '<div class="scroll"><table class="compared"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def bars(here: Here, look: Mapping[str, Look]) -> Html:
    """A chart for each share."""
    charts = ""
    for metric, words in SHARES.items():
        rows = [(n, c.metrics[metric]) for n, c in here.items() if metric in c.metrics]
        if rows:
            chart = share_bars(rows, [look[n].colour for n, _ in rows], f"{words}, with intervals")
            charts += f"<div><h3>{escape(words)}</h3>{chart}</div>"
    return charts


def differences(
    tests: Mapping[tuple[str, str], Test], look: Mapping[str, Look], reference: str
) -> Html:
    """Every paired test, folded away."""
    rows = "".join(
        f'<tr><th scope="row">{chip(name, look[name])}</th><td>{probe}</td>'
        f"<td>{100 * t.difference.value:+.1f}<small>{100 * t.difference.low:+.1f} to "
        f"{100 * t.difference.high:+.1f}</small></td><td>{t.p_value:.2g}</td>"
        f"<td>{t.adjusted:.2g}{mark(t)}</td></tr>"
        for (name, probe), t in sorted(tests.items(), key=lambda item: item[0][1])
    )
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col">{word}</th>'
        for word in ("", "probe", f"minus {escape(reference)}, points", "p", "p, Holm")
    )
    return page.details(
        f"paired tests against {reference}",
        f'<div class="scroll"><table class="compared"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>",
    )


def low_shot(here: Here, look: Mapping[str, Look]) -> Html:
    """Curves over the number of labels."""
    curves = {
        name: [
            (record["labels"], cell.metrics[f"low_shot_top1/{shots}"])
            for shots, record in cell.details["low_shot"].items()
        ]
        for name, cell in here.items()
        if "low_shot" in cell.details
    }
    if not curves:
        return ""
    return "<h3>Few labels</h3>" + page.figure(
        figures.low_shot_curves(curves, look),
        "A linear probe on 1, 5 and 10 labels of each class, as far as there are so many, and on "
        "1 % and 10 % of all; where crops of one place are known, one of each place counts. "
        "Whiskers: over five draws of the labels, the same for all encoders.",
        "chart",
    )


def corruptions(here: Here, look: Mapping[str, Look]) -> Html:
    """Curves over severity, from the clean test images on."""
    able = {name: cell for name, cell in here.items() if "corrupted_top1" in cell.metrics}
    if not able:
        return ""
    kinds = {
        kind: {
            name: [
                *([(0, cell.metrics["linear_top1"])] if "linear_top1" in cell.metrics else []),
                *((s, cell.metrics[f"corrupted_top1/{kind}/{s}"]) for s in SEVERITIES),
            ]
            for name, cell in able.items()
        }
        for kind in KINDS
    }
    chart = figures.corruption_curves(kinds, look)
    return "<h3>Corrupted images</h3>" + page.figure(
        f'<div class="scroll"><div class="wide">{chart}</div></div>',
        "The linear probe, fitted on clean images, on corrupted test images (a part of them, drawn "
        "at random). Severity 0: all clean test images. Bands: 95 % intervals.",
    )


def diagnostics(
    here: Here, tests: Mapping[tuple[str, str], Test], look: Mapping[str, Look]
) -> Html:
    """Numbers that need no labels, and the spectra that they come from."""
    spectra = {name: cell.spectrum for name, cell in here.items() if len(cell.spectrum)}
    if not spectra:
        return ""
    return (
        "<h3>Without labels</h3>"
        '<p class="muted">RankMe and LiDAR are effective numbers of directions; alpha-ReQ is how '
        "fast the variances fall, near 1 is good; uniformity is lower the more evenly features "
        "fill the sphere; alignment is lower the less augmentation changes them. They compare "
        "encoders of one width.</p>"
        + table(here, tests, look, DIAGNOSTICS)
        + page.figure(figures.spectra(spectra, look), "Variances of the test features.", "chart")
    )


def repetition(result: Result) -> Html:
    """Command and versions."""
    return page.code(result["command"]) + page.facts(result["versions"])
