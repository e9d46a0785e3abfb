"""The real demo, about ten minutes: `make test-slow`."""

import json

import pytest

from jepa.recipes.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", f"--out={out}"]) == 0
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("baseline", ["random_encoder", "raw_pixels"])
def test_frozen_features_beat_the_baselines_by_ten_points(result, baseline):
    ours = result["metrics"]["linear_top1"]["value"]
    assert ours >= result["baselines"][f"{baseline}/linear_top1"]["value"] + 0.10


def test_the_planner_reaches_most_goals(result):
    assert result["metrics"]["two_rooms_success"]["value"] >= 0.8


def test_it_takes_at_most_twelve_minutes_of_work(result):
    assert result["seconds"] <= 12 * 60
