"""Images for serving: every image below a folder, or in tar shards; no labels are needed."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from .folders import decode
from .images import ImageSet, fingerprint
from .tar_shards import UNLABELLED, TarImages, index_of
from .video_lists import is_image


class ImageFiles(ImageSet):
    """Image files without labels (-1), decoded when asked for, in RGB and at their own size."""

    channels = 3
    size = None

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root, self.paths, self.classes = root, list(paths), []
        self.labels = torch.full((len(paths),), UNLABELLED)
        stats = ((path, os.stat(root / path)) for path in paths)
        self.fingerprint = fingerprint(*(f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in stats))

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        return decode(self.root / self.paths[index]), UNLABELLED

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])


def open_files(data: str) -> ImageSet:
    """The images of a folder at any depth; or of shards: a folder with .tar files, or a pattern
    such as `shards/{0000..0127}.tar` or `shards/*.tar`.

    Raises FileNotFoundError, saying what was looked for.
    """
    folder = Path(data).expanduser()
    shards = sorted(folder.glob("*.tar")) if folder.is_dir() else expanded(data)
    if shards:
        return TarImages(shards, [index_of(shard) for shard in shards])
    if not folder.is_dir():
        raise FileNotFoundError(f"{data} is neither a folder nor a pattern of .tar files")
    paths = sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if is_image(name)
    )
    if not paths:
        raise FileNotFoundError(f"there are neither images nor .tar shards in {folder.absolute()}")
    return ImageFiles(folder, paths)


def expanded(pattern: str) -> list[Path]:
    """The files that a pattern names: `{a..b}` counts, as webdataset's patterns do; `*` matches.

    Raises FileNotFoundError for a counted file that is not there.
    """
    start, brace, rest = pattern.partition("{")
    span, closed, end = rest.partition("}")
    first, dots, last = span.partition("..")
    if brace and closed and dots and first.isdecimal() and last.isdecimal():
        numbers = range(int(first), int(last) + 1)
        found = [f"{start}{number:0{len(first)}d}{end}" for number in numbers]
        missing = [path for path in found if not os.path.isfile(path)]
        if missing:
            raise FileNotFoundError(f"{len(missing)} of {len(found)} shards: no {missing[0]}")
        return [Path(path) for path in found]
    return [Path(path) for path in sorted(glob.glob(pattern)) if path.endswith(".tar")]
