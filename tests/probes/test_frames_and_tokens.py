"""Token tables of images and clips, and image encoders on clips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.features import RawPixels, extract
from jepa.probes.frames import FrameByFrame, MiddleFrame

SIZES = {"image_size": 8, "patch_size": 4, "channels": 1, "dim": 12, "depth": 2, "heads": 2}


def frozen(**more):
    torch.manual_seed(0)
    return FrozenEncoder(VisionTransformer(**SIZES, **more), mean=(0.3,), std=(0.2,))


def clips(n=5, frames=4):
    draw = seeds.generator(0, "clips")
    return torch.randint(0, 256, (n, 1, frames, 8, 8), dtype=torch.uint8, generator=draw)


def batches(images):
    return list(zip(images.split(2), torch.arange(len(images)).split(2), strict=True))


@pytest.mark.parametrize("cached", [False, True])
def test_tokens_are_the_final_layer_in_half_precision(tmp_path, cached):
    for encoder, images in (
        (frozen(), clips()[:, :, 0]),
        (frozen(frames=4, tubelet_size=2), clips()),
    ):
        table = extract(
            encoder, batches(images), ("last", "tokens"),
            cache=tmp_path if cached else None, data=f"{images.ndim}",
        )  # fmt: skip
        truth = encoder(images)
        tokens = table.features["tokens"]
        assert tokens.dtype == np.float16
        assert tokens.shape == truth.shape
        np.testing.assert_allclose(tokens, truth.numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(table.features["last"], truth.mean(1).numpy(), atol=1e-6)
        assert isinstance(tokens, np.memmap) == cached


class Batch(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor
    unreadable: list[str]
    rows: torch.Tensor


@pytest.mark.parametrize("cached", [False, True])
def test_rows_tell_where_in_the_set_each_row_came_from(tmp_path, cached):
    rows = torch.tensor([0, 0, 2, 2, 7])
    parts = zip(clips().split(2), rows.split(2), strict=True)
    loader = [Batch(x, r % 2, [], r) for x, r in parts]
    where = {"cache": tmp_path if cached else None, "data": "d"}
    table = extract(RawPixels(), loader, ("last",), **where)
    np.testing.assert_array_equal(table.rows, rows)
    np.testing.assert_array_equal(table.labels, rows % 2)
    assert list(table.features) == ["last"]
    assert extract(RawPixels(), batches(clips()), ("last",)).rows is None


def test_what_half_precision_cannot_hold_is_refused():
    encoder = frozen()
    encoder.encoder.norm.bias.data[0] = 1e5
    with pytest.raises(ValueError, match="do not fit into float16"):
        extract(encoder, batches(clips()[:, :, 0]), ("tokens",))


def test_frame_by_frame_is_every_frame_alone():
    image_encoder, x = frozen(), clips()
    layers = FrameByFrame(image_encoder).layers(x, ("blocks.1", "norm"))
    alone = torch.cat([image_encoder(x[:, :, t]) for t in range(4)], dim=1)
    torch.testing.assert_close(layers["norm"], alone)
    assert layers["blocks.1"].shape == alone.shape == (5, 16, 12)
    table = extract(FrameByFrame(image_encoder), batches(x), ("last", "tokens"))
    np.testing.assert_allclose(table.features["last"], alone.mean(1).numpy(), atol=1e-6)


@pytest.mark.parametrize("way", [FrameByFrame, MiddleFrame])
def test_a_batch_without_clips_has_no_tokens(way):
    tokens = way(frozen()).layers(clips()[:0], ("norm",))["norm"]
    assert tokens.shape == (0, 16 if way is FrameByFrame else 4, 12)


def test_the_middle_frame_is_one_image():
    image_encoder, x = frozen(), clips()
    tokens = MiddleFrame(image_encoder).layers(x, ("norm",))["norm"]
    torch.testing.assert_close(tokens, image_encoder(x[:, :, 2]))


def test_each_way_has_its_own_tables():
    image_encoder = frozen()
    ways = (image_encoder, FrameByFrame(image_encoder), MiddleFrame(image_encoder))
    assert len({way.fingerprint() for way in ways}) == 3
    assert len({way.name for way in ways}) == 3


def test_raw_pixels_take_clips():
    x = clips()
    table = extract(RawPixels(), batches(x), ("last", "tokens"))
    np.testing.assert_allclose(table.features["last"], x.flatten(1).numpy() / np.float32(255))
    assert table.features["tokens"].shape == (5, 1, 256)
