"""Our encoders as transformers' and timm's models, and back: equal features; damage is refused."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoVideoProcessor, IJepaModel, VJEPA2Model

from jepa.blocks import ratio_of
from jepa.checkpoint import from_pretrained, load_frozen_encoder, save_encoder, save_pretrained
from jepa.encoder import VisionTransformer
from jepa.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder
from jepa.official import load_official
from jepa.positions import sincos
from jepa.timm_layout import to_timm, write_timm
from jepa.transformers_read import read_transformers
from jepa.transformers_write import write_transformers

FIXTURES = Path(__file__).parent.parent / "fixtures"
PIXELS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def ijepa():
    io = load_file(FIXTURES / "ijepa_io.safetensors")
    encoder = load_official(FIXTURES / "ijepa_checkpoint.pt", heads=2).encoder
    return FrozenEncoder(encoder, name="ijepa", **PIXELS), io


@pytest.fixture(scope="module")
def vjepa2():
    io = load_file(FIXTURES / "vjepa2_io.safetensors")
    sizes = {"heads": 2, "predictor_heads": 2, "frames": 4, "image_size": 32}
    model = load_official(FIXTURES / "vjepa2_checkpoint.pt", **sizes)
    return FrozenEncoder(model.encoder, name="vjepa2", **PIXELS), model.predictor.eval(), io


def loaded(cls, folder):
    """Their model, with not a key missing or left over."""
    model, told = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@torch.no_grad()
def test_ijepa_model_gives_the_reference_features_and_comes_back(ijepa, tmp_path):
    frozen, io = ijepa
    model = loaded(IJepaModel, write_transformers(tmp_path / "ours", frozen))
    close(model(io["images"]).last_hidden_state, io["encoder_full"])
    model.save_pretrained(tmp_path / "theirs")  # as published
    (tmp_path / "class").mkdir()  # as the class of transformers 5 names its attributes
    save_file(model.state_dict(), tmp_path / "class" / "model.safetensors")
    (tmp_path / "class" / "config.json").write_bytes(
        (tmp_path / "theirs" / "config.json").read_bytes()
    )
    for folder in ("ours", "theirs", "class"):
        found = read_transformers(tmp_path / folder)
        assert not found.table.of("missing", "unexpected")
        assert found.encoder.fingerprint() == frozen.fingerprint()
    assert load_frozen_encoder(tmp_path / "theirs").fingerprint() == frozen.fingerprint()


@torch.no_grad()
def test_vjepa2_model_gives_the_reference_features_and_predictions(vjepa2, tmp_path):
    frozen, predictor, io = vjepa2
    model = loaded(VJEPA2Model, write_transformers(tmp_path / "ours", frozen, predictor=predictor))
    frames_first = io["video"].transpose(1, 2)
    context, target = io["context_idx_1"], io["target_idx_1"]
    out = model(frames_first, context_mask=[context], target_mask=[target])
    close(out.last_hidden_state, io["encoder_full"])
    other = model(frames_first[:, :2], skip_predictor=True).last_hidden_state
    close(other, io["encoder_full_other_length"])
    seen = out.masked_hidden_state  # of the whole clip: theirs does not mask before encoding
    grid = frozen.encoder.native_grid
    ours = predictor(seen, context, target[:, None], grid, group=1)[:, 0]  # theirs has no choice
    close(out.predictor_output.last_hidden_state, ours)
    model.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        found = read_transformers(tmp_path / folder)
        assert found.encoder.fingerprint() == frozen.fingerprint()
        again = found.predictor(seen, context, target[:, None], grid, group=1)[:, 0]
        assert torch.equal(again, ours)


@torch.no_grad()
def test_without_a_predictor_theirs_is_written_with_zeros_and_nothing_is_random(vjepa2, tmp_path):
    frozen, _, io = vjepa2
    out = loaded(VJEPA2Model, write_transformers(tmp_path, frozen))(io["video"].transpose(1, 2))
    close(out.last_hidden_state, io["encoder_full"])
    assert out.predictor_output.last_hidden_state.abs().max() == 0
    assert read_transformers(tmp_path).predictor is None


@torch.no_grad()
@pytest.mark.parametrize("ratio", [2.67, 8 / 3, 4.0])
def test_hidden_widths_are_theirs_where_the_ratio_does_not_give_a_whole_number(ratio, tmp_path):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "dim": 64, "depth": 1, "heads": 2}
    clips = {"frames": 4, "tubelet_size": 2, "positions": "rope_legacy"}
    images = FrozenEncoder(VisionTransformer(mlp_ratio=ratio, **sizes))
    theirs = loaded(IJepaModel, write_transformers(tmp_path / "i", images))
    pixels = torch.rand(2, 3, 16, 16)
    close(theirs(pixels).last_hidden_state, images(pixels))
    video = FrozenEncoder(VisionTransformer(mlp_ratio=ratio, **sizes, **clips))
    theirs = loaded(VJEPA2Model, write_transformers(tmp_path / "v", video))
    pixels = torch.rand(2, 3, 4, 16, 16)
    close(theirs(pixels.transpose(1, 2), skip_predictor=True).last_hidden_state, video(pixels))


def test_every_hidden_width_that_a_file_may_have_is_read(tmp_path):
    for dim in (24, 96, 176, 384, 1408):
        assert all(int(dim * ratio_of(h, dim)) == h for h in range(4, 6 * dim, 4))
    dim, hidden = 176, 960  # 176 * (960 / 176) is less than 960
    sizes = {"image_size": 16, "patch_size": 8, "dim": dim, "depth": 1, "heads": 2}
    frozen = FrozenEncoder(VisionTransformer(mlp_ratio=(hidden + 0.5) / dim, **sizes), **PIXELS)
    theirs = write_transformers(tmp_path / "theirs", frozen)
    assert read_transformers(theirs).encoder.encoder.blocks[0].mlp.fc1.out_features == hidden
    state = frozen.encoder.state_dict() | {"pos_embed": sincos(dim, (2, 2), (2, 2))[None]}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unflatten(1, (3, 8, 8))
    torch.save({"target_encoder": state}, tmp_path / "official.pth.tar")
    pixels = torch.rand(2, 3, 16, 16)
    official = load_frozen_encoder(tmp_path / "official.pth.tar", heads=2)
    assert torch.equal(official(pixels), frozen(pixels))


def test_their_processors_normalise_as_we_do(ijepa, vjepa2, tmp_path):
    frozen = ijepa[0]
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    write_transformers(tmp_path / "i", frozen)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "i")(images=pixels, return_tensors="pt")
    close(frozen.normalize(pixels[None]), theirs["pixel_values"])
    write_transformers(tmp_path / "v", vjepa2[0])
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "v")
    clip = pixels[None].repeat(4, 1, 1, 1)
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    theirs = processor(clip, **options)["pixel_values_videos"][0]
    close(frozen.normalize(clip), theirs)


def test_positions_at_another_size_are_near_their_interpolation(ijepa, tmp_path):
    """Theirs interpolates the table, bicubically, ours computes it at the same places: away from
    the border, where theirs must guess, they differ by less than the interpolation's error."""
    frozen, _ = ijepa
    model = loaded(IJepaModel, write_transformers(tmp_path, frozen))
    embedded = torch.zeros(1, 64, 64)
    theirs = model.embeddings.interpolate_pos_encoding(embedded, 64, 64).detach()[0]
    ours = sincos(64, (8, 8), (4, 4))
    inside = torch.ones(8, 8, dtype=torch.bool)
    inside[[0, 1, 6, 7]] = False
    inside[:, [0, 1, 6, 7]] = False
    difference = (theirs - ours).abs()[inside.flatten()].max()
    nearest = sincos(64, (4, 4), (4, 4)).view(4, 4, 64).repeat_interleave(2, 0)
    crude = (nearest.repeat_interleave(2, 1).flatten(0, 1) - ours).abs()[inside.flatten()].max()
    assert difference < 0.05 < crude


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_gives_the_same_features_and_comes_back(channels, tmp_path):
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "dim": 48, "depth": 2, "heads": 3, "mlp_ratio": 3.0}
    encoder = VisionTransformer(image_size=28, channels=channels, **sizes)
    frozen = FrozenEncoder(encoder, mean=(0.3,) * channels, std=(0.4,) * channels)
    pixels = torch.rand(2, channels, 28, 28)
    write_timm(tmp_path / "timm", frozen)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert tuple(model.pretrained_cfg["mean"]) == (0.3,) * channels
    with torch.no_grad():
        close(model.forward_features(frozen.normalize(pixels)), frozen(pixels))
    for name in (tmp_path / "timm", f"local-dir:{tmp_path / 'timm'}"):
        back = load_frozen_encoder(name)
        assert isinstance(back.encoder, VisionTransformer)
        assert back.fingerprint() == frozen.fingerprint()


def test_the_official_checkpoint_as_timm_gives_the_reference_features(ijepa):
    frozen, io = ijepa
    with torch.no_grad():
        close(to_timm(frozen.encoder).forward_features(io["images"]), io["encoder_full"])


def test_any_other_timm_model_is_kept_as_it_is(tmp_path):
    """In a file of ours that needs no download: sizes, options and pixels are in its header."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, class_token=True, reg_tokens=2)
    folder = tmp_path / "timm"
    timm.models.save_for_hf(
        model, folder, model_args={"reg_tokens": 2, "num_classes": 0}, safe_serialization=True
    )
    frozen = load_frozen_encoder(f"local-dir:{folder}")
    pixels = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        whole = model.eval().forward_features(frozen.normalize(pixels))
    close(frozen(pixels), whole[:, 3:])
    save_encoder(tmp_path / "encoder.safetensors", frozen)
    again = load_frozen_encoder(tmp_path / "encoder.safetensors")
    assert torch.equal(again(pixels), frozen(pixels))
    assert again.fingerprint() == frozen.fingerprint()


def test_save_pretrained_and_from_pretrained(ijepa, tmp_path):
    frozen, _ = ijepa
    save_pretrained(frozen, tmp_path, licence="cc-by-nc-4.0")
    assert from_pretrained(tmp_path).fingerprint() == frozen.fingerprint()
    assert "license: cc-by-nc-4.0" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["config"] == frozen.encoder.config


def test_files_are_as_readable_as_any_new_one(ijepa, tmp_path):
    (tmp_path / "new").touch()
    save_encoder(tmp_path / "encoder.safetensors", ijepa[0])
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_positions_that_the_others_do_not_have_are_refused(tmp_path):
    sizes = {"image_size": 16, "patch_size": 8, "dim": 24, "depth": 1, "heads": 2}
    rotary = FrozenEncoder(VisionTransformer(frames=4, tubelet_size=2, positions="rope", **sizes))
    with pytest.raises(ValueError, match="no class for this encoder"):
        write_transformers(tmp_path, rotary)
    with pytest.raises(ValueError, match="timm's ViTs take images"):
        to_timm(rotary.encoder)


def edited(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def reweighted(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


IJEPA_QUERY = "encoder.layer.1.attention.attention.query.weight"
FAULTS = {
    "key removed": (lambda w: w.pop(IJEPA_QUERY), rf"missing '{IJEPA_QUERY}'"),
    "key added": (lambda w: w.update(extra=torch.zeros(1)), "unexpected 'extra'"),
    "shape": (
        lambda w: w.update({IJEPA_QUERY: torch.zeros(64, 32)}),
        r"query\.weight' is \(64, 32\), expected \(64, 64\)",
    ),
    "positions": (lambda w: w["embeddings.position_embeddings"].mul_(-1), "sine-cosine"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_is_refused_by_name(fault, ijepa, tmp_path):
    change, message = FAULTS[fault]
    reweighted(write_transformers(tmp_path, ijepa[0]), change)
    with pytest.raises(ValueError, match=message):
        load_frozen_encoder(tmp_path)


def test_a_truncated_file_a_pickle_with_code_and_another_model_are_refused(vjepa2, tmp_path):
    folder = write_transformers(tmp_path, vjepa2[0], predictor=vjepa2[1])
    reweighted(folder, lambda w: w.pop("predictor.layer.0.norm1.bias"))
    with pytest.raises(ValueError, match=r"missing 'predictor\.layer\.0\.norm1\.bias'"):
        load_frozen_encoder(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="is damaged"):
        load_frozen_encoder(folder)
    weights.unlink()

    class Payload:
        def __reduce__(self):
            return (print, ("never",))

    torch.save({"encoder.layernorm.bias": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could run code"):
        load_frozen_encoder(folder)
    edited(folder, layer_norm_eps=1e-12)
    with pytest.raises(ValueError, match="layer_norm_eps is 1e-12"):
        load_frozen_encoder(folder)
    edited(folder, model_type="dinov2")
    with pytest.raises(ValueError, match="transformers' 'dinov2'"):
        load_frozen_encoder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a"}}')
    edited(folder, model_type="vjepa2", layer_norm_eps=1e-6)
    with pytest.raises(ValueError, match="outside of its folder"):
        load_frozen_encoder(folder)
