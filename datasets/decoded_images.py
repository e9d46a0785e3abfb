"""Images decoded once, small, and kept on disk: from then on a batch costs no decoding."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from jepa.progress import track

from .batch_loaders import EvaluationLoader
from .images import ImageSet, InMemoryImages, fingerprint
from .loaders import EvaluationBatches

BATCH = 64  # images decoded at a time


class DecodedImages(InMemoryImages):
    """The middle squares of a set of images, at one size, mapped from a file.

    Args:
        images: the set that was decoded.
        pixels: of its readable images.
        readable: which of them these are.
        side: S.
    """

    def __init__(
        self,
        images: ImageSet,
        pixels: UInt8[Tensor, "n C S S"],
        readable: Bool[Tensor, " N"],
        side: int,
    ) -> None:
        self.images, self.labels, self.classes = pixels, images.labels[readable], images.classes
        self.groups = None if images.groups is None else images.groups[readable]
        self.channels, self.size = images.channels, (side, side)
        self.fingerprint = fingerprint(images.fingerprint, f"decoded at {side}")
        self.names, self.rows = images.name, readable.nonzero().squeeze(1)

    def name(self, index: int) -> str:
        return self.names(int(self.rows[index]))


def decoded_images(
    images: ImageSet, cache: str | Path, side: int, *, workers: int = 0, max_unreadable: float = 0.1
) -> InMemoryImages:
    """The set with its images decoded, at `side` pixels of the shorter side and cut to the middle
    square. What is in memory already stays as it is.

    Decoding that was killed goes on where it was. Unreadable images are left out and named; too
    many raise TooManyUnreadableError.

    Args:
        images: to be decoded.
        cache: folder of the file, which has one byte per pixel and colour.
        side: of the squares.
        workers: processes that decode.
        max_unreadable: largest accepted share of unreadable images.
    """
    if isinstance(images, InMemoryImages):
        return images
    folder = Path(cache).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fingerprint(images.fingerprint, str(side))}.npy"
    which, shape = path.with_suffix(".readable.npy"), (len(images), images.channels, side, side)
    if not path.is_file():
        parts = [path.with_suffix(end) for end in (".part", ".done", ".kept")]
        unfinished, done, kept = parts
        if not unfinished.is_file():  # what is said of its images is of another that is gone
            done.unlink(missing_ok=True)
            which.unlink(missing_ok=True)
        pixels, readable = mapped(unfinished, np.uint8, shape), mapped(which, np.bool_, shape[:1])
        decode_into(
            pixels,
            readable,
            mapped(done, np.bool_, (math.ceil(len(images) / BATCH),)),
            EvaluationLoader(
                EvaluationBatches(
                    images, batch_size=BATCH, image_size=side, channels=images.channels
                ),
                workers=workers,
                max_unreadable=max_unreadable,
            ),
        )
        whole = unfinished
        if not readable.all():
            whole = kept
            keep(kept, pixels, np.flatnonzero(readable))
        os.replace(whole, path)
        unfinished.unlink(missing_ok=True)
        done.unlink()
    found = np.load(path, mmap_mode="c")  # what is written into it does not reach the file
    return DecodedImages(images, torch.from_numpy(found), torch.from_numpy(np.load(which)), side)


def decode_into(
    pixels: np.ndarray, readable: np.ndarray, done: np.ndarray, loader: EvaluationLoader
) -> None:
    """Decodes the batches that are not done."""
    missing = np.flatnonzero(~done).tolist()
    tracked = track(missing, "decoding images", "batch")
    for batch, decoded in zip(tracked, loader.only(missing), strict=True):
        rows = decoded.rows.numpy()
        pixels[rows], readable[rows] = decoded.images.numpy(), True
        done[batch] = True


def keep(path: Path, pixels: np.ndarray, rows: np.ndarray) -> None:
    """Writes some rows of an array to another file."""
    shape = (len(rows), *pixels.shape[1:])
    kept = np.lib.format.open_memmap(path, mode="w+", dtype=pixels.dtype, shape=shape)
    for first in range(0, len(rows), BATCH):
        kept[first : first + BATCH] = pixels[rows[first : first + BATCH]]


def mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """An array in a file, which is made, of zeros, where there is none of this shape."""
    if path.is_file():
        array = np.load(path, mmap_mode="r+")
        if array.shape == shape:
            return array
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
