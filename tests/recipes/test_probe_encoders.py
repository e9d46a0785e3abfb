"""`jepa probe --encoder X` for every kind of X, and what is said where X is wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes import tables
from jepa.ranks import rank
from jepa.recipes.cli import main

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORK = "ddp_fork"  # any strategy starts processes; these need no second start of Python
TIMM = "test_vit"  # a toy that ships with timm, of 160 pixels


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, dark and light, of 20 training and 6 test images each."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, low in (("dark", 0), ("light", 100)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(low, low + 155, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def probed(images, out, *arguments):
    return main(
        [
            "probe",
            *map(str, arguments),
            f"--out={out}",
            f"--data.source=folder:{images}",
            "--data.image_size=16",
            "--data.workers=0",
        ]
    )


def ours(folder):
    sizes = dict(image_size=16, patch_size=8, channels=3, dim=16, depth=1, heads=2)
    return save_encoder(
        folder / "encoder.safetensors",
        FrozenEncoder(VisionTransformer(**sizes), mean=(0.5,) * 3, std=(0.2,) * 3),
    )


def theirs(folder):
    torch.manual_seed(0)
    save_file(timm.create_model(TIMM).state_dict(), folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


KINDS = {
    "ours": lambda folder: [f"--encoder={ours(folder)}"],
    "folder": lambda folder: [f"--encoder={ours(folder).parent}"],
    "ijepa": lambda _: [f"--encoder={FIXTURES / 'ijepa_checkpoint.pt'}", "--heads=2"],
    "vjepa": lambda _: [f"--encoder={FIXTURES / 'vjepa_checkpoint.pt'}", "--heads=2", "--frames=4"],
    "vjepa2": lambda _: [f"--encoder={FIXTURES / 'vjepa2_checkpoint.pt'}", "--heads=2"],
    "timm": lambda _: [f"--encoder={TIMM}", "--pretrained=false"],
    "local": lambda folder: [f"--encoder={theirs(folder)}", f"--architecture={TIMM}"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder_is_measured(images, tmp_path, kind):
    assert probed(images, tmp_path / "out", *KINDS[kind](tmp_path)) == 0
    metrics = json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]
    assert metrics["linear_top1"]["value"] > 0.6  # dark and light
    assert ("linear_top1/cls" in metrics) == (kind in ("timm", "local"))


def test_a_local_file_is_the_timm_model_itself(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(TIMM).eval()
    frozen = load_frozen_encoder(theirs(tmp_path), architecture=TIMM)
    pixels = torch.rand(2, 3, 160, 160)
    whole = model.forward_features(frozen.normalize(pixels))
    torch.testing.assert_close(frozen(pixels), whole[:, 1:])


def test_a_file_of_another_model_is_told_key_by_key(images, tmp_path, capsys):
    weights = timm.create_model(TIMM).state_dict()
    weights["blocks.0.norm1.weight"] = torch.zeros(7)
    weights["stranger"] = torch.zeros(1)
    del weights["norm.bias"]
    save_file(weights, tmp_path / "other.safetensors")
    arguments = [f"--encoder={tmp_path / 'other.safetensors'}", f"--architecture={TIMM}"]
    assert probed(images, tmp_path / "out", *arguments) == 1
    printed = capsys.readouterr().err
    for words in ("missing 'norm.bias'", "unexpected 'stranger'", "norm1.weight' is (7,)"):
        assert words in printed
    # the same folder is free for the command put right
    assert probed(images, tmp_path / "out", *KINDS["ours"](tmp_path)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder=vit_tiny_patch16_223"], "Did you mean vit_tiny_patch16_224?"),
        (["--encoder=nowhere/encoder.safetensors"], "no encoder at nowhere"),
        (["--encoder=nowhere.pth.tar"], "no checkpoint at nowhere.pth.tar"),
        (["--encoder=a_folder/of_nobody"], "neither a file nor a timm model"),
        (["--encoder={timm}"], "architecture="),
        (["--encoder={timm}", "--architecture=test_vitt"], "Did you mean test_vit"),
        (["--encoder=nowhere.safetensors", "--architecture=test_vit"], "there is no such file"),
        (["--encoder={vjepa}", "--heads=2"], "frames="),
        (["--encoder={vjepa}", "--frames=4"], "heads="),
    ],
)
def test_mistakes_are_told_before_any_image_is_read(tmp_path, capsys, arguments, message):
    known = {"timm": theirs(tmp_path), "vjepa": FIXTURES / "vjepa_checkpoint.pt"}
    arguments = [argument.format(**known) for argument in arguments]
    assert probed(tmp_path / "no images", tmp_path / "out", *arguments) == 1
    assert message in capsys.readouterr().err


def test_several_processes_share_the_tables_and_find_what_one_does(images, tmp_path, monkeypatch):
    encoder, share, where = ours(tmp_path), tables._compute_share, tmp_path / "shares"
    where.mkdir()

    def noted(*arguments):
        (where / f"{rank()}-{os.getpid()}").touch()
        share(*arguments)

    monkeypatch.setattr(tables, "_compute_share", noted)
    several = ["--hardware.accelerator=cpu", "--hardware.devices=2", f"--hardware.strategy={FORK}"]
    found = {}
    for name, more, ranks in (("one", [], ["0"]), ("two", several, ["0", "0", "1"])):
        given = [f"--encoder={encoder}", "--probes=[linear,knn,mlp]", *more]
        assert probed(images, tmp_path / name, *given) == 0
        found[name] = json.loads((tmp_path / name / "result.json").read_text())
        said = sorted(path.name for path in where.iterdir())
        assert [one[0] for one in said] == ranks
    assert len({one[2:] for one in said}) == 3, "each in a process of its own"
    assert found["one"]["metrics"] == found["two"]["metrics"]
    assert found["one"]["baselines"] == found["two"]["baselines"]
    for folder in sorted((tmp_path / "one" / "features").iterdir()):
        for column in sorted(folder.glob("*.npy")):
            other = tmp_path / "two" / "features" / folder.name / column.name
            assert other.read_bytes() == column.read_bytes()


@pytest.mark.parametrize("together", [True, False])
def test_data_may_be_named_by_their_source_alone(together, images, tmp_path):
    source = f"folder:{images}"
    given = [f"--data={source}"] if together else ["--data", source]
    given += [f"--encoder={ours(tmp_path)}", "--probes=[knn]", f"--out={tmp_path / 'run'}"]
    assert main(["probe", *given, "--data.image_size=16", "--data.workers=0"]) == 0
    assert f"source: {source}" in (tmp_path / "run" / "config.yaml").read_text()
