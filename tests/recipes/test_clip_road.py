"""From clips to probes of motion at toy size; and stages of growing clips."""

import json
from functools import partial

import av
import numpy as np
import pytest
import torch
import yaml

from jepa.checkpoint import load_frozen_encoder
from jepa.datasets import sprites as sprites_module
from jepa.metrics_log import read_metrics
from jepa.recipes import pretrain as pretrain_module
from jepa.recipes.cli import main
from jepa.recipes.clip_pictures import read_clip_pictures

CLIPS = {
    "name": "clips",
    "labelled": 120,
    "clips": {"source": "sprites", "batch_size": 4, "crop_scale": None, "frames": 8},
    "encoder": {
        "image_size": 32,
        "patch_size": 8,
        "channels": 1,
        "frames": 8,
        "tubelet_size": 2,
        "positions": "rope",
        "dim": 24,
        "depth": 2,
        "heads": 2,
    },
    "predictor": {"dim": 24, "depth": 1, "heads": 2, "mask_tokens": 2, "positions": "rope"},
    "masks": {"groups": [{"blocks": 4, "scale": 0.3}, {"seen": [0.25, 0.5]}]},
    "distance": "l1",
    "regulariser": {"variance": 0.05, "covariance": 0.002},
    "optimisation": {"steps": 3, "learning_rate": 1.0e-3},
    "online": {"every_n_steps": 2, "bank": 60, "held_out": 30},
    "log_every": 1,
    "clip_probes": {
        "label": "direction",
        "targets": ["speed"],
        "epochs": 1,
        "learning_rates": [1.0e-3],
        "weight_decays": [0.01],
    },
    "single_frame": {
        "encoder": {
            "image_size": 32,
            "patch_size": 8,
            "channels": 1,
            "dim": 24,
            "depth": 2,
            "heads": 2,
        },
        "predictor": {"dim": 24, "depth": 1, "heads": 2},
        "masks": {"min_keep": 4},
        "optimisation": {"steps": 2},
    },
}


@pytest.fixture(scope="module", autouse=True)
def few_clips():
    patch = pytest.MonkeyPatch()
    patch.setattr(sprites_module, "CLIPS", {"train": 240, "test": 80})
    sprites_module.sprites.cache_clear()
    some = partial(pretrain_module.frames_of_clips, count=300)
    patch.setattr(pretrain_module, "frames_of_clips", some)
    yield
    patch.undo()
    sprites_module.sprites.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    (folder / "clips.yaml").write_text(yaml.safe_dump(CLIPS))
    out = folder / "run"
    assert main(["pretrain", f"--config={folder / 'clips.yaml'}", f"--out={out}"]) == 0
    return out


def test_every_probe_of_every_encoder_is_there(run):
    result = json.loads((run / "result.json").read_text())
    names = {"direction_top1", "direction_top1/linear", "speed_r2", "speed_r2/linear"}
    assert names <= set(result["metrics"])
    for baseline in ("random_encoder", "single_frame", "middle_frame"):
        assert {f"{baseline}/{name}" for name in names} <= set(result["baselines"])
    for number in (*result["metrics"].values(), *result["baselines"].values()):
        assert number["low"] <= number["value"] <= number["high"]


def test_the_pictures_hold_masks_and_what_was_foreseen(run):
    pictures = read_clip_pictures(run / "clip_pictures.npz")
    assert pictures.frames.shape == (2, 4, 32, 32, 1)
    assert pictures.components.shape == (2, 4, 4, 4, 3)
    for group in pictures.groups:
        assert group.foreseen.shape == (*group.targets.shape, 3)
        for context, targets in zip(group.context, group.targets, strict=True):
            assert not set(context) & set(targets)
    assert pictures.error > 0
    kept = np.load(run / "clip_pictures.npz")["frames"].astype(float)
    every = sprites_module.sprites("test", frames=8).images.numpy()[:, 0, ::2].astype(float)
    moves = np.median(np.abs(np.diff(every[..., ::2, ::2], axis=1)).mean(axis=(2, 3)), axis=1)
    for shown in kept[..., 0]:
        move = np.median(np.abs(np.diff(shown[:, ::2, ::2], axis=0)).mean(axis=(1, 2)))
        assert (moves < move).mean() > 0.8, "of the clips that move most"


def test_the_report_shows_them(run, capsys):
    assert main(["report", f"--run={run}"]) == 0
    page = (run / "report.html").read_text()
    for part in ("foreseen", "direction of motion", "single frame", "speed"):
        assert part in page.lower(), part
    capsys.readouterr()


def test_the_next_stage_begins_with_weights_and_moments_and_longer_clips(run, tmp_path):
    config = CLIPS | {
        "clips": CLIPS["clips"] | {"frames": 16},
        "encoder": CLIPS["encoder"] | {"frames": 16},
        "optimisation": {
            "steps": 1,
            "learning_rate": 1e-30,
            "final_learning_rate": 0.0,
            "momentum": [1.0, 1.0],
        },
        "online": None,
        "probe": False,
    }
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "next"
    arguments = [f"--config={tmp_path / 'next.yaml'}", f"--out={out}", f"--stage_from={run}"]
    assert main(["pretrain", *arguments]) == 0
    before, after = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (run, out))
    for name, weight in before["state_dict"].items():
        torch.testing.assert_close(after["state_dict"][name], weight, rtol=0, atol=1e-6)
    steps = {int(state["step"]) for state in after["optimizer_states"][0]["state"].values()}
    assert steps == {CLIPS["optimisation"]["steps"] + 1}
    assert after["global_step"] == 1


def test_a_dense_jepa_from_a_yaml_leaves_a_plain_encoder(tmp_path):
    dense = {"blocks": [0], "weight": 0.5, "first_step": 0, "last_step": 2}
    config = CLIPS | {"dense": dense, "online": None, "probe": False}
    (tmp_path / "dense.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "run"
    assert main(["pretrain", f"--config={tmp_path / 'dense.yaml'}", f"--out={out}"]) == 0
    losses = [row["loss/context"] for row in read_metrics(out / "metrics.jsonl")]
    assert losses[0] == 0
    assert 0 < losses[1] < losses[2]
    encoder = load_frozen_encoder(out / "encoder.safetensors").encoder
    assert encoder(torch.zeros(1, 1, 8, 32, 32)).shape == (1, 64, 24)
    assert read_clip_pictures(out / "clip_pictures.npz").error > 0


def test_video_files_without_labels_are_measured_on_labelled_clips(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "videos").mkdir()
    with av.open(str(tmp_path / "videos/noise.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 256, (240, 48, 80, 3), dtype=np.uint8)
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    files = {"source": f"decoded:{tmp_path / 'videos'}", "image_size": 32, "channels": 1}
    config = CLIPS | {
        "clips": files | {"batch_size": 4, "frames": 8, "step": 2, "workers": 0},
        "measured_on": CLIPS["clips"],
    }
    (tmp_path / "files.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "run"
    assert main(["pretrain", f"--config={tmp_path / 'files.yaml'}", f"--out={out}"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert {"direction_top1", "speed_r2"} <= set(result["metrics"])
    assert "single_frame/direction_top1" in result["baselines"]
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("online/target/knn_top1" in row for row in rows)
    assert read_clip_pictures(out / "clip_pictures.npz").frames.shape == (2, 4, 32, 32, 1)


def test_images_or_clips_but_not_neither(tmp_path, capsys):
    config = {k: v for k, v in CLIPS.items() if k != "clips"}
    (tmp_path / "neither.yaml").write_text(yaml.safe_dump(config))
    arguments = [f"--config={tmp_path / 'neither.yaml'}", f"--out={tmp_path / 'run'}"]
    assert main(["pretrain", *arguments]) == 1
    assert "--clips.source=sprites" in capsys.readouterr().err


def test_a_stage_without_a_checkpoint_is_refused(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CLIPS))
    arguments = [f"--config={tmp_path / 'c.yaml'}", f"--out={tmp_path / 'run'}"]
    assert main(["pretrain", *arguments, f"--stage_from={tmp_path / 'nothing'}"]) == 1
    assert "stage_from is the folder of a run that has ended" in capsys.readouterr().err
