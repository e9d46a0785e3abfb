"""TwoRooms with random layouts, learnt and played at toy size; and studies of several runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy import stats

from jepa.checkpoint import save_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.intervals import Interval, wilson
from jepa.recipes import study as study_module
from jepa.recipes.cli import main
from jepa.recipes.fit import StoppedError
from jepa.recipes.study import Run, over_seeds

ROOMS = {
    "name": "tiny",
    "experience": {"episodes": 20, "decisions": 6, "repeat": 4},
    "latent": {"size": 4, "width": 8, "hidden": 8},
    "joint": {"hidden": 16, "window": 3, "steps": 6, "batch_size": 8},
    "dynamics": {"hidden": 16, "window": 4, "steps": 6, "batch_size": 8},
    "planner": {"horizon": 4, "samples": 8, "iterations": 1, "elites": 2},
    "play": {"episodes": 3, "max_steps": 8, "energies": ["approach", "all", "last"]},
    "hardware": {"accelerator": "cpu", "precision": "float32"},
}
FROZEN = {
    "pretraining": {
        "encoder": {
            "image_size": 64, "patch_size": 16, "channels": 3, "dim": 12, "depth": 1, "heads": 1
        },
        "predictor": {"dim": 12, "depth": 1, "heads": 1},
        "masks": {"min_keep": 2},
        "batch_size": 8,
        "optimisation": {"steps": 3},
    }
}  # fmt: skip


def given(folder, side=64, **more):
    """An encoder that somebody has trained, and what to say of it."""
    torch.manual_seed(0)
    sizes = {"image_size": side, "patch_size": 16, "dim": 12, "depth": 1, "heads": 1, "channels": 3}
    encoder = VisionTransformer(**sizes | more)
    channels = encoder.config["channels"]
    frozen = FrozenEncoder(encoder, mean=[0.5] * channels, std=[0.2] * channels)
    save_encoder(folder / "encoder.safetensors", frozen)
    return {"encoder": {"weights": str(folder / "encoder.safetensors")}}


def config(path, **more):
    path.write_text(yaml.safe_dump(ROOMS | more))
    return str(path)


@pytest.mark.parametrize("more", [{}, FROZEN], ids=["pixels", "frozen"])
def test_a_run_learns_plays_and_does_not_learn_twice(more, tmp_path, capsys):
    given, out = config(tmp_path / "rooms.yaml", **more), tmp_path / "run"
    assert main(["rooms", "--config", given, f"--out={out}"]) == 0, capsys.readouterr().err
    first = json.loads((out / "result.json").read_text())
    assert {"success", "success_all", "success_last"} <= first["metrics"].keys()
    assert first["baselines"].keys() == {"random_policy/success", "oracle/success"}
    assert main(["report", f"--run={out}"]) == 0
    assert (out / "report.html").read_text().count('alt="the goal"') == 4
    learnt = (out / "embedding.safetensors").stat().st_mtime_ns
    assert main(["rooms", "--config", given, f"--out={out}", "--resume"]) == 0
    again = json.loads((out / "result.json").read_text())
    assert (out / "embedding.safetensors").stat().st_mtime_ns == learnt
    for name in ("success", "position_error_px"):
        assert again["metrics"][name] == first["metrics"][name]


@pytest.mark.parametrize(
    ("image_size", "pooling"), [(None, "places"), (96, "places"), (96, "keypoints")]
)
def test_an_encoder_that_there_is_already_sees_the_world(image_size, pooling, tmp_path, capsys):
    more = given(tmp_path) | {"latent": ROOMS["latent"] | {"pooling": pooling}}
    more["encoder"]["image_size"] = image_size
    out = tmp_path / "run"
    path = config(tmp_path / "rooms.yaml", **more)
    assert main(["rooms", "--config", path, f"--out={out}"]) == 0, capsys.readouterr().err
    assert {"success", "position_error_px"} <= json.loads((out / "result.json").read_text())[
        "metrics"
    ].keys()
    learnt, before = (
        load_file(f) for f in (out / "embedding.safetensors", more["encoder"]["weights"])
    )
    for name, weight in before.items():
        assert torch.equal(learnt[f"encoder.encoder.{name}"], weight)
    patches = ((image_size or 64) // 16) ** 2
    if pooling == "places":
        assert learnt["projection.layers.4.weight"].shape[1] == 16 * patches
    else:
        assert learnt["projection.patches.0.weight"].shape == (8, 12)


def test_a_model_of_timm_sees_the_world(tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224")
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    path = config(tmp_path / "rooms.yaml", **FROZEN)
    said = [
        "--pretraining=null",
        f"--encoder.weights={tmp_path / 'timm.safetensors'}",
        "--encoder.image_size=32",
    ]
    said += ["--encoder.architecture=vit_tiny_patch16_224"]
    out = tmp_path / "run"
    assert main(["rooms", "--config", path, f"--out={out}", *said]) == 0, capsys.readouterr().err
    learnt = load_file(out / "embedding.safetensors")
    assert learnt["projection.layers.0.weight"].shape[1] == 192


@pytest.mark.parametrize(
    ("more", "sizes", "message"),
    [
        (FROZEN, {}, "--pretraining=null"),
        ({}, {"channels": 1}, "takes 1 channels, frames have 3"),
        ({}, {"patch_size": 24, "side": 72}, "--encoder.image_size, a multiple of its patch of 24"),
        ({"latent": {"layer": "blocks.7"}}, {}, "one of blocks.0, norm; got 'blocks.7'"),
        ({"experience": {"episodes": 10**9}}, {}, "fewer --experience.episodes"),
    ],
    ids=["two", "channels", "patch", "layer", "memory"],
)
def test_an_encoder_that_cannot_be_used_is_refused_before_anything_is_collected(
    more, sizes, message, tmp_path, capsys
):
    path, out = config(tmp_path / "rooms.yaml", **given(tmp_path, **sizes) | more), tmp_path / "run"
    assert main(["rooms", "--config", path, f"--out={out}"]) == 1
    assert message in capsys.readouterr().err
    assert not (out / "episodes").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--experience.decisions=2", "joint: 20 episodes of 2 decisions have 0 windows of 3"),
        ("--joint.batch_size=81", "joint: 20 episodes of 6 decisions have 80 windows of 3"),
        ("--dynamics.batch_size=61", "have 60 windows of 4, which do not fill one batch of 61"),
    ],
)
def test_too_little_experience_is_refused_before_it_is_collected(wrong, message, tmp_path, capsys):
    path, out = config(tmp_path / "rooms.yaml"), tmp_path / "run"
    assert main(["rooms", "--config", path, f"--out={out}", wrong]) == 1
    assert message in capsys.readouterr().err
    assert not (out / "episodes").exists()


def test_a_study_runs_recipes_over_seeds_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    calls = []

    def pretended(run, config, seed, folder):
        calls.append((run.options, config, seed))
        folder.mkdir(parents=True)
        value = {"value": 0.5 + seed / 10, "low": 0.0, "high": 1.0}
        (folder / "result.json").write_text(
            json.dumps(
                {"seconds": 60.0, "metrics": {"success": value}, "baselines": {"r/success": value}}
            )
        )

    monkeypatch.setattr(study_module, "call", pretended)
    rooms = config(tmp_path / "rooms.yaml")
    several = {"command": "rooms", "config": rooms, "seeds": [0, 1, 2]}
    several["metrics"] = {"success": "a/success"}
    one = {"command": "rooms", "config": rooms, "options": ["--x=1"]}
    one["metrics"] = {"success": "b/success"}
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump({"runs": {"a": several, "b": one}, "baselines": "a", "workers": 2})
    )
    out = tmp_path / "study"
    assert main(["study", "--config", str(path), f"--out={out}"]) == 0, capsys.readouterr().err
    assert sorted(calls, key=str) == [
        (["--x=1"], rooms, 0), ([], rooms, 0), ([], rooms, 1), ([], rooms, 2)
    ]  # fmt: skip
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"]["a/success"] == {"value": pytest.approx(0.6), "low": 0.0, "high": 1.0}
    assert result["metrics"]["b/success"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert result["baselines"]["r/success"]["value"] == 0.5
    assert main(["study", "--config", str(path), f"--out={out}", "--resume"]) == 0
    assert len(calls) == 4


def test_a_study_calls_the_command_and_says_why_it_failed(tmp_path):
    given = config(tmp_path / "rooms.yaml", play={"episodes": 2, "max_steps": 4})
    run = Run(command="rooms", config=given, metrics={})
    study_module.call(run, given, 3, tmp_path / "good-3")
    assert json.loads((tmp_path / "good-3" / "result.json").read_text())["seed"] == 3
    wrong = Run(command="rooms", config=given, metrics={}, options=["--joint.stepz=1"])
    with pytest.raises(RuntimeError, match="stepz"):
        study_module.call(wrong, given, 0, tmp_path / "bad-0")


def test_a_study_tells_in_words_that_a_run_has_failed(tmp_path, capsys):
    wrong = {"command": "rooms", "config": config(tmp_path / "rooms.yaml"), "metrics": {}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"runs": {"a": wrong | {"options": ["--joint.stepz=1"]}}}))
    assert main(["study", "--config", str(path), f"--out={tmp_path / 'study'}"]) == 1
    assert "jepa study: error: a-0 failed:" in capsys.readouterr().err


def test_of_a_study_the_other_runs_go_on_where_one_fails(tmp_path, monkeypatch, capsys):
    def pretended(run, config, seed, folder):
        if seed in failing:
            raise StoppedError(f"{folder.name} failed:\nfor a reason")
        value = {"value": 0.5, "low": 0.0, "high": 1.0}
        result = {"seconds": 60.0, "metrics": {"success": value}, "baselines": {}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(study_module, "call", pretended)
    several = {"command": "rooms", "config": config(tmp_path / "rooms.yaml"), "seeds": [0, 1, 2, 3]}
    several["metrics"] = {"success": "success"}
    path, out, failing = tmp_path / "study.yaml", tmp_path / "study", {0, 2}
    path.write_text(yaml.safe_dump({"runs": {"a": several}}))
    assert main(["study", "--config", str(path), f"--out={out}"]) == 1
    told = capsys.readouterr()
    assert "Study: a, seed 0, FAILED" in told.out
    assert "Study: a, seed 3, ended" in told.out
    assert "a-0 failed:\nfor a reason" in told.err
    assert "a-2 failed:\nfor a reason" in told.err
    assert "2 of 4 runs failed; once mended, --resume" in told.err
    assert [(out / f"a-{seed}" / "result.json").is_file() for seed in range(4)] == [
        False, True, False, True
    ]  # fmt: skip
    failing = set()
    assert main(["study", "--config", str(path), f"--out={out}", "--resume"]) == 0
    assert json.loads((out / "result.json").read_text())["metrics"]["success"]["value"] == 0.5


def test_two_numbers_of_one_name_are_refused(tmp_path):
    run = Run(command="rooms", config=config(tmp_path / "r.yaml"), metrics={"success": "x"})
    with pytest.raises(ValueError, match="different names"):
        study_module.study(out=tmp_path, runs={"a": run, "b": run})


def test_numbers_that_no_run_has_are_named():
    result = {"metrics": {"success": {"value": 1.0, "low": 1.0, "high": 1.0}}}
    with pytest.raises(ValueError, match=r"no metric 'reward'.*success"):
        over_seeds([result], "reward")
    assert np.isclose(over_seeds([result, result], "success")["low"], 1.0)


def of_runs(*runs):
    return over_seeds([{"metrics": {"x": Interval(*run)._asdict()}} for run in runs], "x")


def test_numbers_without_intervals_have_students_over_seeds():
    low, high = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem([0.5, 0.6, 0.7]))
    found = of_runs(*[(value, value, value) for value in (0.5, 0.6, 0.7)])
    assert found == pytest.approx({"value": 0.6, "low": low, "high": high})
    assert of_runs((3.0, 3.0, 3.0), (3.0, 3.0, 3.0)) == {"value": 3.0, "low": 3.0, "high": 3.0}


def test_over_seeds_the_runs_own_intervals_count_too():
    """Seeds that agree are no surer than one of them; the spread adds, and shares stay shares."""
    one = wilson(95, 100)
    assert of_runs(one, one, one) == pytest.approx(one._asdict())
    apart = of_runs(wilson(90, 100), wilson(77, 100), wilson(93, 100))
    assert apart["high"] == 1
    half = stats.t.ppf(0.975, 2) * stats.sem([0.90, 0.77, 0.93])
    own = np.mean([(run.value - run.low) ** 2 for run in map(wilson, (90, 77, 93), [100] * 3)])
    assert apart["low"] == pytest.approx(apart["value"] - np.hypot(half, own**0.5))
    paid = of_runs((0.9, 0.5, 1.3), (0.9, 0.4, 1.4))  # no share
    assert paid["high"] == pytest.approx(0.9 + np.sqrt((0.16 + 0.25) / 2))


@pytest.mark.parametrize("ease", [0.0, 3.5])
@pytest.mark.parametrize(("of_seeds", "of_pairs"), [(0.0, 0.0), (0.7, 0.0), (0.0, 2.0), (0.7, 2.0)])
def test_the_interval_over_seeds_covers_the_share_of_all_seeds_and_pairs(ease, of_seeds, of_pairs):
    """Three seeds play the same 100 pairs; both differ in how easy they make it (in logits)."""
    rng = np.random.default_rng(0)

    def chances(seeds, pairs):
        easy = ease + of_seeds * rng.normal(size=(seeds, 1)) + of_pairs * rng.normal(size=pairs)
        return 1 / (1 + np.exp(-easy))

    truth, held = chances(2000, 2000).mean(), []
    for _ in range(300):
        reached = (rng.random((3, 100)) < chances(3, 100)).sum(axis=1)
        found = of_runs(*[wilson(int(count), 100) for count in reached])
        assert 0 <= found["low"] < found["high"] <= 1
        held.append(found["low"] <= truth <= found["high"])
    assert np.mean(held) > 0.95
