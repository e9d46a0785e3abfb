"""Figures of the comparison: curves of encoders, spectra, maps of images, confusion of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from .figures import (
    BAD,
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PINK,
    PURPLE,
    STYLE,
    TEAL,
    VARIABLES,
    svg,
)
from .results import Measured

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, TEAL, PINK, BAD)
GREY = {"raw_pixels": "--", "random_encoder": ":"}  # baselines are grey, each with its own dashes


@dataclass(frozen=True)
class Look:
    """How an encoder is drawn everywhere: a placeholder colour of `figures`, and its dashes."""

    colour: str
    dashes: str

    @property
    def css(self) -> str:
        """The colour as the page knows it."""
        return f"var(--{VARIABLES[self.colour]})"


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each encoder; when the colours are used up, the dashes change."""
    found: dict[str, Look] = {}
    own = [name for name in names if name not in GREY]
    for name in names:
        if name in GREY:
            found[name] = Look(MUTED, GREY[name])
        else:
            turn, i = divmod(own.index(name), len(COLOURS))
            found[name] = Look(COLOURS[i], ("-", "--", "-.")[turn % 3])
    return found


Curves = Mapping[str, Sequence[tuple[float | int, Measured]]]  # by encoder: (x, number)


def low_shot_curves(curves: Curves, look: Mapping[str, Look]) -> str:
    """Accuracy over the number of labels, whiskers: 95 % intervals over draws."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 3.1))
        axes = figure.add_subplot(xlabel="labels in all", ylabel="top-1, %", xscale="log")
        for i, (name, points) in enumerate(curves.items()):
            apart = 1.03 ** (i - (len(curves) - 1) / 2)  # or whiskers would hide one another
            _whiskers(axes, [(x * apart, number) for x, number in points], look[name], name)
        ticks: list[float] = []
        for x in sorted({x for points in curves.values() for x, _ in points}):
            if not ticks or x > 1.3 * ticks[-1]:  # or the numbers would overlap
                ticks.append(x)
        axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "Accuracy by the number of labels")


def corruption_curves(kinds: Mapping[str, Curves], look: Mapping[str, Look]) -> str:
    """A panel for each kind: accuracy over severity, 0 is clean; bands are 95 % intervals."""
    with matplotlib.rc_context(STYLE):
        rows = -(-len(kinds) // 3)
        figure = Figure(figsize=(9, 2.3 * rows + 0.4))
        panels = figure.subplots(rows, 3, sharey=True, squeeze=False).flatten()
        for axes, (kind, curves) in zip(panels, kinds.items(), strict=False):
            axes.set_title(kind.replace("_", " "))
            for name, points in curves.items():
                x, value, low, high = _columns(points)
                drawn = look[name]
                axes.plot(x, value, color=drawn.colour, linestyle=drawn.dashes, label=name)
                axes.fill_between(x, low, high, color=drawn.colour, alpha=0.15, linewidth=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in panels[len(kinds) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(kinds) - 3) : len(kinds)]:
            axes.set_xlabel("severity")
        for axes in panels[::3]:
            axes.set_ylabel("top-1, %")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(8, len(names)))
        return svg(figure, "Accuracy on corrupted images by kind and severity")


def spectra(variances: Mapping[str, Float[np.ndarray, " _"]], look: Mapping[str, Look]) -> str:
    """Share of the variance along each principal axis, both on logarithmic scales."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 3.1))
        axes = figure.add_subplot(
            xlabel="principal axis", ylabel="share of variance", xscale="log", yscale="log"
        )
        for name, values in variances.items():
            share = values / values.sum()
            share = share[share > 1e-7]
            drawn = look[name]
            axes.plot(
                np.arange(1, len(share) + 1),
                share,
                color=drawn.colour,
                linestyle=drawn.dashes,
                label=name,
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "Spectrum of the features")


def _whiskers(
    axes: Axes, points: Sequence[tuple[float | int, Measured]], look: Look, name: str
) -> None:
    x, value, low, high = _columns(points)
    axes.errorbar(
        x,
        value,
        (value - low, high - value),
        color=look.colour,
        linestyle=look.dashes,
        marker="o",
        markersize=3,
        elinewidth=1,
        capsize=2,
        label=name,
    )


def _columns(points: Sequence[tuple[float | int, Measured]]) -> Float[np.ndarray, "4 _"]:
    """x, value, low, high; the numbers in %."""
    points = sorted(points, key=lambda point: point[0])
    rows = [(x, *(100 * n[key] for key in ("value", "low", "high"))) for x, n in points]
    return np.array(rows).T


def hues(count: int) -> list[str]:
    """As many colours as there are classes, of equal lightness, readable on light and on dark."""
    return [f"hsl({360 * i / count:.0f} {62 if i % 2 else 82}% {44 if i % 3 else 58}%)"
            for i in range(count)]  # fmt: skip


def map_svg(
    places: Float[np.ndarray, "m 2"], labels: Int64[np.ndarray, " m"], classes: Sequence[str]
) -> str:
    """Images as dots, coloured by class; a class's name stands at the median of its dots, unless
    another's stands there."""
    xy = (20 + 460 * places / places.max(axis=0)).round().astype(int)
    dots, names = "", ""
    taken: list[tuple[int, int, int]] = []
    for label, colour in enumerate(hues(len(classes))):
        own = xy[labels == label]
        if not len(own):
            continue
        path = "".join(f"M{x} {y}h0" for x, y in own)
        dots += f'<path d="{path}" stroke="{colour}"><title>{escape(classes[label])}</title></path>'
        x, y = np.median(own, axis=0).round().astype(int)
        half = 5 * len(classes[label])
        if all(abs(x - u) > half + w or abs(y - v) > 18 for u, v, w in taken):
            taken.append((x, y, half))
            names += f'<text x="{x}" y="{y}">{escape(classes[label])}</text>'
    return (
        '<svg class="map" role="img" aria-label="map of test images" viewBox="0 0 500 500">'
        f'<g stroke-width="6" stroke-linecap="round" opacity=".75">{dots}</g><g>{names}</g></svg>'
    )


def confusion_svg(
    truth: Int64[np.ndarray, " n"], said: Int64[np.ndarray, " n"], classes: Sequence[str]
) -> str:
    """Rows: the class; columns: what was said, in % of the row; below 1 % is left empty."""
    n = len(classes)
    counts = np.zeros((n, n))
    np.add.at(counts, (truth, said), 1)
    share = counts / counts.sum(axis=1, keepdims=True).clip(1)
    side, left, top = 34, 104, 92
    cells = ""
    for row, column in zip(*np.nonzero(share >= 0.01), strict=True):
        x, y, value = left + side * column, top + side * row, share[row, column]
        colour = "blue" if row == column else "orange"
        cells += (
            f'<rect x="{x}" y="{y}" width="{side - 2}" height="{side - 2}" rx="3" '
            f'fill="var(--{colour})" fill-opacity="{0.12 + 0.6 * value**0.5:.2f}"/>'
            f'<text x="{x + side / 2 - 1:g}" y="{y + side / 2 + 3:g}">{100 * value:.0f}</text>'
        )
    names = "".join(
        f'<text class="row" x="{left - 8}" y="{top + side * i + side / 2 + 3:g}">{name}</text>'
        f'<text class="column" transform="translate({left + side * i + side / 2:g} {top - 8})'
        f' rotate(-45)">{name}</text>'
        for i, name in enumerate(map(escape, classes))
    )
    width, height = left + side * n + 30, top + side * n + 4
    return (
        f'<svg class="confusion" role="img" aria-label="confusion of classes" '
        f'viewBox="0 0 {width} {height}">{names}{cells}</svg>'
    )
