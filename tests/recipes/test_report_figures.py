"""Figures: well-formed, in the page's colours, and drawn for degenerate inputs too."""

import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from jepa.recipes.figures import VARIABLES, curve_panels, energy_map, horizon_error, success_bars

NAN = float("nan")


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def parsed(svg: str) -> ElementTree.Element:
    """As XML; inline SVG needs no name spaces in HTML, but XML does."""
    root = ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))
    assert root.tag == "svg"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert not any(placeholder in svg for placeholder in VARIABLES)
    assert "var(--" in svg
    return root


def words(svg: str) -> list[str]:
    return [text for text in parsed(svg).itertext() if text.strip()]


def rows(values, metric="loss"):
    """Of metrics.jsonl, a row every 10 steps and 6 seconds."""
    return [{"step": 10 * i, "seconds": 6.0 * i, metric: float(v)} for i, v in enumerate(values)]


def charts(some):
    return [*curve_panels(some, large=True), *curve_panels(some, large=False)]


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0] * 50, [NAN], [1.0, NAN, 2.0]])
@pytest.mark.parametrize("metric", ["loss", "watch/context_rank"])
def test_degenerate_curves_are_drawn(values, metric):
    (chart,) = charts(rows(values, metric))
    assert ("not finite" in words(chart)) == any(np.isnan(values))


def test_only_known_curves_are_drawn():
    assert charts(rows([1.0, 2.0], "something_else")) == []


def test_a_curve_may_be_in_some_rows_only():
    some = [*rows([3.0, 2.0, 1.0]), {"step": 20, "seconds": 12, "online/target/knn_top1": 0.5}]
    loss, online = charts(some)
    assert "Loss" in words(loss)
    assert "target, kNN" in words(online)
    assert "student, kNN" not in words(online)


def test_minutes_stand_below_the_steps():
    (chart,) = charts(rows(np.linspace(1, 0, 101)))
    assert "10.0 min" in words(chart)
    assert "1,000" in words(chart)


def test_long_noisy_curves_keep_the_raw_values_behind_the_mean():
    long = charts(rows(np.random.default_rng(0).random(400)))[0]
    short = charts(rows(np.random.default_rng(0).random(40)))[0]
    assert "stroke-opacity: 0.3" in long
    assert "stroke-opacity: 0.3" not in short


@pytest.mark.parametrize(
    "energy",
    [np.zeros((5, 5)), np.full((5, 5), NAN), np.eye(5), np.where(np.eye(5) > 0, NAN, np.eye(5))],
)
def test_degenerate_energies_are_drawn(energy):
    svg = energy_map(energy, np.array([0.0, 0.5]), np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    assert "energy" in words(svg)


def test_energy_is_drawn_with_the_lowest_y_on_top():
    svg = energy_map(np.eye(5), np.zeros(2), np.array([-1.0, -2.0]), np.array([1.0, 2.0]))
    ticks = [text for text in parsed(svg).iter("text") if "text-anchor: end" in text.get("style")]
    heights = {text.text: float(text.get("y")) for text in ticks}
    assert heights["−2.0"] < heights["0.0"] < heights["2.0"]


def test_success_bars_name_and_number_each():
    none = {"value": 0.0, "low": 0.0, "high": 0.0}
    bars = [("planner", {"value": 0.875, "low": 0.8, "high": 0.92}), ("none", none)]
    assert {"planner", "87.5 %", "none", "0.0 %"} <= set(words(success_bars(bars)))


def test_one_decision_ahead_is_a_curve_too():
    assert "decisions ahead" in words(horizon_error([0.5]))
