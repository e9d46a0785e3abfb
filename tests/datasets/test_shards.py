"""Shards that we write are those that webdataset reads, wherever they are."""

from __future__ import annotations

import json
import pickle
import tarfile

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from jepa.datasets.datamodule import ImageDataModule
from jepa.datasets.images import InMemoryImages, open_images
from jepa.datasets.shard_writer import write_shards
from jepa.datasets.tar_shards import TarImages, index_of
from jepa.recipes.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of different sizes, in JPEG and PNG."""
    root, random = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(5):
                pixels = random.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                suffix = "jpg" if i % 2 else "png"
                Image.fromarray(pixels).save(root / split / name / f"{i}.{suffix}")
    return root


def equal(ours, theirs):
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert ours.classes == theirs.classes
    for number in range(len(theirs)):
        assert torch.equal(ours[number][0], theirs[number][0])


def test_a_folder_in_shards_is_the_folder(folder, tmp_path, capsys):
    place = tmp_path / "shards"
    arguments = ["shards", f"--data=folder:{folder}", f"--into={place}", "--per_shard=4"]
    assert main(arguments) == 0
    assert "10 train images in 3 shards" in capsys.readouterr().out
    for split in ("train", "test"):
        equal(open_images(f"shards:{place}", split), open_images(f"folder:{folder}", split))
    with tarfile.open(place / "train" / "00000.tar") as archive:
        content = archive.extractfile("000000001.jpg").read()
    assert content == (folder / "train" / "cat" / "1.jpg").read_bytes()
    before = {path: path.read_bytes() for path in place.rglob("*.*")}
    (place / "train" / "00001.json").unlink()  # as after a kill in the middle of that shard
    (place / "train" / "00001.tar").write_bytes(b"half")
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in place.rglob("*.*")} == before


def test_the_lists_are_what_the_headers_say_and_webdataset_reads_the_same(folder, tmp_path):
    images = open_images(f"folder:{folder}", "train")
    assert write_shards(images, str(tmp_path), per_shard=6) == 2
    listed = [index_of(tmp_path / f"{n:05d}.tar") for n in range(2)]
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert [index_of(tmp_path / f"{n:05d}.tar") for n in range(2)] == listed
    theirs = webdataset.WebDataset(str(tmp_path / "{00000..00001}.tar"), shardshuffle=False)
    for number, sample in enumerate(theirs):
        suffix = next(key for key in sample if key in ("jpg", "png"))
        assert sample[suffix] == images.paths[number].read_bytes()
        assert int(sample["cls"]) == images.labels[number]
    assert number + 1 == len(images)


def test_a_list_of_another_shard_is_not_believed(folder, tmp_path):
    write_shards(open_images(f"folder:{folder}", "train"), str(tmp_path), per_shard=10)
    path = tmp_path / "00000.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({"size": about["size"] + 1, "samples": []}))
    assert len(index_of(tmp_path / "00000.tar")) == 10


def test_shards_elsewhere_are_written_and_trained_on(tmp_path):
    """In fsspec's memory, as in any other of its file systems."""
    pixels = torch.arange(12 * 64, dtype=torch.int64).remainder(251).byte().view(12, 1, 8, 8)
    grey = InMemoryImages(pixels, torch.arange(12) % 3, classes=["a", "b", "c"], title="grey")
    for split in ("train", "test"):
        write_shards(grey, f"memory://place/{split}", per_shard=5)
    files = fsspec.filesystem("memory")
    files.pipe_file("/place/classes.json", json.dumps(grey.classes).encode())
    images = open_images("shards:memory://place", "train")
    assert isinstance(images, TarImages)
    assert images.classes == ["a", "b", "c"]
    assert images.name(7) == "memory:///place/train/00001.tar::000000007.png"
    sent = pickle.loads(pickle.dumps(images))
    for number in range(12):
        assert torch.equal(sent[number][0], pixels[number].expand(3, -1, -1))
    data = ImageDataModule(
        source="shards:memory://place", image_size=8, channels=1, batch_size=4, crop_scale=None
    )
    epoch = [batch for _, batch in zip(range(3), data.train_loader(), strict=False)]
    seen = torch.cat([batch.images[:, 0, 0, 0] for batch in epoch]).sort().values.long()
    assert (seen - pixels[:, 0, 0, 0].sort().values.long()).abs().max() <= 1  # RGB between
    labels = torch.cat([batch.labels for batch in epoch])
    assert labels.bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize("form", ["{}", "memory://{}"])
def test_other_images_are_not_mixed_in(tmp_path, form):
    place, pixels = form.format(tmp_path), torch.zeros(12, 1, 8, 8, dtype=torch.uint8)
    images, others = (
        InMemoryImages(shown, torch.arange(12), classes=list("abcdefghijkl"), title="shown")
        for shown in (pixels, pixels + 1)
    )
    write_shards(images, f"{place}/train", per_shard=6)
    for wrong, per_shard in ((images, 4), (others, 6)):
        with pytest.raises(ValueError, match=r"has shards of .*'per_shard': 6.*another place"):
            write_shards(wrong, f"{place}/train", per_shard=per_shard)
    assert write_shards(images, f"{place}/train", per_shard=6) == 2
    assert open_images(f"shards:{place}", "train").labels.tolist() == list(range(12))


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"no \.tar files in .*/train\. `jepa shards`"):
        open_images(f"shards:{tmp_path}", "train")
    assert main(["shards", "--data=fashion-mnist", f"--into={tmp_path}", "--per_shard=0"]) == 1
    assert "at least one image" in capsys.readouterr().err
