"""Encoder, predictor and target against plain computations."""

import math
import subprocess
import sys

import jaxtyping
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from jepa.blocks import added
from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.encoder import VisionTransformer, vit_base, vit_huge, vit_large, vit_small, vit_tiny
from jepa.frozen import FrozenEncoder
from jepa.model import JEPA
from jepa.patches import PatchEmbed, take
from jepa.positions import sincos_2d
from jepa.predictor import Predictor
from jepa.probes.features import poolings_of, random_encoder
from jepa.shapes import Masks
from jepa.target import EMATarget, ema_update
from jepa.timm_encoder import TimmEncoder


def small(**changes):
    sizes = dict(image_size=32, patch_size=8, channels=3, dim=32, depth=3, heads=2)
    return VisionTransformer(**{**sizes, **changes})


def test_a_change_of_fewer_digits_is_added_as_torch_adds_it():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=draw, requires_grad=True)
    change = torch.randn(2, 3, 4, generator=draw).bfloat16().requires_grad_()
    gradient = torch.randn(2, 3, 4, generator=draw)
    sums = [x + change, added(x, change)]
    gradients = [torch.autograd.grad(total, (x, change), gradient) for total in sums]
    for torchs, ours in zip((sums[0], *gradients[0]), (sums[1], *gradients[1]), strict=True):
        assert ours.dtype == torchs.dtype
        assert torch.equal(ours, torchs)


def test_patch_embedding_is_the_convolution():
    embed = PatchEmbed(patch_size=4, channels=3, dim=16).double()
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    weight = embed.proj.weight.unflatten(1, (3, 4, 4))
    conv = F.conv2d(images, weight, embed.proj.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(images), conv)


def test_positions_follow_the_formula_one_by_one():
    table = sincos_2d(16, (3, 5), (3, 5))
    for row in range(3):
        for column in range(5):
            expected = [
                function(place / 10000 ** (i / 4))
                for place in (column, row)
                for function in (math.sin, math.cos)
                for i in range(4)
            ]
            torch.testing.assert_close(table[row * 5 + column], torch.tensor(expected))


def test_positions_of_a_finer_grid_cover_the_same_picture():
    fine, native = sincos_2d(32, (28, 14), (14, 14)), sincos_2d(32, (14, 14), (14, 14))
    middle = sincos_2d(32, (42, 14), (14, 14)).reshape(42, 14, 32)[1::3]
    torch.testing.assert_close(middle, native.reshape(14, 14, 32))
    assert fine.shape == (28 * 14, 32)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (24, 40), (8, 8)], ids=str)
def test_any_size_that_the_patch_divides(size):
    encoder = small()
    images = torch.randn(2, 3, *size)
    assert encoder(images).shape == (2, size[0] * size[1] // 64, 32)


def test_other_sizes_and_channels_are_refused_with_the_nearest_that_fit():
    with pytest.raises(ValueError, match="resize or crop to 32x40"):
        small()(torch.randn(1, 3, 33, 45))
    with pytest.raises(ValueError, match="expected 3 channels"):
        small()(torch.randn(1, 1, 32, 32))


def test_kept_tokens_see_only_each_other():
    encoder, images = small(), torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[0, 3, 7], [1, 2, 15]])
    before = encoder(images, keep)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, keep, False)
    noise = hidden.reshape(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(encoder(images + 100 * noise, keep), before)
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encoder(images, everything), encoder(images))


def test_named_layers_end_in_the_output_and_unknown_ones_are_refused(monkeypatch):
    encoder, images = small(), torch.randn(1, 3, 32, 32)
    layers = encoder.layers(images, encoder.layer_names)
    torch.testing.assert_close(layers["norm"], encoder(images))
    torch.testing.assert_close(encoder.norm(layers["blocks.2"]), layers["norm"])
    with pytest.raises(ValueError, match=r"blocks\.9"):
        encoder.layers(images, ["blocks.9"])
    monkeypatch.setattr(encoder.blocks[1], "forward", None)  # what is not asked is not computed
    first = encoder.layers(images, ["blocks.0"])["blocks.0"]
    assert torch.equal(first, layers["blocks.0"])


def test_the_same_network_as_timm():
    """An independent implementation, loaded with our weights, gives the same latents."""
    ours = small(dim=48, heads=3)
    theirs = timm.models.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=3,
        num_heads=3,
        class_token=False,
        global_pool="",
        num_classes=0,
        qkv_bias=True,
        norm_layer=lambda d, **where: nn.LayerNorm(d, eps=1e-6, **where),
    )
    weights = ours.state_dict()
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].unflatten(1, (3, 8, 8))
    weights["pos_embed"] = sincos_2d(48, (4, 4), (4, 4))[None]
    theirs.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.eval()(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("build", "millions"),
    [(vit_tiny, 5.5), (vit_small, 21.6), (vit_base, 85.6), (vit_large, 303.1), (vit_huge, 630.4)],
)
def test_sizes_have_the_published_parameter_counts(build, millions):
    with torch.device("meta"):
        encoder = build()
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_residual_branches_are_scaled_by_depth_after_the_draw():
    torch.manual_seed(0)
    encoder = small(dim=128, heads=2, depth=8)
    for layer, block in enumerate(encoder.blocks, start=1):
        assert block.mlp.fc2.weight.std().item() == pytest.approx(
            1 / math.sqrt(4 * 128 * 2 * layer), rel=0.05
        )


def test_predictor_treats_each_target_block_alone_and_reads_positions():
    torch.manual_seed(0)
    predictor = Predictor(encoder_dim=32, native_grid=(4, 4), dim=24, depth=2, heads=2)
    context, where = torch.randn(2, 5, 32), torch.randperm(16)[:5].expand(2, -1)
    targets = torch.randint(0, 16, (2, 3, 4))
    together = predictor(context, where, targets, (4, 4))
    for block in range(3):
        alone = predictor(context, where, targets[:, block : block + 1], (4, 4))
        torch.testing.assert_close(together[:, block : block + 1], alone)
    shuffled = torch.tensor([3, 0, 4, 1, 2])
    again = predictor(context[:, shuffled], where[:, shuffled], targets, (4, 4))
    torch.testing.assert_close(together, again, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together, predictor(context, (where + 1) % 16, targets, (4, 4)))


@pytest.mark.parametrize("positions", ["sincos", "rope", "rope_legacy"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64], ids=str)
def test_encoder_and_predictor_keep_the_precision_of_their_weights(positions, precision):
    encoder = small(positions=positions)
    predictor = Predictor(32, (4, 4), dim=24, depth=1, heads=2, positions=positions)
    images, keep = torch.rand(2, 3, 32, 32), torch.tensor([[0, 3, 7], [1, 2, 15]])
    expected = encoder(images, keep)
    encoder, predictor = encoder.to(precision), predictor.to(precision)
    whole, context = encoder(images.to(precision)), encoder(images.to(precision), keep)
    foreseen = predictor(context, keep, keep[:, None], (4, 4))
    assert whole.dtype == context.dtype == foreseen.dtype == precision
    torch.testing.assert_close(context.float(), expected, atol=0.1, rtol=0)


def test_under_autocast_positions_are_added_in_full_precision():
    encoder, images = small(), torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        tokens, _ = encoder._embed(images, None)
    assert tokens.dtype == torch.float32


def test_a_frozen_encoder_in_bfloat16_takes_bytes():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    frozen = FrozenEncoder(small(), mean=(0.5,) * 3, std=(0.3,) * 3)
    expected = frozen(images)
    latents = frozen.bfloat16()(images)
    assert latents.dtype == torch.bfloat16
    torch.testing.assert_close(latents.float(), expected, atol=0.1, rtol=0)


# in a process of its own: here beartype would refuse them before
MISSPELT = """
from jepa.encoder import VisionTransformer
from jepa.masks_video import TubeBlockMasks
from jepa.model import JEPA
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.predictor import Predictor

sizes = dict(dim=24, depth=1, heads=2)
for misspelt in (
    lambda: VisionTransformer(positions="RoPE", **sizes),
    lambda: Predictor(24, (4, 4), positions="RoPE", **sizes),
    lambda: ActionConditionedPredictor(24, (4, 4), positions="RoPE", **sizes),
    lambda: TubeBlockMasks(truncation="tube"),
    lambda: JEPA(encoder=None, predictor=None, distance="huber"),
):
    try:
        misspelt()
    except ValueError as error:
        print(error)
"""


def test_misspelt_choices_are_refused_with_those_that_there_are():
    done = subprocess.run([sys.executable, "-c", MISSPELT], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "positions is one of ['sincos', 'rope', 'rope_legacy']; got 'RoPE'",
        "positions is one of ['sincos', 'rope', 'rope_legacy']; got 'RoPE'",
        "positions is one of ['rope', 'rope_legacy']; got 'RoPE'",
        "truncation is one of ['random', 'tubes', 'first']; got 'tube'",
        "distance is one of ['smooth_l1', 'l1', 'mse']; got 'huber'",
    ], done.stderr


def test_take_is_indexing():
    tokens, index = torch.randn(3, 7, 5), torch.randint(0, 7, (3, 2, 4))
    expected = torch.stack([tokens[b][index[b]] for b in range(3)])
    assert torch.equal(take(tokens, index), expected)


def test_masks_of_fewer_samples_than_there_are_images_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no such checks
    predictor = Predictor(encoder_dim=32, native_grid=(4, 4), dim=24, depth=1, heads=2)
    masks = Masks(torch.tensor([[0, 1, 2]]), torch.tensor([[[5, 6], [9, 10]]]))
    with pytest.raises(ValueError, match=r"each of 4 samples, got 1: draw masks for all"):
        JEPA(encoder=small(), predictor=predictor)(torch.randn(4, 3, 32, 32), masks)
    rotary = small(positions="rope")
    with pytest.raises(ValueError, match="each of 4 samples, got 1"):
        rotary(torch.randn(4, 3, 32, 32), masks.context)


def test_target_follows_as_a_weighted_mean_in_float64_and_copies_buffers():
    torch.manual_seed(0)
    slow, fast = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    nn.init.normal_(slow.weight)
    nn.init.normal_(fast.weight)
    fast.running_mean.fill_(3.0)
    fast.num_batches_tracked.fill_(7)
    expected = 0.9 * slow.weight.double() + 0.1 * fast.weight.double()
    ema_update(slow, fast, 0.9)
    torch.testing.assert_close(slow.weight.double(), expected, atol=1e-7, rtol=1e-6)
    assert slow.running_mean.eq(3).all()
    assert slow.num_batches_tracked == 7
    assert slow.num_batches_tracked.dtype == torch.int64


def test_gradients_reach_encoder_and_predictor_but_not_the_target():
    encoder = small()
    predictor = Predictor(encoder_dim=32, native_grid=(4, 4), dim=24, depth=1, heads=2)
    model = JEPA(encoder=encoder, predictor=predictor)
    masks = Masks(torch.tensor([[0, 1, 2]]), torch.tensor([[[5, 6], [9, 10]]]))
    model(torch.randn(1, 3, 32, 32), masks).losses["prediction"].backward()
    assert all(p.grad is not None for p in (*encoder.parameters(), *predictor.parameters()))
    assert all(p.grad is None and not p.requires_grad for p in model.target.parameters())
    assert not model.train().target.training


def test_target_latents_are_layer_normalised_without_affine():
    target = EMATarget(small())(torch.randn(2, 3, 32, 32)).double()
    assert target.mean(dim=-1).abs().max() < 1e-5
    torch.testing.assert_close(
        target.var(dim=-1, correction=0), torch.ones(2, 16).double(), atol=1e-3, rtol=0
    )


def test_an_encoder_survives_the_disk(tmp_path):
    frozen = FrozenEncoder(small(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), name="mine")
    path = save_encoder(tmp_path / "encoder.safetensors", frozen)
    for again in (load_frozen_encoder(path), load_frozen_encoder(tmp_path)):
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        assert torch.equal(again(images), frozen(images))
        assert again.fingerprint() == frozen.fingerprint()
        assert again.name == "mine"
    other = FrozenEncoder(small(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert other.fingerprint() != frozen.fingerprint()


@pytest.mark.parametrize("size", [(2, 1, 32, 32), (2, 4, 32, 32), (2, 32, 32, 3)], ids=str)
def test_images_of_other_channels_than_there_are_means_are_refused(size):
    frozen = FrozenEncoder(small(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\] .* of C = 3 channels, .* got \(2, "):
        frozen(torch.rand(size))
    with pytest.raises(ValueError, match="expected 3 channels"):  # one mean is for any number
        FrozenEncoder(small())(torch.rand(2, 1, 32, 32))


def test_a_missing_or_foreign_encoder_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="has the pretraining ended"):
        load_frozen_encoder(tmp_path)
    with pytest.raises(ValueError, match="timm"):
        load_frozen_encoder("vit_of_nobody")
    (tmp_path / "encoder.safetensors").write_bytes(b"not a safetensors file at all")
    with pytest.raises(ValueError, match="damaged"):
        load_frozen_encoder(tmp_path)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "resnet10t", "swin_tiny_patch4_window7_224"]
)
def test_timm_models_give_tokens_by_layer(name):
    encoder = load_frozen_encoder(name, pretrained=False)
    images = torch.rand(1, 3, 224, 224)
    layers = encoder.layers(images, encoder.layer_names)
    h, w = encoder.grid(images)
    assert layers["norm"].shape == encoder(images).shape == (1, h * w, encoder.dim)
    assert set(layers) == set(encoder.layer_names)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "vit_relpos_small_patch16_224"])
def test_timm_models_for_one_image_size_are_made_too(name):
    with torch.device("meta"):
        encoder = TimmEncoder(name, pretrained=False)
    assert encoder.channels == 3


def test_timm_models_have_no_class_token_among_their_tokens_and_a_grid_only_where_it_fits():
    encoder = load_frozen_encoder("resnet10t", pretrained=False)
    odd = torch.rand(1, 3, 100, 64)
    with pytest.raises(ValueError, match="resize or crop to 96x64"):
        encoder.grid(odd)
    assert encoder(odd).shape == (1, 4 * 2, encoder.dim), "padded; to be pooled"
    with torch.device("meta"):
        pixels = torch.rand(1, 3, 224, 224)
        classed = TimmEncoder("volo_d1_224", pretrained=False)  # does not tell of its class token
        pooled = TimmEncoder("pit_ti_224", pretrained=False)
        branched = TimmEncoder("coat_tiny", pretrained=False)
    assert classed(pixels).shape == (1, 14 * 14, 384)
    with pytest.raises(ValueError, match="pit_ti_224 does not end in one tensor of patch tokens"):
        pooled(pixels)
    with pytest.raises(ValueError, match="coat_tiny does not end in one tensor of patch tokens"):
        branched.layers(pixels, ["norm"])


def test_an_option_that_a_timm_model_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"cannot make the timm model 'test_vit'.*'lenght'"):
        TimmEncoder("test_vit", pretrained=False, options={"lenght": 3})


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_all_layers_of_a_timm_model_come_out_of_one_pass(name):
    encoder = TimmEncoder(name, pretrained=False).eval()
    first = next(m for m in encoder.model.modules() if isinstance(m, torch.nn.Conv2d))
    passes = []
    first.register_forward_hook(lambda *_: passes.append(1))
    images = torch.randn(2, *encoder.model.pretrained_cfg["input_size"])
    layers = encoder.layers(images, encoder.layer_names)
    assert len(passes) == 1
    assert torch.equal(layers["norm"], encoder(images))


def test_layers_of_a_timm_model_are_the_same_in_whatever_order_they_are_asked():
    encoder, images = TimmEncoder("test_vit", pretrained=False).eval(), torch.rand(1, 3, 160, 160)
    ascending = encoder.layers(images, ["blocks.0", "blocks.1", "norm"])
    asked = ["norm", "blocks.1", "blocks.0", "blocks.1"]
    found = encoder.layers(images, asked)
    assert list(found) == ["norm", "blocks.1", "blocks.0"]
    assert all(torch.equal(found[name], ascending[name]) for name in found)


def test_the_norm_of_a_timm_model_is_its_output_whatever_is_asked_beside_it():
    """hiera would stop at the last level that is asked."""
    encoder, images = TimmEncoder("hiera_tiny_224", pretrained=False), torch.rand(1, 3, 224, 224)
    layers = encoder.eval().layers(images, ["blocks.0", "norm"])
    assert torch.equal(layers["norm"], encoder(images))


def test_the_class_token_of_a_timm_model_is_a_layer():
    encoder = load_frozen_encoder("vit_tiny_patch16_224", pretrained=False)
    images = torch.rand(2, 3, 64, 64)
    whole = encoder.encoder.model.forward_features(encoder.normalize(images))
    layers = encoder.layers(images, ("norm", "cls"))
    assert torch.equal(torch.cat([layers["cls"], layers["norm"]], dim=1), whole)
    assert poolings_of(encoder)["cls"] == ("cls",)
    assert poolings_of(encoder)["last4"] == tuple(f"blocks.{i}" for i in range(8, 12))
    assert "cls" not in load_frozen_encoder("resnet10t", pretrained=False).layer_names


def test_a_timm_model_of_other_channels_says_so_and_has_one_mean_for_each():
    grey = TimmEncoder("test_resnet", pretrained=False, options={"in_chans": 1})
    colour = TimmEncoder("test_resnet", pretrained=False)
    assert (grey.channels, colour.channels) == (1, 3)
    assert grey.mean == pytest.approx((sum(colour.mean) / 3,))
    assert grey.std == pytest.approx((sum(colour.std) / 3,))
    five = TimmEncoder("test_resnet", pretrained=False, options={"in_chans": 5})
    assert five.mean == grey.mean * 5


def test_random_weights_of_a_timm_model_are_not_fetched():
    encoder = load_frozen_encoder("resnet10t", pretrained=False)
    fresh = random_encoder(encoder)
    assert fresh.fingerprint() != encoder.fingerprint()
    assert fresh.normalize.mean == encoder.normalize.mean
