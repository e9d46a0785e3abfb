"""The whole road at toy size: every part runs, leaves its files, and is not run twice."""

import json

import numpy as np
import pytest
import yaml

from jepa.datasets import photographs as photographs_module
from jepa.recipes import demo as demo_module
from jepa.recipes.cli import main

PHOTOGRAPHS = {
    "name": "photographs",
    "data": {"source": "photographs", "batch_size": 8},
    "encoder": {
        "image_size": 32,
        "patch_size": 8,
        "channels": 1,
        "dim": 16,
        "depth": 1,
        "heads": 2,
    },
    "predictor": {"dim": 16, "depth": 1, "heads": 2},
    "masks": {"min_keep": 4},
    "optimisation": {"steps": 4},
    "online": {"every_n_steps": 2, "bank": 100, "held_out": 50},
    "log_every": 1,
}
TWO_ROOMS = {
    "name": "two_rooms",
    "pretraining": {
        "encoder": {"image_size": 64, "patch_size": 8, "dim": 32, "depth": 1, "heads": 1},
        "predictor": {"dim": 32, "depth": 1, "heads": 1},
        "optimisation": {"steps": 3},
        "batch_size": 8,
    },
    "experience": {"episodes": 20, "decisions": 16, "repeat": 4},
    "slow": {"principal": 64, "components": 8},
    "dynamics": {"steps": 20, "batch_size": 64},
    "planner": {"horizon": 6, "samples": 16, "iterations": 2},
    "play": {"episodes": 6, "max_steps": 40},
}


@pytest.fixture(scope="module", autouse=True)
def few_photographs():
    patch = pytest.MonkeyPatch()
    patch.setattr(photographs_module, "PER_CLASS", {"train": 60, "test": 30})
    photographs_module.photographs.cache_clear()
    yield
    patch.undo()
    photographs_module.photographs.cache_clear()


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    for name, config in (("photographs", PHOTOGRAPHS), ("two_rooms", TWO_ROOMS)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    arguments = [
        "demo",
        f"--out={folder / 'run'}",
        f"--pretraining={folder / 'photographs.yaml'}",
        f"--playing={folder / 'two_rooms.yaml'}",
    ]
    assert main(arguments) == 0
    return folder / "run", arguments


def test_a_demo_leaves_the_agreed_numbers(finished_demo):
    out, _ = finished_demo
    result = json.loads((out / "result.json").read_text())
    assert {"linear_top1", "knn_top1", "two_rooms_success"} <= set(result["metrics"])
    assert {
        "random_encoder/linear_top1",
        "raw_pixels/linear_top1",
        "random_policy/two_rooms_success",
        "oracle/two_rooms_success",
        "random_encoder/two_rooms_success",
    } <= set(result["baselines"])
    for number in (*result["metrics"].values(), *result["baselines"].values()):
        assert number["low"] <= number["value"] <= number["high"]


def test_a_demo_leaves_a_report_with_all_its_parts(finished_demo):
    out, _ = finished_demo
    page = (out / "report.html").read_text()
    for part in ("Masks", "nearest", "imagined", "energy", "PCA", "versions"):
        assert part.lower() in page.lower(), part


def test_an_episode_holds_what_the_report_draws(finished_demo):
    out, _ = finished_demo
    with np.load(out / "control" / "episode.npz") as episode:
        decisions = len(episode["frames"]) - 1
        assert episode["imagined"].shape == (decisions, 6, 2)
        assert episode["positions"].shape == (decisions + 1, 2)
        assert episode["energy"].ndim == 2
        assert np.isfinite(episode["energy"]).all()


def test_a_second_demo_runs_no_part_again(finished_demo, monkeypatch, capsys):
    _, arguments = finished_demo

    def never(*_):
        raise AssertionError("a finished part was run again")

    monkeypatch.setattr(demo_module, "run", never)
    assert main([*arguments, "--resume"]) == 0
    assert "two_rooms_success" in capsys.readouterr().out


def test_a_finished_demo_is_not_overwritten(finished_demo, capsys):
    _, arguments = finished_demo
    assert main(arguments) == 1
    assert "--resume" in capsys.readouterr().err


def test_probing_a_finished_encoder_gives_the_numbers_of_its_run(finished_demo, tmp_path):
    out, _ = finished_demo
    choice = "--probes=[linear, knn]"
    folder = tmp_path / "probe"
    assert main(["probe", f"--encoder={out / 'encoder'}", f"--out={folder}", choice]) == 0
    again = json.loads((folder / "result.json").read_text())
    before = json.loads((out / "encoder" / "result.json").read_text())
    assert again["metrics"] == before["metrics"]
    assert again["baselines"] == before["baselines"]


def test_an_unknown_recipe_lists_ours(tmp_path, capsys):
    assert main(["demo", f"--out={tmp_path / 'x'}", "--pretraining=photos"]) == 1
    assert "photographs" in capsys.readouterr().err
