"""Images that were decoded once are those that are decoded each time."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
import torch
from PIL import Image

from jepa.datasets import decoded_images, folders
from jepa.datasets.datamodule import ImageDataModule
from jepa.datasets.images import open_images
from jepa.datasets.reading import TooManyUnreadableError
from jepa.datasets.transforms import eval_transform


@pytest.fixture
def folder(tmp_path):
    """150 photographs of two classes for training, of which one cannot be read."""
    random = np.random.default_rng(0)
    for split, count in (("train", 150), ("test", 10)):
        for i in range(count):
            (tmp_path / "images" / split / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (30 + i % 7, 36, 3), dtype=np.uint8)
            path = tmp_path / "images" / split / "ab"[i % 2] / f"{i:03d}.png"
            Image.fromarray(pixels).save(path)
    (tmp_path / "images" / "train" / "a" / "006.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.fixture
def decodings(monkeypatch):
    """The files that were decoded."""
    read, decode = [], folders.decode
    monkeypatch.setattr(folders, "decode", lambda path: read.append(path.name) or decode(path))
    return read


def data(folder, tmp_path, **options):
    given = {"image_size": 16, "batch_size": 8, "workers": 0, "crop_scale": (0.25, 1.0)}
    source = f"folder:{folder}"
    return ImageDataModule(source=source, decoded=tmp_path / "cache", **(given | options))


def test_each_image_is_decoded_once_to_what_it_is(folder, tmp_path, decodings):
    found, plain = data(folder, tmp_path).images("train"), open_images(f"folder:{folder}", "train")
    assert len(found) == 149
    assert found.size == (32, 32)  # 16 / sqrt(0.25)
    square = eval_transform(32, given=None, channels=(3, 3))
    rows = [i for i in range(150) if not plain.name(i).endswith("006.png")]
    for number, row in enumerate(rows):
        assert found.name(number) == plain.name(row)
        image, label = found[number]
        assert torch.equal(image, square(plain[row][0]))
        assert label == plain.labels[row]
    decodings.clear()
    module = data(folder, tmp_path)
    batch = next(iter(module.train_loader()))
    assert batch.images.shape == (8, 3, 16, 16)
    assert len(decodings) == 150  # the look for unreadable ones, and no more
    assert module.images("train").fingerprint == found.fingerprint
    assert data(folder, tmp_path, image_size=8).images("train").fingerprint != found.fingerprint


def test_a_random_crop_of_what_was_decoded_learns_from_the_same_files(folder, tmp_path):
    batches = [data(folder, tmp_path).train_loader().batches[3] for _ in range(2)]
    assert torch.equal(batches[0].images, batches[1].images)
    assert batches[0].images.float().std() > 20


def test_decoding_that_was_killed_goes_on(folder, tmp_path, decodings, monkeypatch):
    plain, cache = open_images(f"folder:{folder}", "train"), tmp_path / "cache"
    decode, calls = folders.decode, iter(range(100))

    def deadly(path):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return decode(path)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "decode", deadly)
        with pytest.raises(KeyboardInterrupt):
            decoded_images.decoded_images(plain, cache, 32)
    assert [path.suffixes for path in cache.glob("*.npy")] == [[".readable", ".npy"]]
    decodings.clear()
    found = decoded_images.decoded_images(plain, cache, 32)
    assert len(decodings) == 150 - 64  # one whole batch had been decoded
    whole = decoded_images.decoded_images(plain, tmp_path / "other", 32)
    assert torch.equal(found.images, whole.images)
    assert sorted(path.suffix for path in cache.iterdir()) == [".npy", ".npy"]


@pytest.mark.parametrize("calls", [1, 2])
def test_killed_as_it_ends_no_image_is_lost(folder, tmp_path, monkeypatch, calls):
    plain, cache = open_images(f"folder:{folder}", "train"), tmp_path / "cache"
    whole = decoded_images.decoded_images(plain, tmp_path / "other", 32)
    replace, left = os.replace, iter(range(calls - 1))

    def deadly(*paths):
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "replace", deadly)
        decoded_images.decoded_images(plain, cache, 32)
    found = decoded_images.decoded_images(plain, cache, 32)
    assert torch.equal(found.images, whole.images)


def test_what_is_decoded_anew_is_decoded_whole(folder, tmp_path):
    plain, cache = open_images(f"folder:{folder}", "train"), tmp_path / "cache"
    whole = decoded_images.decoded_images(plain, cache, 32)
    (path,) = (path for path in cache.iterdir() if path.suffixes == [".npy"])
    path.unlink()
    np.save(cache / "done.npy", np.ones(3, bool))
    (cache / "done.npy").rename(path.with_suffix(".done"))
    assert torch.equal(decoded_images.decoded_images(plain, cache, 32).images, whole.images)


def test_too_many_unreadable_images_are_refused(folder, tmp_path):
    for path in sorted((folder / "train" / "b").iterdir())[:40]:
        path.write_bytes(b"no image either")
    plain = open_images(f"folder:{folder}", "train")
    with pytest.raises(TooManyUnreadableError, match="of 150 images are unreadable"):
        decoded_images.decoded_images(plain, tmp_path / "cache", 32)


def test_a_size_is_asked_for(folder, tmp_path):
    with pytest.raises(ValueError, match="give image_size"):
        data(folder, tmp_path, image_size=None)
