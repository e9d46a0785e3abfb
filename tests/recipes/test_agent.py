"""The whole agent at toy size: what is told, and that nothing is learnt twice."""

from __future__ import annotations

import json

import numpy as np
import torch

from jepa.datasets.trajectories import EpisodeArrays
from jepa.files import read_arrays
from jepa.planning.maze import Maze
from jepa.recipes.agent_learning import remembered
from jepa.recipes.cli import main

MAZE = {
    "walls": [(15.0, 8.0, 17.0, 31.0)], "size": 32, "max_norm": 1.2, "slide": 1.0, "least": 20.0,
}  # fmt: skip
CONFIG = {
    "name": "tiny",
    "maze": MAZE,
    "experience": {"episodes": 12, "decisions": 8, "repeat": 2},
    "latent": {"size": 4, "width": 4},
    "joint": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "dynamics": {"hidden": 8, "window": 2, "steps": 3, "batch_size": 8},
    "criticism": {"episodes": 10, "hidden": 8, "window": 3, "candidates": 3, "steps": 3},
    "reacting": {
        "hidden": 8, "rounds": 1, "episodes": 4, "max_steps": 6, "first": 12, "plans": 6,
        "steps": 3,
    },
    "planner": {"horizon": 2, "samples": 6, "iterations": 1, "elites": 2},
    "long": 4,
    "play": {"episodes": 8, "max_steps": 4},
    "hardware": {"accelerator": "cpu", "precision": "float32"},
}  # fmt: skip


def test_a_run_learns_plays_and_does_not_learn_twice(tmp_path, capsys):
    given, out = tmp_path / "tiny.yaml", tmp_path / "run"
    given.write_text(json.dumps(CONFIG))
    assert main(["agent", "--config", str(given), f"--out={out}"]) == 0, capsys.readouterr().err
    first = json.loads((out / "result.json").read_text())
    metrics = first["metrics"]
    # 6 candidates and the last mean, of so many steps
    assert metrics["long_blind/model_calls"]["value"] == 7 * 4
    assert metrics["short_blind/model_calls"]["value"] == 7 * 2
    assert metrics["short_critic/model_calls"]["value"] == 7 * 2
    assert metrics["mode_1/model_calls"]["value"] == metrics["mode_1/planned"]["value"] == 0
    assert metrics["mode_2/planned"]["value"] == 1
    assert 7 * 2 <= metrics["mode_2/model_calls"]["value"] <= 8 * 2
    tasks = {"reach", "sparing", "clear"}
    assert {f"{task}/success" for task in (*tasks, "place")} <= metrics.keys()
    others = ("dedicated", "not_told", "random_policy", "oracle")
    assert first["baselines"].keys() == {f"{w}/{t}/success" for w in others for t in tasks}
    files = sorted(out.glob("*.safetensors"))
    assert {f.stem for f in files} == {
        "embedding", "dynamics", "critic_reach", "critic_sparing", "critic_clear", "lessons_0",
        "lessons_1", "policy_0", "policy_1",
    }  # fmt: skip
    made = [file.stat().st_mtime_ns for file in files]
    assert main(["agent", "--config", str(given), f"--out={out}", "--resume"]) == 0
    again = json.loads((out / "result.json").read_text())
    for name, number in again["metrics"].items():
        assert name.endswith("milliseconds") or number == metrics[name], name
    assert again["baselines"] == first["baselines"]
    assert [file.stat().st_mtime_ns for file in files] == made
    assert main(["report", f"--run={out}"]) == 0
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3
    drawn = read_arrays(out / "agent_pictures.npz")
    free = ~np.isnan(drawn["critic"])
    assert (free == (Maze(**MAZE).picture.numpy() == 0)).all()
    x, y = drawn["goal"].astype(int)
    assert drawn["length"][y, x] == 0
    assert all(len(drawn[f"way_{task}"]) == 5 for task in tasks)  # 4 steps are too few to arrive


def test_experience_becomes_memory_with_goals_that_were_seen():
    generator = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(5, 4, 2, generator=generator), np.random.rand(15, 1)
    data = EpisodeArrays(
        np.full(5, 3), {"observations": np.zeros((20, 1)), "actions": actions.astype(np.float32)}
    )
    rows = remembered(latents, data, episodes=4, seed=0).rows
    assert len(rows) == 12
    for row in rows:
        episode, time = int(row["episode"]), int(row["time"])
        assert torch.equal(row["latent"], latents[episode, time])
        assert row["action"].item() == actions[3 * episode + time].astype(np.float32)
        assert (row["goal"] == latents).all(dim=-1).any()
