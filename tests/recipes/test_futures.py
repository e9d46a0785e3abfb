"""Futures of the stochastic door at toy size; its trials against the chain that decides them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

from jepa.datasets.trajectories import EpisodeArrays
from jepa.planning.dynamics import Scales
from jepa.planning.levels import SameLatent
from jepa.planning.stochastic_door import StochasticDoor
from jepa.recipes.cli import main
from jepa.recipes.door_trials import DoorExperience, DoorTrials, foreseen, simulate
from jepa.recipes.futures import learn_kinds
from jepa.recipes.hardware import Hardware
from jepa.recipes.latent import Dynamics, Joint, Unknown, beside_a_latent, new_world_model
from jepa.recipes.world import stacked

CONFIG = {
    "name": "tiny",
    "world": {"rooms": {"size": 32, "border": 2, "wall_width": 2, "door_width": 5}},
    "experience": {"episodes": 12, "decisions": 6, "repeat": 2},
    "latent": {"size": 4, "width": 4},
    "joint": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "dynamics": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "trials": {"count": 8, "futures": 12, "particles": 5, "decisions": 3},
    "planner": {"horizon": 3, "samples": 6, "iterations": 1, "elites": 2},
    "play": {"episodes": 2, "max_steps": 6},
    "hardware": {"accelerator": "cpu", "precision": "float32"},
}  # fmt: skip


def test_a_run_learns_foresees_plays_reports_and_does_not_learn_twice(tmp_path, capsys):
    given, out = tmp_path / "tiny.yaml", tmp_path / "run"
    given.write_text(yaml.safe_dump(CONFIG))
    assert main(["futures", "--config", str(given), f"--out={out}"]) == 0, capsys.readouterr().err
    first = json.loads((out / "result.json").read_text())
    for who in ("point", "gaussian", "outcomes"):
        names = ("success", "door_crps_1", "both_2", "stray_2", "walk_coverage_4")
        assert {f"{who}/{name}" for name in names} <= first["metrics"].keys()
    assert first["metrics"]["misread_px"]["value"] > 0
    assert first["metrics"]["point/both_2"]["value"] == 0  # one prediction has one end
    assert (out / "futures.png").stat().st_size > 1000
    kept = (out / "outcomes.safetensors").stat().st_mtime_ns
    assert main(["futures", f"--out={out}", "--resume"]) == 0
    assert (out / "outcomes.safetensors").stat().st_mtime_ns == kept
    again = json.loads((out / "result.json").read_text())
    assert again["metrics"] == first["metrics"]
    assert main(["report", f"--run={out}"]) == 0
    assert "what may come" in (out / "report.html").read_text()


def test_what_is_unknown_needs_no_velocity():
    scales = Scales(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="kind mlp"):
        beside_a_latent(Joint(kind="second_order", unknown=Unknown()), scales)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match="share of the episodes"):
        DoorExperience(crossing=1.5)


def test_trials_at_a_door_that_is_still_end_as_it_stands():
    world = StochasticDoor(flip=0.0)
    trials = simulate(world, DoorTrials(count=60, futures=3, decisions=6), repeat=4)
    crossed = trials.crossed(trials.futures)
    assert (crossed[:, -1] == trials.layout.open).all()
    assert (crossed.diff(dim=1) >= 0).all()


def test_the_true_futures_score_best_and_a_point_covers_one_side():
    trials = simulate(StochasticDoor(), DoorTrials(count=40, futures=60, decisions=4), repeat=4)
    best = foreseen(trials.futures, trials)
    again = foreseen(trials.best, trials)
    point = foreseen(trials.futures.mean(dim=2, keepdim=True), trials)
    assert best["both_4"]["value"] == 1
    assert best["crossing_error_4"]["value"] == 0
    assert best["stray_4"]["value"] == 0
    assert point["both_4"]["value"] == 0
    assert point["stray_4"]["value"] > 0.5
    assert best["door_crps_4"]["value"] < point["door_crps_4"]["value"]
    # other futures of the same world: as good as any forecast of so many particles can be
    assert again["both_4"]["value"] > 0.7
    assert 0 < again["crossing_error_4"]["value"] < 0.1
    assert (
        best["door_crps_4"]["value"] < again["door_crps_4"]["value"] < point["door_crps_4"]["value"]
    )
    opened, crossed = trials.layout.open > 0.5, trials.crossed(trials.best)[:, 3]
    for name, which in (("open", opened), ("shut", ~opened)):
        assert again[f"{name}_crossing_4"]["value"] == pytest.approx(crossed[which].mean().item())
    # of the best possible forecast, CRPS is half the mean distance of two futures
    x = trials.futures[:, 3, :, 0]
    half = torch.cdist(x[..., None], x[..., None]).mean().item() / 2
    assert best["door_crps_4"]["value"] == pytest.approx(half, rel=1e-4)


def test_dynamics_that_remember_are_refused_before_anything_is_collected(tmp_path, capsys):
    given, out = tmp_path / "tiny.yaml", tmp_path / "run"
    given.write_text(yaml.safe_dump(CONFIG))
    for wrong in ("--dynamics.kind=gru", "--joint.kind=gru"):
        assert main(["futures", f"--config={given}", f"--out={out}", wrong]) == 1
        assert "mlp" in capsys.readouterr().err
        assert not (out / "episodes").exists()


def test_all_kinds_have_as_many_layers(tmp_path):
    episodes, steps, size = 8, 6, 4
    fields = {
        "observations": np.random.default_rng(0).normal(size=(episodes * (steps + 1), size)),
        "actions": np.random.default_rng(1).normal(size=(episodes * steps, 2)),
    }
    data = EpisodeArrays(
        np.full(episodes, steps), {name: field.astype(np.float32) for name, field in fields.items()}
    )
    latents, hardware = stacked(data, "observations"), Hardware(accelerator="cpu")
    dynamics = Dynamics(steps=1, batch_size=4, window=2, hidden=8, layers=4)
    model = new_world_model(SameLatent(size), latents, data, dynamics, 0)
    kinds = learn_kinds(tmp_path, model, latents, data, dynamics, Unknown(), hardware, 0)
    shapes = [[weight.shape for weight in kind.layers.parameters()] for kind in kinds.values()]
    assert shapes[0] == shapes[1] == shapes[2]
    assert sum(len(shape) == 2 for shape in shapes[0]) == 4
