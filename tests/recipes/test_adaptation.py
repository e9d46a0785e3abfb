"""Adaptation at toy size: what is learnt and measured, and that only replay holds the old world."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from jepa.datasets.trajectory_store import StoredTrajectories
from jepa.planning.dynamics import ResidualMLP, Scales
from jepa.planning.readout import LinearReadout
from jepa.planning.second_order import SecondOrder
from jepa.recipes.adaptation import Lived, Relearning, position_error, relearn
from jepa.recipes.adaptation_pictures import adaptation_part
from jepa.recipes.cli import main
from jepa.recipes.hardware import Hardware
from jepa.recipes.latent import Dynamics
from jepa.recipes.world import stacked

CONFIG = {
    "name": "tiny",
    "rooms": {"size": 32, "border": 2, "wall_width": 2, "door_width": 5},
    "changes": {"both": {"door": 5.0, "gain": 0.5}},
    "experience": {"episodes": 12, "decisions": 6, "repeat": 2},
    "latent": {"size": 4, "width": 4},
    "joint": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "dynamics": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "relearning": {"episodes": 8, "replayed": 8, "steps": 3, "batch_size": 8},
    "planner": {"horizon": 3, "samples": 6, "iterations": 1, "elites": 2},
    "play": {"episodes": 2, "max_steps": 6},
    "hardware": {"accelerator": "cpu", "precision": "float32"},
}


def test_a_run_adapts_plays_in_both_worlds_and_does_not_learn_twice(tmp_path, capsys):
    given, out = tmp_path / "tiny.yaml", tmp_path / "run"
    given.write_text(yaml.safe_dump(CONFIG))
    as_many = "--relearning.episodes=12"
    done = main(["adapt", "--config", str(given), f"--out={out}", as_many])
    assert done == 0, capsys.readouterr().err
    first = json.loads((out / "result.json").read_text())
    for who in ("tuned", "replay", "identified"):
        for what in ("success", "old_success", "steps", "error_px", "old_error_px"):
            assert f"both/{who}/{what}" in first["metrics"]
    assert "both/unchanged/success" in first["metrics"]
    for field in ("actions", "infos.position"):  # draws of its own, of which replay mixes both
        old, new = (
            stacked(StoredTrajectories(out / world / "train"), field)
            for world in ("episodes", "both")
        )
        assert not torch.isclose(old[:, 0], new[:, 0]).all(dim=1).any()
    kept = (out / "both_replay.safetensors").stat().st_mtime_ns
    assert main(["adapt", f"--out={out}", "--resume"]) == 0
    assert (out / "both_replay.safetensors").stat().st_mtime_ns == kept
    assert json.loads((out / "result.json").read_text())["metrics"] == first["metrics"]
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "<h3>both</h3>" in page
    for way in ("tuned", "replay", "identified"):
        assert f">{way}</text>" in page
        assert f">{way}, old world</text>" in page
    assert ">right after</text>" in page


def test_only_what_was_adapted_has_a_part_in_the_report():
    one = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert adaptation_part({"levels/success": one, "a/b/success": one}) == ""
    part = adaptation_part({"door/tuned/success": one, "door/tuned/old_success": one, "x": one})
    assert part.count("<svg") == 1
    assert part.count("50.0 %") == 2


def steps_of(gain, count, seed):
    """Positions that are latents, moved by gain times the action."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(count, 12, 2, generator=generator)
    start = torch.randn(count, 1, 2, generator=generator)
    positions = torch.cat([start, start + gain * actions.cumsum(dim=1)], dim=1)
    return Lived(positions, actions, positions)


def test_a_gain_that_one_picture_does_not_show(tmp_path):
    """Tuned dynamics forget the old gain, replay takes a gain between, who looks back knows."""
    torch.manual_seed(0)
    old, new = steps_of(1.0, 200, 0), steps_of(-1.0, 200, 1)
    before = ResidualMLP(Scales(torch.ones(2) * 3, torch.ones(2)), hidden=32)
    hardware = Hardware(accelerator="cpu", precision="float32")
    learning = Relearning(steps=100, batch_size=64, learning_rate=2e-2)
    args = (Dynamics(window=2), learning, hardware, 0)
    before = relearn(tmp_path, "first", before, old, old, *args)["tuned"]
    kinds = relearn(tmp_path, "then", before, old, new, *args)
    same = LinearReadout(torch.eye(2), torch.zeros(2))

    def errors(test):
        return {who: position_error(now, test, same) for who, now in kinds.items()}

    now, then = errors(steps_of(-1.0, 50, 2)), errors(steps_of(1.0, 50, 3))
    assert now["unchanged"] > 4 * now["tuned"]
    assert then["tuned"] > 4 * then["unchanged"]
    assert now["identified"] == pytest.approx(now["tuned"], rel=1e-5)
    assert then["identified"] == pytest.approx(then["unchanged"], rel=1e-5)
    for world in (now, then):
        assert world["identified"] < world["replay"] / 2
        assert world["replay"] < max(world["tuned"], world["unchanged"])


def test_dynamics_that_see_changes_are_told_one_before_they_adapt(tmp_path):
    """Things that go on as they went: one position does not tell how."""

    def thrown(count, seed):
        velocity = torch.randn(count, 1, 2, generator=torch.Generator().manual_seed(seed))
        positions = 0.3 * velocity * torch.arange(13)[:, None]
        return Lived(positions, torch.zeros(count, 12, 2), positions)

    torch.manual_seed(0)
    still = SecondOrder(Scales(torch.ones(2), torch.ones(2)), hidden=32)
    lived_through, held_out = thrown(200, 0), thrown(50, 1)
    learning = Relearning(steps=150, batch_size=64, learning_rate=2e-2)
    hardware = Hardware(accelerator="cpu", precision="float32")
    args = (Dynamics(kind="second_order", window=4), learning, hardware, 0)
    kinds = relearn(tmp_path, "first", still, lived_through, lived_through, *args)
    same = LinearReadout(torch.eye(2), torch.zeros(2))
    moved = float((held_out.positions[:, 8] - held_out.positions[:, 4]).norm(dim=-1).mean())
    assert position_error(kinds["tuned"], held_out, same) < 0.2 * moved
    assert position_error(kinds["identified"], held_out, same) < 0.2 * moved


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--relearning.batch_size=41", "relearning: 8 episodes of 6 decisions have 40 windows"),
        ("--experience.decisions=4", "errors: 12 episodes of 4 decisions have 0 windows of 5"),
    ],
)
def test_too_little_experience_is_refused_before_it_is_collected(wrong, message, tmp_path, capsys):
    given, out = tmp_path / "tiny.yaml", tmp_path / "run"
    given.write_text(yaml.safe_dump(CONFIG))
    assert main(["adapt", f"--config={given}", f"--out={out}", wrong]) == 1
    assert message in capsys.readouterr().err
    assert not (out / "episodes").exists()
