"""Joint embedding from a YAML to a report at toy size; and what a run needs is told beforehand."""

import json

import pytest
import yaml

from jepa.checkpoint import load_frozen_encoder
from jepa.recipes.cli import main
from jepa.recipes.pictures import read_pictures
from jepa.recipes.report import pretraining_part

SIZES = {"image_size": 32, "patch_size": 8, "channels": 1, "dim": 16, "depth": 1, "heads": 2}
TINY = {
    "name": "joint",
    "data": {"source": "photographs", "batch_size": 8, "image_size": 32, "views": {"count": 2}},
    "encoder": SIZES,
    "optimisation": {"steps": 3},
    "online": {"every_n_steps": 2, "bank": 100, "held_out": 50},
    "probe": False,
    "log_every": 1,
}
LEJEPA = {"class_path": "LeJEPA", "init_args": {"projector": [12, 8], "directions": 8}}
BYOL = {"class_path": "BYOL", "init_args": {"projector": [12, 8], "predictor": 12}}
SUPERVISED = {"class_path": "Supervised", "init_args": {"classes": 17}}
ONE_VIEW = TINY["data"] | {"views": None}


def pretrained(folder, **changes):
    path = folder / "joint.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    out = folder / "run"
    return main(["pretrain", f"--config={path}", f"--out={out}"]), out


def online(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {key.split("/")[1] for row in rows for key in row if key.startswith("online/")}


def test_lejepa_leaves_its_encoder_its_curves_and_pictures_without_masks(tmp_path):
    status, out = pretrained(tmp_path, objective=LEJEPA)
    assert status == 0
    assert online(out) == {"student"}
    encoders = [load_frozen_encoder(out / f"{name}.safetensors") for name in ("encoder", "student")]
    assert encoders[0].fingerprint() == encoders[1].fingerprint()
    assert read_pictures(out / "pictures.npz").targets.size == 0
    page = pretraining_part(out)
    assert "principal components" in page
    assert "Masks:" not in page
    assert main(["pretrain", f"--out={out}", "--resume"]) == 0


def test_byol_is_probed_on_its_target(tmp_path):
    hardware = {"activation_checkpointing": True}
    status, out = pretrained(tmp_path, objective=BYOL, hardware=hardware)
    assert status == 0
    assert online(out) == {"student", "target"}
    encoders = [load_frozen_encoder(out / f"{name}.safetensors") for name in ("encoder", "student")]
    assert encoders[0].fingerprint() != encoders[1].fingerprint()


def test_a_classifier_is_trained_by_the_same_command(tmp_path):
    status, out = pretrained(tmp_path, objective=SUPERVISED, data=ONE_VIEW)
    assert status == 0
    assert online(out) == {"student"}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/cross_entropy" in row for row in rows)
    assert load_frozen_encoder(out).dim == 16
    assert "principal components" in pretraining_part(out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": None}, "got neither"),
        ({"objective": BYOL, "predictor": {"dim": 16, "depth": 1, "heads": 2}}, "got both"),
        ({"objective": BYOL, "data": TINY["data"] | {"views": None}}, "--data.views.count=2"),
        (
            {"objective": None, "predictor": {"dim": 16, "depth": 1, "heads": 2}},
            "--data.views=null",
        ),
        ({"objective": BYOL, "regulariser": {"variance": 0.2}}, "a JEPA's"),
        ({"objective": BYOL, "masks": {"min_keep": 4}}, "got BYOL and masks"),
        ({"objective": SUPERVISED}, "--data.views=null"),
        (
            {
                "objective": {"class_path": "Supervised", "init_args": {"classes": 5}},
                "data": ONE_VIEW,
            },
            "--objective.classes=17",
        ),
    ],
)
def test_mistakes_are_told_before_the_first_step(tmp_path, capsys, changes, message):
    status, out = pretrained(tmp_path, **changes)
    assert status == 1
    assert message in capsys.readouterr().err
    assert not (out / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--objective.weigth=0.1", "Did you mean objective.weight?"),
        ("--objective=VICRegg", "objective"),
    ],
)
def test_unknown_objectives_and_options_are_refused(tmp_path, capsys, argument, hint):
    path = tmp_path / "joint.yaml"
    path.write_text(yaml.safe_dump(TINY | {"objective": LEJEPA}))
    with pytest.raises(SystemExit):
        main(["pretrain", f"--config={path}", f"--out={tmp_path / 'run'}", argument])
    assert hint in capsys.readouterr().err
