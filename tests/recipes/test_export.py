"""`jepa export`: every form is written, read back and says what it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import IJepaModel, VJEPA2Model

from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.recipes.cli import main

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "channels": 1, "dim": 32, "depth": 1, "heads": 2}
    frozen = FrozenEncoder(VisionTransformer(**sizes), mean=(0.5,), std=(0.25,), name="ours")
    return save_encoder(tmp_path_factory.mktemp("ours") / "encoder.safetensors", frozen), frozen


@pytest.mark.parametrize("form", ["pretrained", "timm", "transformers"])
def test_forms_that_come_back(form, ours, tmp_path):
    path, frozen = ours
    out = tmp_path / "out"
    assert main(["export", str(path), f"--to={form}", f"--out={out}"]) == 0
    assert load_frozen_encoder(out).fingerprint() == frozen.fingerprint()
    pixels = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        if form == "timm":
            model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
            found = model.forward_features(frozen.normalize(pixels))
        elif form == "transformers":
            model = IJepaModel.from_pretrained(out).eval()
            found = model(frozen.normalize(pixels)).last_hidden_state
        else:
            found = load_frozen_encoder(out)(pixels)
    torch.testing.assert_close(found, frozen(pixels), atol=1e-5, rtol=0)


@torch.no_grad()
def test_from_an_official_file_to_transformers_with_its_predictor(tmp_path):
    source = str(FIXTURES / "vjepa2_checkpoint.pt")
    sizes = ["--heads=2", "--predictor_heads=2", "--frames=4", "--image_size=32", "--which=encoder"]
    assert main(["import", source, f"--out={tmp_path / 'in'}", *sizes]) == 0
    assert (
        main(["export", str(tmp_path / "in"), "--to=transformers", f"--out={tmp_path / 'o'}"]) == 0
    )
    model, told = VJEPA2Model.from_pretrained(tmp_path / "o", output_loading_info=True)
    assert not any(told.values())
    io = load_file(FIXTURES / "vjepa2_io.safetensors")
    out = model(io["video"].transpose(1, 2))
    torch.testing.assert_close(out.last_hidden_state, io["encoder_full"], atol=1e-5, rtol=0)
    assert out.predictor_output.last_hidden_state.abs().max() > 0.1


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, dark and light, of 20 training and 10 test images each."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for name, low in (("dark", 0), ("light", 90)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(low, low + 155, (32, 32), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_int8_with_its_cost_by_the_probes(ours, images, tmp_path, capsys):
    path, _ = ours
    out = tmp_path / "out"
    data = [f"--data.source=folder:{images}", "--data.image_size=32", "--data.channels=1"]
    arguments = ["--to=int8", *data, "--data.workers=0"]
    assert main(["export", str(path), f"--out={out}", *arguments]) == 0
    cost = json.loads((out / "cost.json").read_text())
    for name in ("linear_top1", "knn_top1"):
        told = cost[name]
        gap = told["small"]["value"] - told["full"]["value"]
        assert told["difference"]["value"] == pytest.approx(gap)
        assert told["full"]["value"] > 0.8
        assert abs(gap) < 0.2
    assert "with eight bits" in capsys.readouterr().out
    full, small = (out / name for name in ("encoder.onnx", "encoder.int8.onnx"))
    assert small.stat().st_size < full.stat().st_size


def test_what_cannot_be_is_said(ours, tmp_path, capsys):
    video = str(FIXTURES / "vjepa_checkpoint.pt")
    out = f"--out={tmp_path / 'out'}"
    assert main(["import", video, f"--out={tmp_path / 'v'}", "--heads=2", "--frames=4",
                 "--only_encoder"]) == 0  # fmt: skip
    assert main(["export", str(tmp_path / "v"), "--to=timm", out]) == 1
    assert "timm's ViTs take images" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "v"), "--to=transformers", out]) == 1
    assert "no class for this encoder" in capsys.readouterr().err
