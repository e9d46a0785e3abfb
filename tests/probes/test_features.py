"""Feature tables: right, reused, and never half-written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.features import RawPixels, extract, poolings_of, random_encoder


def tiny(depth=6, seed=0):
    torch.manual_seed(seed)
    vit = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=depth, heads=2)
    return FrozenEncoder(vit, mean=(0.3,), std=(0.2,))


def batches(n=11, size=4):
    images = torch.randint(
        0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=seeds.generator(0, "images")
    )
    return list(zip(images.split(size), (torch.arange(n) % 3).split(size), strict=True))


def forbidden():
    raise AssertionError("the table should have been reused")
    yield


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("depth", [2, 6])
def test_features_are_the_token_means_of_the_layers(tmp_path, cached, depth):
    encoder, data = tiny(depth), batches()
    table = extract(encoder, data, cache=tmp_path if cached else None, data="d")
    images = torch.cat([b[0] for b in data]).float() / 255
    x, _ = encoder.encoder._embed((images - 0.3) / 0.2, None)
    outputs = []
    for block in encoder.encoder.blocks:
        x = block(x)
        outputs.append(x.mean(1))
    last = encoder.encoder.norm(x).mean(1)
    np.testing.assert_allclose(table.features["last"], last.numpy(), atol=1e-6)
    np.testing.assert_allclose(
        table.features["last4"], torch.cat(outputs[-4:], 1).numpy(), atol=1e-6
    )
    np.testing.assert_array_equal(table.labels, np.arange(11) % 3)
    assert table.features["last"].dtype == np.float32
    assert table.labels.dtype == np.int64


def test_a_table_is_reused_for_the_same_key_only(tmp_path):
    extract(tiny(), batches(), cache=tmp_path, data="d")
    again = extract(tiny(), forbidden(), cache=tmp_path, data="d")
    assert isinstance(again.features["last"], np.memmap)
    assert again.manifest["count"] == 11
    for encoder, data, poolings in (
        (tiny(seed=1), "d", ("last", "last4")),
        (tiny(), "other", ("last", "last4")),
        (tiny(), "d", ("last",)),
    ):
        with pytest.raises(AssertionError, match="reused"):
            extract(encoder, forbidden(), poolings, cache=tmp_path, data=data)


@pytest.mark.parametrize("cached", [False, True])
def test_progress_goes_to_the_end(tmp_path, capsys, cached):
    quiet = extract(tiny(), batches(), data="d")
    assert capsys.readouterr() == ("", "")
    told = extract(tiny(), batches(), cache=tmp_path if cached else None, data="d", progress=True)
    np.testing.assert_array_equal(told.features["last"], quiet.features["last"])
    out, err = capsys.readouterr()
    assert out == ""
    ended = err.split("\r")[-1]
    assert "features of" in ended
    assert ("3batch" if cached else " 3/3 ") in ended, (
        "3 batches; of an iterator no length is known"
    )


def test_a_crash_leaves_nothing_and_damage_is_repaired(tmp_path):
    def broken():
        yield batches()[0]
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        extract(tiny(), broken(), cache=tmp_path, data="d")
    assert list(tmp_path.iterdir()) == []
    whole = extract(tiny(), batches(), cache=tmp_path, data="d")
    truth = np.array(whole.features["last"])
    (file,) = tmp_path.glob("*/last.npy")
    file.write_bytes(file.read_bytes()[:-8])
    repaired = extract(tiny(), batches(), cache=tmp_path, data="d")
    np.testing.assert_array_equal(repaired.features["last"], truth)
    assert len(list(tmp_path.iterdir())) == 1


def test_bfloat16_is_close_and_another_table(tmp_path):
    full = extract(tiny(), batches(), cache=tmp_path, data="d")
    half = extract(tiny(), batches(), cache=tmp_path, data="d", precision="bfloat16")
    assert not np.array_equal(half.features["last"], full.features["last"])
    np.testing.assert_allclose(half.features["last"], full.features["last"], atol=0.05)


def test_raw_pixels_are_the_pixels():
    table = extract(RawPixels(), batches(), ("last",))
    images = torch.cat([b[0] for b in batches()])
    truth = images.flatten(1).numpy() / np.float32(255)
    np.testing.assert_allclose(table.features["last"], truth, rtol=1e-6)
    assert list(poolings_of(RawPixels())) == ["last"]
    with pytest.raises(ValueError, match="last4"):
        extract(RawPixels(), batches())


def test_a_random_encoder_has_fresh_weights_and_spares_the_generator():
    trained = tiny()
    before = torch.random.get_rng_state()
    one, two, other = random_encoder(trained), random_encoder(trained), random_encoder(trained, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.fingerprint() == two.fingerprint()
    assert len({e.fingerprint() for e in (trained, one, other)}) == 3
    assert one.encoder.config == trained.encoder.config
    assert one.normalize.mean == trained.normalize.mean
    with pytest.raises(ValueError, match="has no `config`"):
        random_encoder(FrozenEncoder(torch.nn.Linear(1, 1)))


def test_what_is_not_finite_is_refused():
    encoder = tiny()
    encoder.encoder.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        extract(encoder, batches())


def test_labels_are_whole_numbers():
    images, _ = batches(2, size=2)[0]
    table = extract(RawPixels(), [(images, torch.tensor([2.0, 0.0]))], ("last",))
    np.testing.assert_array_equal(table.labels, [2, 0])
    for labels in (torch.tensor([1.0, 0.3]), [float("nan"), 0.3]):
        with pytest.raises(ValueError, match=r"expected labels that are whole numbers.*Ridge"):
            extract(RawPixels(), [(images, labels)], ("last",))


def test_a_cached_table_needs_a_data_fingerprint(tmp_path):
    with pytest.raises(ValueError, match="data=<fingerprint>"):
        extract(tiny(), batches(), cache=tmp_path)


def test_grid4_averages_cells_in_place():
    encoder = FrozenEncoder(
        VisionTransformer(image_size=32, patch_size=4, channels=1, dim=12, depth=1, heads=2)
    )
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    table = extract(encoder, [(images, torch.zeros(3, dtype=torch.int64))], ("grid4",))
    tokens = encoder(images).reshape(3, 8, 8, 12).double().numpy()
    for y in range(4):
        for x in range(4):
            cell = tokens[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(axis=(1, 2))
            ours = table.features["grid4"].reshape(3, 12, 4, 4)[:, :, y, x]
            np.testing.assert_allclose(ours, cell, atol=1e-6)
