"""V-JEPA and V-JEPA 2: equal to the reference implementations on their own layouts, to 1e-5."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.official import load_official, load_official_encoder
from jepa.shapes import Masks

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("vjepa", "vjepa2", "vjepa2_sincos")
SIZES = {"heads": 2, "predictor_heads": 2, "frames": 4}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    path = FIXTURES / f"{request.param}_checkpoint.pt"
    return request.param, path, load_file(FIXTURES / f"{request.param}_io.safetensors")


@torch.no_grad()
def test_encoder_masked_encoder_predictor_per_group_target_and_loss(case):
    name, path, expected = case
    model, video = load_official(path, **SIZES), expected["video"]
    assert model.encoder.positions == ("rope_legacy" if name == "vjepa2" else "sincos")
    close(model.encoder(video), expected["encoder_full"])
    masks = [
        Masks(expected[f"context_idx_{i}"], expected[f"target_idx_{i}"][:, None]) for i in (0, 1)
    ]
    output = model(video, masks)
    whole = model.target(video)
    close(whole, expected["target_normed"])
    for i, seen in enumerate(output.groups):
        close(seen.context, expected[f"encoder_context_{i}"])
        close(seen.predicted[:, 0], expected[f"predicted_{i}"])
        index = masks[i].targets[:, 0, :, None].expand(-1, -1, whole.shape[-1])
        close(seen.target[:, 0], expected["target_normed"].gather(1, index))
    close(output.losses["prediction"], expected["loss"])


@torch.no_grad()
def test_other_clip_length():
    expected = load_file(FIXTURES / "vjepa2_io.safetensors")
    encoder = load_official_encoder(
        FIXTURES / "vjepa2_checkpoint.pt", which="encoder", heads=2, frames=4
    )
    close(encoder(expected["video"][:, :, :2]), expected["encoder_full_other_length"])


def test_through_the_frozen_door_and_back_from_our_own_file(case, tmp_path):
    _, path, expected = case
    frozen = load_frozen_encoder(path, heads=2, frames=4)
    clips = (expected["video"].clamp(-2, 2) + 2) / 4
    features = frozen(clips)
    save_encoder(tmp_path / "encoder.safetensors", frozen)
    assert torch.equal(load_frozen_encoder(tmp_path)(clips), features)
    target = load_official_encoder(path, heads=2, frames=4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (clips - mean[:, None, None, None]) / std[:, None, None, None]
    close(features, target(normalised).detach())


def test_an_unused_table_of_a_rotary_model_is_dropped(tmp_path):
    """Released V-JEPA 2 files hold a `pos_embed` that the rotary model has no place for."""
    checkpoint = torch.load(FIXTURES / "vjepa2_checkpoint.pt", weights_only=True)
    for part in ("encoder", "target_encoder"):
        checkpoint[part]["module.backbone.pos_embed"] = torch.zeros(1, 32, 64)
    torch.save(checkpoint, tmp_path / "released.pt")
    expected = load_file(FIXTURES / "vjepa2_io.safetensors")
    model = load_official(tmp_path / "released.pt", **SIZES)
    close(model.encoder(expected["video"]).detach(), expected["encoder_full"])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("predictor", lambda w: w.pop("module.backbone.mask_tokens.0"), "mask_tokens.0"),
        ("encoder", lambda w: w.pop("module.backbone.norm.bias"), "missing 'norm.bias'"),
        (
            "target_encoder",
            lambda w: w.update({"module.backbone.extra": torch.zeros(1)}),
            "unexpected 'extra'",
        ),
        (
            "encoder",
            lambda w: w.update({"module.backbone.norm.bias": torch.zeros(3)}),
            "'norm.bias' is",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_the_name_of_its_fault(tmp_path, part, change, message):
    checkpoint = torch.load(FIXTURES / "vjepa2_checkpoint.pt", weights_only=True)
    change(checkpoint[part])
    torch.save(checkpoint, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=message):
        load_official(tmp_path / "damaged.pt", **SIZES)


def test_a_wrong_clip_length_is_refused():
    with pytest.raises(ValueError, match="frames="):
        load_official_encoder(FIXTURES / "vjepa_checkpoint.pt", heads=2, frames=16)


def test_a_clip_that_the_tubelet_does_not_divide_is_refused():
    encoder = load_official_encoder(FIXTURES / "vjepa2_checkpoint.pt", heads=2, frames=4)
    with pytest.raises(ValueError, match="tubelet size 2"):
        encoder(torch.zeros(1, 3, 3, 32, 32))
