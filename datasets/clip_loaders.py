"""Batches of clips, pure functions of (seed, step, rank), as `loaders` makes them of images.

All frames of a clip share one crop and one flip. The transforms of images take [..., C, H, W], so
here clips go through them frames first, [..., T, C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from jepa.seeds import derive

from .clips import ClipSet, InMemoryClips
from .crops import draw_crops, draws, random_flips, resized_crops
from .images import UnreadableImageError
from .loaders import Batches, CountedBatches
from .samples import Samples, read_or_next
from .transforms import apply_seeded, eval_transform, pretrain_transform, to_channels


class ClipBatch(NamedTuple):
    """images uint8; labels; what is wrong with each video that was skipped for this batch; the
    index of each clip's video in its set."""

    images: UInt8[Tensor, "B C T S S"]
    labels: Int64[Tensor, " B"]
    unreadable: list[str]
    rows: Int64[Tensor, " B"]


class TrainClipBatches(Batches):
    """Batch `step` of a run without end: one clip, at a random place, of each of B videos.

    An unreadable video is replaced by the next readable one of the set, and named.

    Args:
        clips: what to train on.
        batch_size: B, samples per step and rank.
        image_size: side S of the result, in pixels.
        channels: of the result, 1 or 3.
        seed: of the order, of the places in the videos and of the augmentations.
        crop_scale: share of the frame's area in a random crop, (low, high); None: no random crop.
        flip: mirror every second clip, at random: right becomes left, also in what moves.
        rank, world_size: which part of the global batch of B * world_size samples.
    """

    def __init__(
        self,
        clips: ClipSet,
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
            n=len(clips), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self.clips, self.image_size = clips, image_size
        self.crop_scale, self.flip = crop_scale, flip
        change = (clips.channels, channels)
        self.recolour = to_channels(*change)
        self.plain = eval_transform(image_size, given=clips.size, channels=change)
        self.augment = pretrain_transform(
            image_size, given=clips.size, channels=change, crop_scale=crop_scale, flip=flip
        )

    @property
    def total(self) -> int:
        """Videos in the set."""
        return len(self.clips)

    def __getitem__(self, step: int) -> ClipBatch:
        indices, seeds = self.samples.at(step)
        if isinstance(self.clips, InMemoryClips):
            return self._from_memory(self.clips, indices, seeds)
        return self._one_by_one(self.clips, indices.tolist(), seeds)

    def _from_memory(
        self, clips: InMemoryClips, indices: Int64[Tensor, " B"], seeds: Sequence[int]
    ) -> ClipBatch:
        pixels = clips.images[indices]
        if self.crop_scale is None:
            pixels = frames_first(self.plain, pixels)
        else:
            boxes = draw_crops(seeds, (pixels.shape[3], pixels.shape[4]), self.crop_scale)
            planes = resized_crops(pixels.flatten(1, 2), boxes, self.image_size)
            pixels = frames_first(self.recolour, planes.unflatten(1, pixels.shape[1:3]))
        if self.flip:
            planes = random_flips(pixels.flatten(1, 2), [derive(seed, "flip") for seed in seeds])
            pixels = planes.unflatten(1, pixels.shape[1:3])
        return ClipBatch(pixels, clips.labels[indices], [], indices)

    def _one_by_one(
        self, clips: ClipSet, indices: Sequence[int], seeds: Sequence[int]
    ) -> ClipBatch:
        unreadable: list[str] = []
        places = draws([derive(seed, "position") for seed in seeds], 1)[:, 0].tolist()
        read = [
            read_or_next(lambda i, p=place: clips.clip(i, p), index, len(clips), unreadable)
            for index, place in zip(indices, places, strict=True)
        ]
        pixels = apply_seeded(self.augment, [clip.transpose(0, 1) for clip, _ in read], seeds)
        rows = torch.tensor([row for _, row in read])
        return ClipBatch(torch.stack(pixels).transpose(1, 2), clips.labels[rows], unreadable, rows)


class EvaluationClipBatches(CountedBatches):
    """The videos in order, `views` clips of each one after the other, without augmentation.

    The clips of a video are uniform in time, from its first to its last possible one; a single
    one is from the middle. Unreadable videos are left out and named.

    Args:
        clips: what to evaluate on.
        batch_size: clips per batch, up to a whole number of videos.
        image_size: side S of the result, in pixels.
        channels: of the result, 1 or 3.
        rows: indices of the videos to take; None: all.
        views: clips of each video.
    """

    def __init__(
        self,
        clips: ClipSet,
        *,
        batch_size: int,
        image_size: int,
        channels: int,
        rows: Int64[Tensor, " rows"] | None = None,
        views: int = 1,
    ) -> None:
        if batch_size < 1 or views < 1:
            raise ValueError(
                f"batch_size and clips per video are at least 1; got {batch_size} and {views}"
            )
        self.clips, self.image_size, self.channels, self.views = clips, image_size, channels, views
        self.videos = max(1, batch_size // views)
        self.rows = torch.arange(len(clips)) if rows is None else rows
        self.transform = eval_transform(
            image_size, given=clips.size, channels=(clips.channels, channels)
        )

    @property
    def total(self) -> int:
        """Videos to be evaluated."""
        return len(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.videos)

    def __getitem__(self, batch: int) -> ClipBatch:
        rows = self.rows[batch * self.videos : (batch + 1) * self.videos]
        if isinstance(self.clips, InMemoryClips):
            rows = rows.repeat_interleave(self.views)
            pixels = frames_first(self.transform, self.clips.images[rows])
            return ClipBatch(pixels, self.clips.labels[rows], [], rows)
        shape = (0, self.channels, self.clips.frames, self.image_size, self.image_size)
        clips, read, unreadable = [torch.empty(shape, dtype=torch.uint8)], [], []
        for row in rows.tolist():
            try:
                views = [self.clips.clip(row, float(at)) for at in uniform_in_time(self.views)]
            except UnreadableImageError as problem:
                unreadable.append(str(problem))
                continue
            clips += [frames_first(self.transform, view[None]) for view in views]
            read += [row] * self.views
        rows = torch.tensor(read, dtype=torch.int64)
        return ClipBatch(torch.cat(clips), self.clips.labels[rows], unreadable, rows)


def frames_first(
    transform: nn.Module, clips: UInt8[Tensor, "B C T H W"]
) -> UInt8[Tensor, "B D T S S"]:
    """A transform of images, on every frame."""
    return transform(clips.transpose(1, 2)).transpose(1, 2)


def uniform_in_time(views: int) -> Float[Tensor, " views"]:
    """Positions from the first clip of a video, 0, to the last, 1; of a single one 0.5."""
    return torch.linspace(0, 1, views) if views > 1 else torch.tensor([0.5])
