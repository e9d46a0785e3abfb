"""The released architectures at full size, without a byte of weights: their published counts."""

import pytest
import timm
import torch

from jepa.encoder import vit_giant, vit_huge, vit_large
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.predictor import Predictor
from jepa.recipes.models import MODELS, architecture, models

CLIPS = {"patch_size": 16, "frames": 16, "tubelet_size": 2, "image_size": 256}
ROPE = CLIPS | {"positions": "rope_legacy"}


def millions(module):
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 1)


@pytest.fixture(autouse=True)
def _meta():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("build", "encoder", "both"),
    [
        (lambda: vit_large(**ROPE), 303.9, 326.0),
        (lambda: vit_huge(**ROPE), 631.6, 653.9),
        (lambda: vit_giant(**ROPE, heads=22), 1012.2, 1034.6),
    ],
    ids=["L", "H", "g"],
)
def test_v_jepa_2(build, encoder, both):
    """The paper's counts, and those of encoder and predictor together on the hub."""
    made = build()
    predictor = Predictor(made.dim, made.native_grid, mask_tokens=10, positions="rope_legacy")
    assert millions(made) == encoder
    assert round(millions(made) + sum(p.numel() for p in predictor.parameters()) / 1e6, 1) == both
    assert millions(predictor) <= 22.4
    assert millions(predictor) == 22.4 or made.dim < 1408


def test_v_jepa_2_ac():
    predictor = ActionConditionedPredictor(1408, (16, 16), positions="rope_legacy")
    assert millions(predictor) == 305.2


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("vit_huge_patch14_gap_224", lambda: vit_huge(image_size=224)),
        ("vit_giant_patch16_gap_224", lambda: vit_giant(patch_size=16, image_size=224)),
    ],
)
def test_i_jepa_is_as_large_as_timms_but_for_the_table_of_positions(name, build):
    theirs = timm.create_model(name, num_classes=0)
    ours = sum(p.numel() for p in build().parameters())
    assert ours == sum(p.numel() for p in theirs.parameters()) - theirs.pos_embed.numel()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_listed_model_is_as_large_as_it_says(model):
    assert millions(architecture(model)) == pytest.approx(model.millions, abs=0.05)


def test_the_list_names_licences(capsys):
    models()
    told = capsys.readouterr().out
    lines = [line for line in told.splitlines() if line.startswith(("ijepa", "vjepa-"))]
    assert len(lines) == 7
    assert all("NON-COMMERCIAL" in line for line in lines)
    models("vith")
    assert "vitl" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"Did you mean vjepa2-vitl\?"):
        models("vjepa2-vit1")
