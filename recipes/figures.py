"""Figures of the report as inline SVG, in the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .results import Measured

Vector: TypeAlias = Float[np.ndarray, "2"]  # (x, y)
Rows: TypeAlias = Sequence[Mapping[str, float | int]]  # of metrics.jsonl

# Matplotlib draws with placeholder colours; the page's style sheet says what they are.
INK, MUTED, GRID, BAD = "#000001", "#000002", "#000003", "#000004"
BLUE, ORANGE, GREEN, PURPLE = "#000005", "#000006", "#000007", "#000008"
TEAL, PINK = "#000009", "#00000a"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    BAD: "bad",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    TEAL: "teal",
    PINK: "pink",
}
STYLE: Any = {
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
    "legend.handlelength": 2.4,
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
    """A chart of metrics over optimiser steps, large or small; `smooth` adds a running mean."""

    title: str
    curves: tuple[Curve, ...]
    large: bool = False
    smooth: bool = False


def ranks(number: str) -> tuple[Curve, ...]:
    """An online number of the target and of the student."""
    return (
        Curve(f"online/target/{number}", "target", BLUE),
        Curve(f"online/student/{number}", "student", ORANGE),
    )


PANELS = (
    Panel("Loss", (Curve("loss"),), large=True, smooth=True),
    Panel(
        "Online probes: top-1 on held-out training samples",
        (
            Curve("online/target/linear_top1", "target, linear", BLUE),
            Curve("online/target/knn_top1", "target, kNN", BLUE, "--"),
            Curve("online/student/linear_top1", "student, linear", ORANGE),
            Curve("online/student/knn_top1", "student, kNN", ORANGE, "--"),
        ),
        large=True,
    ),
    Panel("Effective rank", (Curve("watch/context_rank", colour=GREEN),)),
    Panel("RankMe of the bank", ranks("rankme")),
    Panel("LiDAR of held-out views", ranks("lidar")),
    Panel(
        "Feature spread (std)",
        (
            Curve("watch/context_std", "context", GREEN),
            Curve("watch/target_std", "target", PURPLE),
        ),
    ),
    Panel("Gradient norm", (Curve("gradient_norm", colour=MUTED),), smooth=True),
    Panel("Learning rate", (Curve("learning_rate", colour=MUTED),)),
    Panel("Target momentum", (Curve("momentum", colour=MUTED),)),
)


def curve_panels(rows: Rows, *, large: bool) -> list[str]:
    """A chart for every large, or every small, panel of which the rows have a curve.

    Below the steps of the large ones stand the minutes.
    """
    known = {name for row in rows for name in row}
    return [
        _curve_panel(panel, [curve for curve in panel.curves if curve.metric in known], rows)
        for panel in PANELS
        if panel.large == large and known & {curve.metric for curve in panel.curves}
    ]


def _curve_panel(panel: Panel, curves: Sequence[Curve], rows: Rows) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 2.9) if panel.large else (2.2, 1.75))
        axes = figure.add_subplot(title=panel.title)
        for curve in curves:
            _draw_curve(axes, curve, rows, panel.smooth)
        axes.xaxis.set_major_locator(MaxNLocator(5 if panel.large else 3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5 if panel.large else 3))
        if panel.large:
            steps, seconds = np.array([(row["step"], row["seconds"]) for row in rows]).T
            axes.xaxis.set_major_formatter(
                lambda step, _: f"{step:,.0f}\n{np.interp(step, steps, seconds) / 60:.1f} min"
            )
        if axes.get_legend_handles_labels()[1]:
            if panel.large:
                figure.legend(loc="outside lower center", ncols=4)
            else:
                axes.legend()
        return svg(figure, panel.title)


def _draw_curve(axes: Axes, curve: Curve, rows: Rows, smooth: bool) -> None:
    """A line through the logged values; steps at which the value is not finite are marked."""
    points = [(row["step"], row[curve.metric]) for row in rows if curve.metric in row]
    steps, values = np.array(points, dtype=float).T
    lost = ~np.isfinite(values)
    new = np.append(True, values[1:] != values[:-1])  # rows repeat what is measured more rarely
    new[-1] = True
    shown_steps, shown_values = steps[new], np.where(lost, np.nan, values)[new]
    marker = "o" if len(shown_values) <= 12 else ""
    window = len(shown_values) // 40 if smooth else 1
    if window > 1:
        axes.plot(shown_steps, shown_values, color=curve.colour, alpha=0.3, linewidth=0.8)
        shown_values = np.convolve(shown_values, np.full(window, 1 / window), mode="valid")
        shown_steps, marker = shown_steps[window // 2 :][: len(shown_values)], ""
    axes.plot(
        shown_steps,
        shown_values,
        color=curve.colour,
        linestyle=curve.style,
        marker=marker,
        markersize=3,
        label=curve.words,
    )
    if lost.any():
        bottom = axes.get_xaxis_transform()
        axes.plot(
            steps[lost], 0 * steps[lost], "x", color=BAD, transform=bottom, label="not finite"
        )


def success_bars(bars: Sequence[tuple[str, Measured]]) -> str:
    """Bars of the share of goals reached; the first is ours."""
    colours = [BLUE, *[MUTED] * (len(bars) - 1)]
    return share_bars(bars, colours, "Share of goals reached, with 95 % intervals")


def share_bars(bars: Sequence[tuple[str, Measured]], colours: Sequence[str], label: str) -> str:
    """Horizontal bars of shares with their intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 0.5 + 0.42 * len(bars)))
        axes = figure.add_subplot(xlim=(0, 1.16))
        for i, ((_, bar), colour) in enumerate(zip(bars, colours, strict=True)):
            opacity = 0.45 if colour == MUTED else 0.9
            axes.barh(i, bar["value"], height=0.56, color=colour, alpha=opacity)
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
        return svg(figure, label)


def energy_map(
    energy: Float[np.ndarray, "R R"],
    chosen: Vector,
    low: Vector,
    high: Vector,
) -> str:
    """Energy over the first action, x to the right and y down as on the screen."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1, 3.5))
        axes = figure.add_subplot(xlabel="first action, x (px per step)", ylabel="y (px, down)")
        values = np.ma.masked_invalid(energy)
        extent = (low[0], high[0], high[1], low[1])
        image = axes.imshow(values, cmap="viridis", extent=extent)
        if values.count() and np.ptp(values) > 0:
            across, down = (np.linspace(low[i], high[i], len(energy)) for i in (0, 1))
            axes.contour(across, down, values, 8, colors="w", alpha=0.5, linewidths=0.6)
        axes.plot(*chosen, "o", color="#e2583e", markeredgecolor="w", markersize=8, clip_on=False)
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, label="energy", shrink=0.9).outline.set_visible(False)
        return svg(figure, "Energy over the first action of the plan")


def horizon_error(errors: Sequence[float]) -> str:
    """Error of the imagined position against the number of decisions ahead."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 2.2))
        axes = figure.add_subplot(xlabel="decisions ahead", ylabel="error, px")
        axes.plot(range(1, len(errors) + 1), errors, "o-", color=BLUE, markersize=3.5)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return svg(figure, "Error of the imagined position by decisions ahead")


def success_curves(agents: Mapping[str, Sequence[tuple[float, Measured]]], label: str) -> str:
    """Shares of goals reached by agents, with intervals, over some quantity."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 3.0))
        axes = figure.add_subplot(xlabel=label, ylim=(-0.03, 1.03))
        colours = (BLUE, ORANGE, GREEN, PURPLE, TEAL, PINK, MUTED)
        for (name, points), colour in zip(agents.items(), colours, strict=False):
            points = sorted(points, key=lambda point: point[0])
            x, value, low, high = np.array(
                [(x, bar["value"], bar["low"], bar["high"]) for x, bar in points]
            ).T
            axes.fill_between(x, low.clip(0, 1), high.clip(0, 1), color=colour, alpha=0.13, lw=0)
            axes.plot(x, value, "o-", color=colour, markersize=4, label=name.replace("_", " "))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "Share of goals reached over " + label)


def plans_over_map(
    picture: UInt8[np.ndarray, "side side 3"],
    positions: Float[np.ndarray, "T 2"],
    flat: Float[np.ndarray, "T2 2"],
    goal: Vector,
    plans: Sequence[Float[np.ndarray, "D _ 2"]],
) -> str:
    """The first plan of the highest level, every eighth of the lowest, and what came of them."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1, 4.3))
        size = len(picture)
        axes = figure.add_subplot(aspect="equal")
        axes.imshow(picture, extent=(0, size, size, 0), alpha=0.9)
        axes.plot(*flat.T, color=PINK, linewidth=1.3, label="flat planner")
        axes.plot(*positions.T, color="w", linewidth=2, label="way taken")
        for decision in range(0, len(plans[0]), 8):
            near = np.vstack([positions[decision], plans[0][decision]])
            label = "plans of the lowest level" if decision == 0 else None
            axes.plot(*near.T, color=TEAL, linewidth=1.2, label=label)
        far = np.vstack([positions[0], plans[-1][0]])
        axes.plot(*far.T, "o--", color=ORANGE, markersize=4, linewidth=1, label="highest level")
        axes.plot(*goal, "o", color=GREEN, markersize=9, fillstyle="none", mew=2, label="goal")
        axes.set_axis_off()
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.6, columnspacing=1.2)
        return svg(figure, "Plans of all levels over the map")


def energies_over_time(
    energies: Float[np.ndarray, "T levels"], final: Bool[np.ndarray, " T"]
) -> str:
    """Energy of each level's plan, the highest on top; where the lowest plans alone is shaded."""
    with matplotlib.rc_context(STYLE):
        levels = energies.shape[1]
        figure = Figure(figsize=(5.5, 1.0 + 1.1 * levels))
        panels = figure.subplots(levels, 1, squeeze=False)[:, 0]
        for level, axes in enumerate(reversed(panels)):
            axes.set_ylabel(f"level {level + 1}")
            colour = BLUE if level == 0 else ORANGE
            axes.step(range(len(energies)), energies[:, level], where="post", color=colour)
            axes.fill_between(
                range(len(final)), 0, 1, where=final, step="post", color=GREEN, alpha=0.13,
                transform=axes.get_xaxis_transform(), lw=0,
            )  # fmt: skip
            axes.set_ylim(bottom=0)
        panels[-1].set_xlabel("decision; green: the lowest level has the goal itself")
        return svg(figure, "Energy of the plan of each level over time")


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
