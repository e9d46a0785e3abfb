"""The idx files of the MNIST family (Y. LeCun's format: magic number, sizes, bytes)."""

from __future__ import annotations

import gzip
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from .images import InMemoryImages, Split

PREFIX = {"train": "train", "test": "t10k"}
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_PLACES = tuple(
    Path(prefix) / "share/datasets/fashion-mnist"
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, "/usr/local", "/usr"))
)


def read_idx(path: Path, dimensions: int) -> UInt8[Tensor, "*sizes"]:
    """A uint8 array of the given number of dimensions from an idx file, gzipped if it ends in .gz.

    Raises ValueError when the file is not that: wrong magic number, type, or number of bytes.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as broken:
        raise ValueError(f"{path} is not a complete gzip file ({broken}): fetch it again") from None
    start = 4 + 4 * dimensions
    expected = struct.pack(">HBB", 0, 8, dimensions)
    if data[:4] != expected or len(data) < start:
        raise ValueError(
            f"{path} is not an idx file of bytes in {dimensions} dimensions: expected it to start "
            f"with {expected.hex()}, got {data[:4].hex() or 'nothing'}"
        )
    sizes = struct.unpack(f">{dimensions}I", data[4:start])
    if math.prod(sizes) != len(data) - start:
        raise ValueError(
            f"{path} says it holds {' x '.join(map(str, sizes))} = {math.prod(sizes)} bytes, "
            f"but has {len(data) - start}: fetch it again"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).copy()).reshape(sizes)


def find(folder: Path, name: str) -> Path:
    """`name` or `name.gz` in `folder`; raises FileNotFoundError."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder}")


def idx_images(
    folder: str | Path, split: Split, *, classes: Sequence[str] | None = None
) -> InMemoryImages:
    """The grey images of a folder with train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ..."""
    folder = Path(folder).expanduser()
    images = read_idx(find(folder, f"{PREFIX[split]}-images-idx3-ubyte"), 3)
    labels = read_idx(find(folder, f"{PREFIX[split]}-labels-idx1-ubyte"), 1).long()
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
    if classes is None:
        classes = [str(i) for i in range(int(labels.max()) + 1 if len(labels) else 0)]
    title = f"{folder.name}/{split}"
    return InMemoryImages(images[:, None], labels, classes=classes, title=title)


def fashion_mnist(split: Split) -> InMemoryImages:
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 and 10,000 grey 28x28 images.

    Raises FileNotFoundError where Debian's package dataset-fashion-mnist is not installed.
    """
    for folder in FASHION_MNIST_PLACES:
        if folder.is_dir():
            return idx_images(folder, split, classes=FASHION_MNIST_CLASSES)
    raise FileNotFoundError(
        f"no Fashion-MNIST in {', '.join(map(str, FASHION_MNIST_PLACES))}: type "
        "`apt-get install dataset-fashion-mnist`, or put its four files into a folder and use "
        "idx:FOLDER, or use torchvision:FashionMNIST where there is a network"
    )
