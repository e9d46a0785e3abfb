"""Figures of the report as inline SVG, in the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .results import Measured

# Matplotlib draws with placeholder colours; the page's style sheet says what they are.
INK, MUTED, GRID, BAD = "#000001", "#000002", "#000003", "#000004"
BLUE, ORANGE, GREEN, PURPLE = "#000005", "#000006", "#000007", "#000008"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    BAD: "bad",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
}


@dataclass(frozen=True)
class Curve:
    """One line of a panel: a metric's name, its name in words, and how it is drawn."""

    metric: str
    words: str = ""
    colour: str = BLUE
    style: str = "-"


@dataclass(frozen=True)
class Panel:
    """A small chart of metrics over optimiser steps."""

    title: str
    curves: tuple[Curve, ...]
    smooth: bool = False


PANELS = (
    Panel("Loss (smooth L1)", (Curve("loss"),), smooth=True),
    Panel(
        "Online probes, held-out top-1",
        (
            Curve("online/target/linear_top1", "target, linear", BLUE),
            Curve("online/student/linear_top1", "student, linear", ORANGE),
            Curve("online/target/knn_top1", "target, kNN", BLUE, "--"),
            Curve("online/student/knn_top1", "student, kNN", ORANGE, "--"),
        ),
    ),
    Panel("Effective rank of context features", (Curve("watch/context_rank", colour=GREEN),)),
    Panel(
        "Standard deviation of features",
        (
            Curve("watch/context_std", "context, over images", GREEN),
            Curve("watch/target_std", "target, over tokens", PURPLE),
        ),
    ),
    Panel("Gradient norm before clipping", (Curve("gradient_norm", colour=MUTED),), smooth=True),
    Panel("Learning rate", (Curve("learning_rate", colour=MUTED),)),
    Panel("Momentum of the target", (Curve("momentum", colour=MUTED),)),
)


def curve_panels(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """A chart for every panel of which the rows have a curve. Steps of NaN are marked."""
    known = {name for row in rows for name in row}
    charts = []
    for panel in PANELS:
        curves = [curve for curve in panel.curves if curve.metric in known]
        if curves:
            charts.append(_curve_panel(panel, curves, rows))
    return charts


def _curve_panel(panel: Panel, curves: Sequence[Curve], rows: Sequence[Mapping[str, float]]) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.3, 2.5))
        axes = figure.add_subplot(title=panel.title, xlabel="step")
        for curve in curves:
            _draw_curve(axes, curve, rows, panel.smooth)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if axes.get_legend_handles_labels()[1]:
            axes.legend()
        return svg(figure, panel.title)


def _draw_curve(
    axes: Axes, curve: Curve, rows: Sequence[Mapping[str, float]], smooth: bool
) -> None:
    points = [(row["step"], row[curve.metric]) for row in rows if curve.metric in row]
    steps, values = np.array(points, dtype=float).T
    finite = np.isfinite(values)
    values = np.where(finite, values, np.nan)
    marker = "o" if finite.sum() <= 12 else None
    width = len(values) // 40 if smooth else 0
    look = dict(color=curve.colour, linestyle=curve.style, label=curve.words)
    if width > 1:
        axes.plot(steps, values, color=curve.colour, alpha=0.3, linewidth=0.8)
        means = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(steps[width // 2 :][: len(means)], means, **look)
    else:
        axes.plot(steps, values, marker=marker, markersize=3, **look)
    if not finite.all():
        at_bottom = axes.get_xaxis_transform()
        lost = steps[~finite]
        axes.plot(lost, 0 * lost, "x", color=BAD, transform=at_bottom, label="not finite")


def success_bars(bars: Sequence[tuple[str, Measured]]) -> str:
    """Horizontal bars of shares with their intervals; the first is ours."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.5 + 0.42 * len(bars)))
        axes = figure.add_subplot(xlim=(0, 1.16))
        for i, (_, bar) in enumerate(bars):
            colour = BLUE if i == 0 else MUTED
            axes.barh(i, bar["value"], height=0.56, color=colour, alpha=0.9 if i == 0 else 0.45)
            axes.plot([bar["low"], bar["high"]], [i, i], color=INK, linewidth=1.4)
            axes.plot([bar["low"], bar["high"]], [i, i], "|", color=INK, markersize=7)
            text = f"{100 * bar['value']:.1f} %"
            axes.text(max(bar["value"], bar["high"]) + 0.015, i, text, va="center")
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        return svg(figure, "Share of goals reached, with 95 % intervals")


def energy_map(
    energy: Float[np.ndarray, "R R"],
    chosen: Float[np.ndarray, "2"],
    low: Float[np.ndarray, "2"],
    high: Float[np.ndarray, "2"],
) -> str:
    """Energy over the first action, x to the right and y down as on the screen."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1, 3.5))
        axes = figure.add_subplot(xlabel="first action, x (px per step)", ylabel="y (px, down)")
        values = np.ma.masked_invalid(energy)
        extent = (low[0], high[0], high[1], low[1])
        image = axes.imshow(values, cmap="viridis", extent=extent)
        if values.count() and np.ptp(values) > 0:
            axes.contour(values, levels=8, extent=extent, origin="upper", colors="w", alpha=0.5, linewidths=0.6)  # fmt: skip
        axes.plot(*chosen, "o", color="#e2583e", markeredgecolor="w", markersize=8)
        axes.annotate("chosen", chosen, (7, 7), textcoords="offset points", color="w")
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, label="energy", shrink=0.9).outline.set_visible(False)
        return svg(figure, "Energy over the first action of the plan")


def horizon_error(errors: Sequence[float]) -> str:
    """Error of the imagined position against the number of decisions ahead."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1, 2.6))
        axes = figure.add_subplot(xlabel="decisions ahead", ylabel="px")
        axes.set_title("Error of the imagined position")
        axes.plot(range(1, len(errors) + 1), errors, "o-", color=BLUE, markersize=3.5)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return svg(figure, "Error of the imagined position by decisions ahead")


def svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element that takes its colours and fonts from the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r' (?:xmlns(?::xlink)?|version|width|height)="[^"]*"', "", text, count=5)
    text = re.sub(r' id="[a-z]\w*_\d+"', "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
