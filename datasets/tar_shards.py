"""WebDataset shards: tar files of images, read by place, so that any batch can be made at once.

In a shard the files of one sample share their name up to the first dot after the last slash:
`0001.jpg`, `0001.cls`, `0001.json` (webdataset's format). The tar's headers are read once; after
that every image is one read of its bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from .folders import decode_bytes
from .images import ImageSet, UnreadableImageError, fingerprint
from .video_lists import is_image

UNLABELLED = -1


class Sample(NamedTuple):
    """One image of a shard: its name, where its bytes are, and its class, or -1."""

    name: str
    offset: int
    size: int
    label: int


def index_of(shard: Path) -> list[Sample]:
    """The images of a shard, in its order; of a sample's images, if it has several, the first.

    Raises ValueError for a shard that is compressed, cut off or no tar.
    """
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            end = 0
            for member in archive:
                if not member.isfile():
                    continue
                end = member.offset_data + member.size
                key, suffix = split_name(member.name)
                if is_image(member.name):
                    images.setdefault(key, member)
                elif suffix == "cls" and (file := archive.extractfile(member)) is not None:
                    labels[key] = int(file.read(32))
    except (tarfile.TarError, ValueError, OSError) as error:
        raise ValueError(
            f"{shard} is no tar file as webdataset writes it, uncompressed, with whole numbers in "
            f".cls: {error}"
        ) from error
    if end > shard.stat().st_size:
        raise ValueError(f"{shard} is cut off: its last file would end at byte {end}")
    return [
        Sample(member.name, member.offset_data, member.size, labels.get(key, UNLABELLED))
        for key, member in images.items()
    ]


def split_name(name: str) -> tuple[str, str]:
    """`train/0001.seg.png` is `train/0001` and `seg.png`."""
    folder, slash, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return folder + slash + key, suffix.lower()


class TarImages(ImageSet):
    """The images of shards, by number, decoded when asked for, in RGB and at their own size.

    Labels are those of `.cls` files, -1 where there is none.
    """

    channels = 3
    size = None

    def __init__(self, shards: Sequence[Path], indices: Sequence[Sequence[Sample]]) -> None:
        self.shards = list(shards)
        self.samples = [
            (number, sample) for number, index in enumerate(indices) for sample in index
        ]
        if not self.samples:
            raise FileNotFoundError(f"no images in {len(self.shards)} shards, {self.shards[:1]}")
        self.labels = torch.tensor([sample.label for _, sample in self.samples])
        self.classes = [str(label) for label in range(int(self.labels.max()) + 1)]
        stats = ((path, path.stat()) for path in self.shards)
        self.fingerprint = fingerprint(
            *(f"{path.name} {s.st_size} {s.st_mtime_ns}" for path, s in stats)
        )

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        number, sample = self.samples[index]
        try:
            with open(self.shards[number], "rb") as file:
                file.seek(sample.offset)
                content = file.read(sample.size)
        except OSError as problem:
            raise UnreadableImageError(self.name(index), str(problem)) from problem
        return decode_bytes(content, self.name(index)), sample.label

    def name(self, index: int) -> str:
        number, sample = self.samples[index]
        return f"{self.shards[number]}::{sample.name}"
