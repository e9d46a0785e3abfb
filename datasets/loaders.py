"""Batches whose samples and augmentations are pure functions of (seed, step, rank).

A resumed run needs no loader state: batch 7,000 is the same whether or not this process made
batches 0 to 6,999, and for any number of workers.

Sample `position` counts all samples of a run: step s of rank r of w holds the B positions from
(s * w + r) * B on. Position p shows image `permutation(p // n)[p % n]` of the n, augmented
under the seed of p.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from jepa.seeds import derive, generator

from .crops import draw_crops, random_flips, resized_crops
from .images import ImageSet, InMemoryImages, UnreadableImageError
from .reading import TooManyUnreadableError
from .transforms import apply_seeded, eval_transform, pretrain_transform, to_channels


class ImageBatch(NamedTuple):
    """images uint8; labels; what is wrong with each image that was skipped for this batch."""

    images: UInt8[Tensor, "B C S S"]
    labels: Int64[Tensor, " B"]
    unreadable: list[str]


@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, n: int) -> Int64[Tensor, " n"]:
    """The order of n images in one pass over them. Shared by all callers: do not write to it."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def order(seed: int, first: int, count: int, n: int) -> Int64[Tensor, " count"]:
    """Image indices at the sample positions first ... first + count - 1."""
    parts: list[Tensor] = []
    while count:
        epoch, offset = divmod(first, n)
        part = permutation(seed, epoch, n)[offset : offset + count]
        parts.append(part)
        first, count = first + len(part), count - len(part)
    return torch.cat(parts)


class TrainBatches(Dataset):
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
        if not 0 <= rank < world_size:
            raise ValueError(f"need 0 <= rank < world_size; got rank {rank} of {world_size}")
        if batch_size < 1 or not len(images):
            raise ValueError(f"cannot make batches of {batch_size} from {len(images)} images")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.image_size, self.crop_scale, self.flip = image_size, crop_scale, flip
        self.rank, self.world_size = rank, world_size
        change = (images.channels, channels)
        self.recolour = to_channels(*change)
        self.plain = eval_transform(image_size, given=images.size, channels=change)
        self.augment = pretrain_transform(
            image_size, given=images.size, channels=change, crop_scale=crop_scale, flip=flip
        )

    def __getitem__(self, step: int) -> ImageBatch:
        first = (step * self.world_size + self.rank) * self.batch_size
        indices = order(self.seed, first, self.batch_size, len(self.images))
        seeds = [derive(self.seed, "augment", first + i) for i in range(self.batch_size)]
        if isinstance(self.images, InMemoryImages):
            return self._from_memory(self.images, indices, seeds)
        return self._one_by_one(indices.tolist(), seeds)

    def _from_memory(
        self, images: InMemoryImages, indices: Tensor, seeds: Sequence[int]
    ) -> ImageBatch:
        pixels = images.images[indices]
        if self.crop_scale is None:
            pixels = self.plain(pixels)
        else:
            height, width = pixels.shape[2:]
            boxes = draw_crops(seeds, (height, width), self.crop_scale)
            pixels = self.recolour(resized_crops(pixels, boxes, self.image_size))
        if self.flip:
            pixels = random_flips(pixels, [derive(seed, "flip") for seed in seeds])
        return ImageBatch(pixels, images.labels[indices], [])

    def _one_by_one(self, indices: Sequence[int], seeds: Sequence[int]) -> ImageBatch:
        unreadable: list[str] = []
        pairs = [read_or_next(self.images, i, unreadable) for i in indices]
        pixels = apply_seeded(self.augment, [image for image, _ in pairs], seeds)
        labels = torch.tensor([label for _, label in pairs])
        return ImageBatch(torch.stack(pixels), labels, unreadable)


def read_or_next(
    images: ImageSet, index: int, unreadable: list[str]
) -> tuple[UInt8[Tensor, "C H W"], int]:
    """Image and label at `index`, or of the next readable index; appends what was skipped."""
    for i in range(index, index + len(images)):
        try:
            return images[i % len(images)]
        except UnreadableImageError as problem:
            unreadable.append(str(problem))
    raise TooManyUnreadableError(f"none of the {len(images)} images can be read")


class EvaluationBatches(Dataset):
    """The images in order, without augmentation; unreadable ones are left out and named.

    Args:
        images: what to evaluate on.
        batch_size: rows per batch; fewer in the last one and where images are unreadable.
        image_size: side S of the result, in pixels.
        channels: of the result, 1 or 3.
        rows: indices of the images to take; None: all.
    """

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
        self.transform = eval_transform(
            image_size, given=images.size, channels=(images.channels, channels)
        )

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, batch: int) -> ImageBatch:
        rows = self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        if isinstance(self.images, InMemoryImages):
            pixels = self.transform(self.images.images[rows])
            return ImageBatch(pixels, self.images.labels[rows], [])
        pixels, labels, unreadable = [], [], []
        for row in rows.tolist():
            try:
                image, label = self.images[row]
            except UnreadableImageError as problem:
                unreadable.append(str(problem))
                continue
            pixels.append(self.transform(image))
            labels.append(label)
        empty = torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        stacked = torch.stack(pixels) if pixels else empty
        return ImageBatch(stacked, torch.tensor(labels, dtype=torch.int64), unreadable)
