"""WebDataset shards: tar files of images, read by place, so that any batch can be made at once.

In a shard the files of one sample share their name up to the first dot after the last slash:
`0001.jpg`, `0001.cls`, `0001.json` (webdataset's format). The tar's headers are read once, or not
at all where `shard_writer` has left a list of them beside it; after that every image is one read of
its bytes. Shards are wherever fsspec reads: paths, or URLs such as `s3://bucket/train/00000.tar`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from fsspec.core import url_to_fs
from jaxtyping import UInt8
from torch import Tensor

from .folders import TEST_NAMES, decode_bytes
from .images import ImageSet, Split, UnreadableImageError, fingerprint
from .video_lists import is_image

UNLABELLED = -1


class Sample(NamedTuple):
    """One image of a shard: its name, where its bytes are, and its class, or -1."""

    name: str
    offset: int
    size: int
    label: int


def index_of(shard: str | Path) -> list[Sample]:
    """The images of a shard, in its order; of a sample's images, if it has several, the first.

    Raises ValueError for a shard that is compressed, cut off or no tar.
    """
    files, path = url_to_fs(str(shard))
    length, listed = files.size(path), list_beside(path)
    if files.exists(listed) and (known := json.loads(files.cat_file(listed)))["size"] == length:
        return [Sample(*sample) for sample in known["samples"]]
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with files.open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            for member in archive:
                if not member.isfile():
                    continue
                end = member.offset_data + member.size
                key, suffix = split_name(member.name)
                if is_image(member.name):
                    images.setdefault(key, member)
                elif suffix == "cls" and (text := archive.extractfile(member)) is not None:
                    labels[key] = int(text.read(32))
    except (tarfile.TarError, ValueError, OSError) as error:
        raise ValueError(
            f"{shard} is no tar file as webdataset writes it, uncompressed, with whole numbers in "
            f".cls: {error}"
        ) from error
    if end > length:
        raise ValueError(f"{shard} is cut off: its last file would end at byte {end}")
    return [
        Sample(member.name, member.offset_data, member.size, labels.get(key, UNLABELLED))
        for key, member in images.items()
    ]


def list_beside(shard: str) -> str:
    """Where the list of a shard's images is, if it has one."""
    return shard.removesuffix(".tar") + ".json"


def shard_images(place: str, split: Split) -> TarImages:
    """The images of the shards in PLACE/train or in PLACE/test (or PLACE/val).

    Classes are those of PLACE/classes.json, if there is one, else numbers.

    Raises FileNotFoundError.
    """
    files, root = url_to_fs(place)
    folders = [f"{root}/{name}" for name in (("train",) if split == "train" else TEST_NAMES)]
    found = next((shards for f in folders if (shards := sorted(files.glob(f"{f}/*.tar")))), None)
    if found is None:
        raise FileNotFoundError(
            f"shards:{place}: no .tar files in {' nor in '.join(folders)}. `jepa shards` writes "
            "them"
        )
    shards = [files.unstrip_protocol(shard) for shard in found]
    images = TarImages(shards, [index_of(shard) for shard in shards])
    if files.exists(names := f"{root}/classes.json"):
        images.classes = json.loads(files.cat_file(names))
    return images


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

    def __init__(self, shards: Sequence[str | Path], indices: Sequence[Sequence[Sample]]) -> None:
        self.shards = [str(shard) for shard in shards]
        self.samples = [
            (number, sample) for number, index in enumerate(indices) for sample in index
        ]
        if not self.samples:
            raise FileNotFoundError(f"no images in {len(self.shards)} shards, {self.shards[:1]}")
        self.labels = torch.tensor([sample.label for _, sample in self.samples])
        self.classes = [str(label) for label in range(int(self.labels.max()) + 1)]
        self.fingerprint = fingerprint(*map(described, self.shards))

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        number, sample = self.samples[index]
        files, path = url_to_fs(self.shards[number])
        try:
            content = files.cat_file(path, sample.offset, sample.offset + sample.size)
        except OSError as problem:
            raise UnreadableImageError(self.name(index), str(problem)) from problem
        return decode_bytes(content, self.name(index)), sample.label

    def name(self, index: int) -> str:
        number, sample = self.samples[index]
        return f"{self.shards[number]}::{sample.name}"


def described(shard: str) -> str:
    """Name, length, and when it was written."""
    files, path = url_to_fs(shard)
    about = files.info(path)
    written = next((about[k] for k in ("mtime", "ETag", "LastModified") if k in about), "")
    return f"{path.rpartition('/')[2]} {about['size']} {written}"
