"""Results are data: files, and the page made from them."""

import json

import numpy as np
import pytest

from jepa.planning.agent import Cost
from jepa.planning.evaluation import Evaluation
from jepa.recipes.control import share
from jepa.recipes.report import report
from jepa.recipes.results import command_line, read_result, results, rows_of, shown, write_result

LINEAR = {"value": 0.8123, "low": 0.8, "high": 0.82}
RANDOM = {"value": 0.7, "low": 0.69, "high": 0.71}


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    write_result(
        folder,
        recipe="made",
        seed=3,
        seconds=90.04,
        metrics={"linear_top1": LINEAR, "steps": {"value": 5.0, "low": 5.0, "high": 5.0}},
        baselines={"random_encoder/linear_top1": RANDOM},
    )
    return tmp_path


@pytest.mark.parametrize(("typed", "told"), [("bin/jepa", "jepa"), ("recipes/cli.py", "jepa")])
def test_a_command_is_told_as_it_can_be_typed(typed, told, monkeypatch):
    monkeypatch.setattr("sys.argv", [typed, "hierarchy", "--others.budgets=[0.5, 2]"])
    assert command_line() == f"{told} hierarchy '--others.budgets=[0.5, 2]'"


def test_a_result_has_the_agreed_fields(written):
    result = json.loads((written / "results" / "result.json").read_text())
    assert set(result) == {
        "recipe",
        "command",
        "seed",
        "seconds",
        "versions",
        "metrics",
        "baselines",
    }
    assert result["seconds"] == 90.0
    assert result["metrics"]["linear_top1"] == LINEAR
    assert {"python", "torch", "jepa-toolkit"} <= set(result["versions"])


def test_baselines_stand_under_their_metric(written):
    rows = rows_of(read_result(written / "results" / "result.json"))
    assert [name for name, _ in rows] == ["linear_top1", "random_encoder/linear_top1", "steps"]


def test_what_is_not_a_number_is_kept_and_shown_as_that(tmp_path):
    nothing = share(Evaluation(0, 0, 3, *[np.zeros(3)] * 3, Cost(), {}, {}))
    given = {"recipe": "r", "seed": 0, "seconds": 1.0, "baselines": {}}
    write_result(tmp_path, **given, metrics={"success": nothing})
    assert shown(read_result(tmp_path / "result.json")["metrics"]["success"]) == "nan"
    report(run=tmp_path)
    assert ">nan</td>" in (tmp_path / "report.html").read_text()


def test_the_page_is_made_from_the_files(written):
    results(docs=written)
    page = (written / "RESULTS.md").read_text()
    assert "| linear_top1 | 0.8123 (0.8000 to 0.8200) |" in page
    assert "| steps | 5 |" in page
    assert "seed 3" in page


def test_without_results_it_says_where_to_put_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        results(docs=tmp_path)
