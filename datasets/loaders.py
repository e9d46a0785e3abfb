"""Batches whose samples and augmentations are pure functions of (seed, step, rank).

A resumed run needs no loader state: batch 7,000 is the same whether or not this process made
batches 0 to 6,999, and for any number of workers. `Samples` says which image stands where.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from jepa.seeds import derive

from .crops import draw_crops, random_flips, resized_crops
from .images import ImageSet, InMemoryImages, UnreadableImageError, fingerprint
from .samples import Samples, read_or_next
from .transforms import apply_seeded, eval_transform, pretrain_transform, to_channels

SMALL = 64  # pixels up to which crops are faster for a whole batch at once than one by one


class ImageBatch(NamedTuple):
    """images uint8; labels; what is wrong with each image that was skipped for this batch.

    rows: index of each in its set, where batches are for evaluation.
    """

    images: UInt8[Tensor, "B C S S"]
    labels: Int64[Tensor, " B"]
    unreadable: list[str]
    rows: Int64[Tensor, " B"] | None = None


class Batches(Dataset):
    """Batches by number, each with a list `unreadable` of what was wrong with its samples.

    noun: what messages call the samples.
    """

    noun: str

    @property
    @abstractmethod
    def total(self) -> int:
        """Samples that a share of unreadable ones refers to."""


class CountedBatches(Batches):
    """Batches that come to an end.

    described: which samples they show, and how these become pixels.
    batch_size: how the samples are cut into batches.
    """

    described: Mapping[str, int | str]
    batch_size: int

    @abstractmethod
    def __len__(self) -> int:
        """How many."""


class TrainBatches(Batches):
    """Batch `step` of a run without end, for `step` = 0, 1, 2, ...

    An unreadable image is replaced by the next readable one of the set, and named.

    Args:
        images: what to train on.
        batch_size: B, samples per step and rank.
        image_size: side S of the result, in pixels.
        channels: of the result, 1 or 3.
        seed: of the order and of the augmentations.
        crop_scale: share of the image's area in a random crop, (low, high); None: no random crop.
        flip: mirror every second image, at random.
        rank, world_size: which part of the global batch of B * world_size samples.
    """

    noun = "images"

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        image_size: int,
        channels: int,
        seed: int = 0,
        crop_scale: tuple[float, float] | None = None,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples = Samples(
            n=len(images), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self.images, self.image_size = images, image_size
        self.crop_scale, self.flip = crop_scale, flip
        change = (images.channels, channels)
        self.recolour = to_channels(*change)
        self.plain = eval_transform(image_size, given=images.size, channels=change)
        self.augment = pretrain_transform(
            image_size, given=images.size, channels=change, crop_scale=crop_scale, flip=flip
        )

    @property
    def total(self) -> int:
        """Images in the set."""
        return len(self.images)

    def __getitem__(self, step: int) -> ImageBatch:
        return self.of(*self.samples.at(step))

    def of(self, indices: Int64[Tensor, " B"], seeds: Sequence[int]) -> ImageBatch:
        """These images, each augmented under its own seed."""
        images, labels, unreadable = self.read(indices)
        return ImageBatch(self.augmented(images, seeds), labels, unreadable)

    def read(
        self, indices: Int64[Tensor, " B"]
    ) -> tuple[UInt8[Tensor, "B C H W"] | list[Tensor], Int64[Tensor, " B"], list[str]]:
        """Images as they are, in one tensor where they are small and in memory; labels; what was
        skipped."""
        if isinstance(self.images, InMemoryImages):
            pixels, labels = self.images.images[indices], self.images.labels[indices]
            return pixels if max(pixels.shape[2:]) <= SMALL else list(pixels), labels, []
        unreadable: list[str] = []
        n = len(self.images)
        read = [read_or_next(self.images.__getitem__, i, n, unreadable) for i in indices.tolist()]
        pairs = [pair for pair, _ in read]
        labels = torch.tensor([label for _, label in pairs])
        return [image for image, _ in pairs], labels, unreadable

    def augmented(
        self, images: UInt8[Tensor, "B given H W"] | list[Tensor], seeds: Sequence[int]
    ) -> UInt8[Tensor, "B C S S"]:
        """Each image under its own seed."""
        if isinstance(images, list):
            return torch.stack(apply_seeded(self.augment, images, seeds))
        pixels = images
        if self.crop_scale is None:
            pixels = self.plain(pixels)
        else:
            height, width = pixels.shape[2:]
            boxes = draw_crops(seeds, (height, width), self.crop_scale)
            pixels = self.recolour(resized_crops(pixels, boxes, self.image_size))
        if self.flip:
            pixels = random_flips(pixels, [derive(seed, "flip") for seed in seeds])
        return pixels


class EvaluationBatches(CountedBatches):
    """The images in order, without augmentation; unreadable ones are left out and named.

    Args:
        images: what to evaluate on.
        batch_size: rows per batch; fewer in the last one and where images are unreadable.
        image_size: side S of the result, in pixels.
        channels: of the result, 1 or 3.
        rows: indices of the images to take; None: all.
    """

    noun = "images"

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        image_size: int,
        channels: int,
        rows: Int64[Tensor, " rows"] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1; got {batch_size}")
        self.images, self.batch_size, self.image_size = images, batch_size, image_size
        self.channels = channels
        self.rows = torch.arange(len(images)) if rows is None else rows
        self.described = {
            "image_size": image_size,
            "channels": channels,
            "rows": named_rows(self.rows),
        }
        self.transform = eval_transform(
            image_size, given=images.size, channels=(images.channels, channels)
        )

    @property
    def total(self) -> int:
        """Rows to be evaluated."""
        return len(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, batch: int) -> ImageBatch:
        rows = self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        if isinstance(self.images, InMemoryImages):
            pixels = self.transform(self.images.images[rows])
            return ImageBatch(pixels, self.images.labels[rows], [], rows)
        pixels, labels, read, unreadable = [], [], [], []
        for row in rows.tolist():
            try:
                image, label = self.images[row]
            except UnreadableImageError as problem:
                unreadable.append(str(problem))
                continue
            pixels.append(self.transform(image))
            labels.append(label)
            read.append(row)
        empty = torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        stacked = torch.stack(pixels) if pixels else empty
        found, places = (torch.tensor(numbers, dtype=torch.int64) for numbers in (labels, read))
        return ImageBatch(stacked, found, unreadable, places)


def named_rows(rows: Int64[Tensor, " rows"]) -> str:
    """How many rows these are, and a fingerprint of which."""
    return f"{len(rows)}-{fingerprint(rows.numpy().tobytes())}"
