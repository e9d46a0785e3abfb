"""Equal to the reference implementation on its own layout, to 1e-5 in float32."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa.checkpoint import load_frozen_encoder
from jepa.official import load_official, load_official_encoder
from jepa.shapes import Masks

FIXTURES = Path(__file__).parent.parent / "fixtures"
CHECKPOINT = FIXTURES / "ijepa_checkpoint.pt"


@pytest.fixture(scope="module")
def expected():
    return load_file(FIXTURES / "ijepa_io.safetensors")


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_encoder_masked_encoder_predictor_target_and_loss(expected):
    model = load_official(CHECKPOINT, heads=2)
    images, masks = expected["images"], Masks(expected["context_idx"], expected["target_idx"])
    close(model.encoder(images), expected["encoder_full"])
    close(model.encoder(images, masks.context), expected["encoder_context"])
    output = model(images, masks)
    close(output.groups[0].predicted, expected["predicted"])
    close(output.groups[0].target, expected["target_normed"])
    close(output.losses["prediction"], expected["loss"])


def test_the_frozen_door_takes_the_target_encoder_and_imagenet_pixels(expected):
    frozen = load_frozen_encoder(CHECKPOINT, heads=2)
    target = load_official(CHECKPOINT, heads=2).target.encoder
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels - mean[:, None, None]) / std[:, None, None]
    close(frozen(pixels), target(normalised).detach())
    levels = (pixels * 255).round()
    close(frozen(levels.to(torch.uint8)), frozen(levels / 255))
    close(frozen(levels.double() / 255), frozen(levels / 255))  # as numpy divides


def damaged(tmp_path, change):
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    change(checkpoint["target_encoder"])
    path = tmp_path / "damaged.pth.tar"
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("module.norm.bias"), "missing 'norm.bias'"),
        (lambda w: w.update({"module.extra": torch.zeros(1)}), "unexpected 'extra'"),
        (lambda w: w.update({"module.norm.bias": torch.zeros(3)}), r"is \(3,\), expected \(64,\)"),
        (lambda w: w["module.pos_embed"].mul_(-1), "sine-cosine"),
    ],
    ids=["missing", "unexpected", "shape", "positions"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_key(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_official_encoder(damaged(tmp_path, change), heads=2)


def test_unknown_number_of_heads_is_asked_for():
    with pytest.raises(ValueError, match="pass heads="):
        load_official_encoder(CHECKPOINT)


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "stranger.pt"
    torch.save({"encoder": Payload()}, path)
    with pytest.raises(ValueError, match="could run code"):
        load_frozen_encoder(path)
    assert "never run" not in capsys.readouterr().out


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "half.pt"
    path.write_bytes(CHECKPOINT.read_bytes()[:50_000])
    with pytest.raises(ValueError, match="damaged"):
        load_frozen_encoder(path)
