"""Every source of images against files written by hand."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData

from jepa.datasets import idx
from jepa.datasets.folders import decode, folder_images
from jepa.datasets.images import InMemoryImages, UnreadableImageError, open_images
from jepa.datasets.torchvision_sets import TorchvisionImages, channels_first


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, end: str = "") -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, n in (("train", 7), ("t10k", 3)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 5, 6))
        arrays[f"{prefix}-labels-idx1-ubyte"] = np.arange(n) % 3
    for name, array in arrays.items():
        write_idx(folder / (name + end), array)
    return arrays


def write_tree(root: Path, classes=("cat", "dog"), each: int = 5) -> None:
    rng = np.random.default_rng(1)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = rng.integers(0, 256, (9 + i, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_are_read_to_the_byte(tmp_path, end):
    arrays = write_mnist(tmp_path, end)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = open_images(f"idx:{tmp_path}", split)
        assert isinstance(images, InMemoryImages)
        expected = arrays[f"{prefix}-images-idx3-ubyte"]
        np.testing.assert_array_equal(images.images[:, 0].numpy(), expected)
        np.testing.assert_array_equal(images.labels.numpy(), arrays[f"{prefix}-labels-idx1-ubyte"])
        assert images.classes == ["0", "1", "2"]
        assert images.channels == 1
        image, label = images[1]
        assert image.dtype == torch.uint8
        assert (tuple(image.shape), label) == ((1, 5, 6), 1)


def test_fingerprints_follow_the_content(tmp_path):
    write_mnist(tmp_path)
    first = open_images(f"idx:{tmp_path}", "train").fingerprint
    assert first == open_images(f"idx:{tmp_path}", "train").fingerprint
    assert first != open_images(f"idx:{tmp_path}", "test").fingerprint
    path = tmp_path / "train-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert first != open_images(f"idx:{tmp_path}", "train").fingerprint


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: b"", "got nothing"),
        (lambda data: b"<html>" + data, "expected it to start with 00000803, got 3c68746d"),
        (lambda data: data[:-1], r"7 x 5 x 6 = 210 bytes, but has 209"),
        (lambda data: data + b"x", r"210 bytes, but has 211"),
    ],
)
def test_malformed_idx_files_say_what_is_wrong(tmp_path, harm, message):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        open_images(f"idx:{tmp_path}", "train")


def test_a_broken_gzip_and_a_missing_file_are_named(tmp_path):
    write_mnist(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="not a complete gzip file"):
        open_images(f"idx:{tmp_path}", "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        open_images(f"idx:{tmp_path}", "train")


def test_labels_must_match_images(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(6))
    with pytest.raises(ValueError, match="7 train images but 6 labels"):
        open_images(f"idx:{tmp_path}", "train")


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path, monkeypatch):
    place = tmp_path / "share/datasets/fashion-mnist"
    monkeypatch.setattr(idx, "FASHION_MNIST_PLACES", (place,))
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        open_images("fashion-mnist", "train")
    write_mnist(place, ".gz")
    assert open_images("fashion-mnist", "test").classes[9] == "Ankle boot"


def test_folders_with_their_own_split(tmp_path):
    write_tree(tmp_path / "train")
    write_tree(tmp_path / "val", each=2)
    train, test = (open_images(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (10, 4, ["cat", "dog"])
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    image, label = train[7]
    expected = np.asarray(Image.open(tmp_path / "train/dog/2.png"))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert (label, train.name(7)) == (1, str(tmp_path / "train/dog/2.png"))


def test_folders_without_a_split_are_split_by_name(tmp_path):
    write_tree(tmp_path, each=60)
    halves = {split: folder_images(tmp_path, split) for split in ("train", "test")}
    train, test = (set(half.paths) for half in halves.values())
    assert not train & test
    assert train | test == set(tmp_path.glob("*/*.png"))
    assert 12 <= len(test) <= 40  # a fifth of 120; four standard deviations are 17.5
    (tmp_path / "cat/another.png").write_bytes((tmp_path / "cat/0.png").read_bytes())
    assert test <= set(folder_images(tmp_path, "test").paths)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_images(f"folder:{tmp_path}/none", "train")
    with pytest.raises(FileNotFoundError, match="one folder per class"):
        open_images(f"folder:{tmp_path}", "train")
    write_tree(tmp_path / "train")
    with pytest.raises(FileNotFoundError, match="neither test nor val"):
        open_images(f"folder:{tmp_path}", "train")
    (tmp_path / "train").rename(tmp_path / "val")
    for split in ("train", "test"):
        with pytest.raises(FileNotFoundError, match="has val/ but no train/"):
            open_images(f"folder:{tmp_path}", split)
    (tmp_path / "val").rename(tmp_path / "train")
    write_tree(tmp_path / "test", ("cat", "cow"))
    with pytest.raises(ValueError, match="only one of them has cow, dog"):
        open_images(f"folder:{tmp_path}", "train")


def test_decoding_any_mode(tmp_path):
    rng = np.random.default_rng(2)
    levels = rng.integers(0, 65536, (6, 7), dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    deep = decode(tmp_path / "deep.png")
    assert (deep[0].numpy() - levels / 257).__abs__().max() <= 1
    for mode in ("1", "L", "P", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.tif"
        Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).convert(mode).save(path)
        assert tuple(decode(path).shape) == (3, 6, 7)
    Image.fromarray(levels).save(tmp_path / "deep.ppm")
    assert torch.equal(decode(tmp_path / "deep.ppm"), deep)
    for dtype in (np.float32, np.int32):  # in [0, 1], or as far as anything
        Image.fromarray((levels / 65535).astype(dtype)).save(tmp_path / "wide.tif")
        with pytest.raises(UnreadableImageError, match="32 bits a number, whose range"):
            decode(tmp_path / "wide.tif")


def test_a_photograph_lying_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert tuple(decode(tmp_path / "a.jpg").shape) == (3, 20, 10)


def test_torchvision_sets_by_name(tmp_path):
    arrays = write_mnist(tmp_path / "FashionMNIST/raw")
    images = open_images(f"torchvision:FashionMNIST:{tmp_path}", "test")
    np.testing.assert_array_equal(images.images[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert images.classes[0] == "T-shirt/top"


def test_torchvision_sets_that_decode_when_asked():
    fake = FakeData(size=6, image_size=(3, 8, 9), num_classes=4)
    fake.targets = [int(fake[i][1]) for i in range(6)]
    images = TorchvisionImages(fake, "FakeData/train")
    image, label = images[2]
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(fake[2][0]))
    assert label == fake.targets[2]
    fake.targets = [0] * 7
    with pytest.raises(IndexError):
        TorchvisionImages(fake, "FakeData/train")[6]


def test_torchvision_layouts_become_channels_first():
    pixels = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8)
    assert torch.equal(channels_first(pixels), pixels.permute(0, 3, 1, 2))
    assert torch.equal(channels_first(pixels.permute(0, 3, 1, 2)), pixels.permute(0, 3, 1, 2))


def test_torchvision_problems_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="nearest: CIFAR10"):
        open_images("torchvision:CIFAR11", "train")
    with pytest.raises(ValueError, match="no training and test split"):
        open_images(f"torchvision:SBU:{tmp_path}", "train")
    # A file where the root should be: the download cannot even begin.
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="torchvision:MNIST:ROOT"):
        open_images(f"torchvision:MNIST:{tmp_path}/file", "train")


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("photograph", "photographs"),
        ("fashionmnist", "fashion-mnist"),
        ("folders:/x", "folder:DIR"),
        ("idx", "idx:DIR"),
        ("photographs:/x", "photographs"),
    ],
)
def test_unknown_sources_name_the_nearest(source, meant):
    with pytest.raises(ValueError, match=f"Did you mean {meant}"):
        open_images(source, "train")


def test_unreadable_files_name_themselves(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "cut.jpg": whole.read_bytes()[:400],
        "head.png": b"\x89PNG\r\n\x1a\n\x00\x00",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableImageError, match=name):
            decode(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg"):
        decode(tmp_path / "gone.jpg")
