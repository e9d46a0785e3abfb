"""Levels learnt and played in a maze at toy size; what rises from one to the next; pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from jepa.datasets.trajectories import EpisodeArrays
from jepa.planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from jepa.planning.levels import LatentEmbedding, MacroEncoder
from jepa.planning.readout import NearestReadout
from jepa.recipes.cli import main
from jepa.recipes.hierarchy import Distances
from jepa.recipes.hierarchy_pictures import curves
from jepa.recipes.levels import Upper, check_levels, risen
from jepa.recipes.results import exactly
from jepa.recipes.world import Experience

SMALL = {"horizon": 3, "samples": 6, "iterations": 1, "elites": 2}
UPPER = {
    "stride": 2, "size": 3, "macro": 2, "hidden": 8, "window": 2, "steps": 3, "batch_size": 8,
    "planner": SMALL, "rhythm": 2,
}  # fmt: skip
CONFIG = {
    "name": "tiny",
    "experience": {"episodes": 12, "decisions": 8, "repeat": 2},
    "latent": {"size": 4, "width": 4},
    "joint": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "dynamics": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "levels": [UPPER, UPPER | {"size": None}],
    "planner": SMALL,
    "others": {"flat": SMALL, "budgets": [0.5]},
    "play": {"episodes": 2, "max_steps": 6, "ways": [5, 40, 60], "far": 40},
    "hardware": {"accelerator": "cpu", "precision": "float32"},
}


def test_a_run_learns_plays_reports_and_does_not_learn_twice(tmp_path, capsys):
    given, out = tmp_path / "tiny.yaml", tmp_path / "run"
    given.write_text(yaml.safe_dump(CONFIG))
    assert main(["hierarchy", "--config", str(given), f"--out={out}"]) == 0, capsys.readouterr().err
    first = json.loads((out / "result.json").read_text())
    agents, budgets = {"levels", "flat", "flat_upper_distance"}, {"levels_x0.5", "flat_x0.5"}
    kinds = {"success", "model_calls", "success_40_60"}
    wanted = {f"{who}/{kind}" for who in agents | budgets for kind in kinds}
    wanted |= {f"{who}/success_5_40" for who in agents}  # budgets play far pairs alone
    assert first["metrics"].keys() == wanted | {"position_error_px"}
    assert first["baselines"].keys() == {"random_policy/levels/success", "oracle/levels/success"}
    # 6 candidates of 3 steps, and the last mean.
    assert first["metrics"]["flat/model_calls"]["value"] == 21
    learnt = (out / "level_3.safetensors").stat().st_mtime_ns
    assert main(["hierarchy", "--config", str(given), f"--out={out}", "--resume"]) == 0
    assert json.loads((out / "result.json").read_text())["metrics"] == first["metrics"]
    assert (out / "level_3.safetensors").stat().st_mtime_ns == learnt
    assert main(["report", f"--run={out}"]) == 0
    page = (out / "report.html").read_text()
    assert "Energy of the plan at each level" in page
    assert page.count("<svg") == 4


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="ways that rise"):
        Distances(ways=(5.0, 3.0), far=5.0)
    with pytest.raises(ValueError, match="one of them but the last"):
        Distances(ways=(5.0, 9.0), far=9.0)


def test_curves_are_sorted_out_by_agent():
    metrics = {
        "a/success": exactly(0.5), "a/model_calls": exactly(10), "a/success_5_15": exactly(0.7),
        "a_x2/success": exactly(0.9), "a_x2/model_calls": exactly(20),
        "a_x2/success_5_15": exactly(1.0), "error": exactly(3),
        "b/success": exactly(0.1), "b/model_calls": exactly(10),
    }  # fmt: skip
    (_, ways, _), (_, compute, _) = curves(metrics)
    assert ways == {"a": [(10.0, exactly(0.7))]}
    assert compute == {"a": [(10.0, exactly(0.5)), (20.0, exactly(0.9))]}
    once = {name: number for name, number in metrics.items() if "_x2" not in name}
    assert [title for title, _, _ in curves(once)] == ["Success by the length of the way"]


def test_the_nearest_known_latent_tells_the_truth():
    known, truth = torch.randn(50, 3), torch.randn(50, 2)
    readout = NearestReadout.of(known, truth, torch.Generator().manual_seed(0))
    assert torch.equal(readout(known.view(5, 10, 3) + 1e-4), truth.view(5, 10, 2))
    far = 1000 + torch.arange(50)[:, None].expand(-1, 3) / 64  # whose squares differ in no digit
    assert torch.equal(NearestReadout(far, truth)(far), truth)


def test_episodes_rise_by_a_stride():
    torch.manual_seed(0)
    latents, actions = torch.randn(3, 8, 4), torch.randn(3, 7, 2)
    fields = {
        "observations": latents.flatten(0, 1).numpy(),
        "actions": actions.flatten(0, 1).numpy(),
    }
    below = EpisodeArrays(np.array([7, 7, 7]), fields)
    embedding = LatentEmbedding(torch.ones(4), size=3, hidden=8)
    model = LatentWorldModel(
        embedding=embedding, dynamics=ResidualMLP(Scales(torch.ones(3), torch.ones(2)), hidden=8)
    )
    macro = MacroEncoder(torch.ones(4), torch.ones(6), size=2, hidden=8)
    above = risen(below, model, macro, stride=3)
    assert above.lengths.tolist() == [2, 2, 2]
    read = above.read("observations", np.array([1]), np.array([[0, 1, 2]]))[0]
    assert np.allclose(read, embedding(latents[1, [0, 3, 6]]).detach().numpy(), atol=1e-6)
    chunk = actions[2, 3:6].flatten()
    mean, _ = macro(latents[2, 3], latents[2, 6], chunk)
    read = above.read("actions", np.array([2]), np.array([[1]]))[0, 0]
    assert np.allclose(read, mean.detach().numpy(), atol=1e-6)


def test_levels_for_which_episodes_are_too_short_are_refused_before_they_are_collected():
    experience, upper = Experience(episodes=10, decisions=12), Upper(stride=3, window=2)
    with pytest.raises(ValueError, match="level 2: 10 episodes of 12 decisions have 70 windows"):
        check_levels(experience, [replace(upper, batch_size=71)])
    check_levels(experience, [replace(upper, batch_size=70)])
    with pytest.raises(ValueError, match="level 3: 10 episodes of 4 decisions have 0 windows of 6"):
        check_levels(experience, [replace(upper, batch_size=70), upper])
