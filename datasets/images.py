"""Labelled images: one small interface, and `open_images`, the door to every source."""

from __future__ import annotations

import difflib
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "test"]


class UnreadableImageError(Exception):
    """One image cannot be decoded; says which and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageSet(Dataset):
    """Images with labels, by index. Subclasses set the fields and say how to read one image.

    labels: known without decoding an image.
    classes: name of each label.
    channels: 1 or 3, the same for all images.
    size: (height, width) when all images share it, else None.
    fingerprint: 16 hexadecimal digits that change with the content; keys cached features.
    groups: which images show the same place or scene, or None if that is not known; held-out
        images are taken from other groups than those that a probe is fitted on.
    """

    labels: Int64[Tensor, " n"]
    classes: list[str]
    channels: int
    size: tuple[int, int] | None
    fingerprint: str
    groups: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "C H W"], int]:
        """Image and label. Raises UnreadableImageError, and IndexError beyond the end."""

    @abstractmethod
    def name(self, index: int) -> str:
        """How messages call this image: a path, or the set and the index."""


class InMemoryImages(ImageSet):
    """Images already decoded, all of one size: `images[indices]` is a batch."""

    def __init__(
        self,
        images: UInt8[Tensor, "n C H W"],
        labels: Int64[Tensor, " n"],
        *,
        classes: Sequence[str],
        title: str,
        groups: Int64[Tensor, " n"] | None = None,
    ) -> None:
        self.images, self.labels, self.classes, self.title = images, labels, list(classes), title
        self.groups = groups
        self.channels = images.shape[1]
        self.size = (images.shape[2], images.shape[3])
        self.fingerprint = fingerprint(
            str(tuple(images.shape)), images.numpy().tobytes(), labels.numpy().tobytes()
        )

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "C H W"], int]:
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"


def fingerprint(*parts: str | bytes) -> str:
    """16 hexadecimal digits over the parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def open_images(source: str, split: Split, *, image_size: int = 32) -> ImageSet:
    """The training or test images of a source.

    Args:
        source: `photographs` (embedded, needs nothing), `fashion-mnist` (Debian's package),
            `idx:DIR` (the MNIST family), `folder:DIR` (one folder per class, optionally below
            train/ and test/ or val/), `shards:PLACE` (webdataset's tars in PLACE/train and
            PLACE/test or PLACE/val; a folder, or a URL for fsspec), `torchvision:NAME[:ROOT]`
            (downloads if need be).
        split: which half; no image is in both.
        image_size: side of the crops that `photographs` makes, in pixels. The other sources
            give their images as stored; the loaders resize them.

    Raises:
        ValueError: no such form of source, or its files are malformed.
        FileNotFoundError: its files are not there.
    """
    from . import folders, idx, photographs, tar_shards, torchvision_sets

    openers: dict[str, Callable[[str], ImageSet]] = {
        "photographs": lambda _: photographs.photographs(split, image_size=image_size),
        "fashion-mnist": lambda _: idx.fashion_mnist(split),
        "idx:DIR": lambda place: idx.idx_images(place, split),
        "folder:DIR": lambda place: folders.folder_images(place, split),
        "shards:PLACE": lambda place: tar_shards.shard_images(place, split),
        "torchvision:NAME[:ROOT]": lambda place: torchvision_sets.torchvision_images(place, split),
    }
    form, place = parse_source(source, split, tuple(openers), "image")
    return openers[form](place)


def parse_source(source: str, split: Split, forms: Sequence[str], kind: str) -> tuple[str, str]:
    """The form of a source and the place that it names: `folder:pets` is ("folder:DIR", "pets").

    Raises ValueError for what has none of the forms, and for a split that does not exist.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    start, _, place = source.partition(":")
    by_start = {form.partition(":")[0]: form for form in forms}
    form = by_start.get(start)
    if form is None or bool(place) != (":" in form):
        near = difflib.get_close_matches(start, list(by_start), n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown {kind} source {source!r}: expected one of {', '.join(forms)}. "
            f"Did you mean {by_start[near]}?"
        )
    return form, place


def label_tensor(labels: Sequence[int] | np.ndarray | Tensor) -> Int64[Tensor, " n"]:
    """Labels as int64."""
    return torch.as_tensor(labels, dtype=torch.int64)
