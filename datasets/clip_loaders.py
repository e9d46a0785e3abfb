"""Batches of clips, pure functions of (seed, step, rank), as `loaders` makes them of images.

All frames of a clip share one crop and one flip. The transforms of images take [..., C, H, W], so
here clips go through them frames first, [..., T, C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from jepa.seeds import derive

from .clips import ClipSet, InMemoryClips
from .crops import draw_crops, draws, random_flips, resized_crops
from .images import UnreadableImageError
from .loaders import Batches, CountedBatches, named_rows
from .samples import Samples, read_or_next
from .transforms import check_crop_scale, eval_transform, to_channels


class ClipBatch(NamedTuple):
    """images uint8; labels; what is wrong with each video that was skipped for this batch; rows,
    the index in its set of what each clip was taken from."""

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
        candidates: K, clips of files that are drawn and cropped for each sample; it is the one
            in which most `motion` is. One pass over the set then makes n / K samples.
        rank, world_size: which part of the global batch of B * world_size samples.
    """

    noun = "videos"

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
        candidates: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if candidates < 1 or (candidates > 1 and isinstance(clips, InMemoryClips)):
            raise ValueError(
                "candidates are at least 1, and more than 1 only of clips that are read from "
                f"files; got {candidates}: leave it out"
            )
        if crop_scale is not None:
            check_crop_scale(crop_scale)
        self.samples = Samples(
            n=len(clips),
            batch_size=batch_size * candidates,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.clips, self.image_size, self.candidates = clips, image_size, candidates
        self.crop_scale, self.flip = crop_scale, flip
        change = (clips.channels, channels)
        self.recolour = to_channels(*change)
        self.plain = eval_transform(image_size, given=clips.size, channels=change)

    @property
    def total(self) -> int:
        """Videos in the set."""
        return len(self.clips)

    def __getitem__(self, step: int) -> ClipBatch:
        return self.of(*self.samples.at(step))

    def of(self, indices: Int64[Tensor, " B"], seeds: Sequence[int]) -> ClipBatch:
        """A clip of each of these videos, its place and augmentation under its own seed."""
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
        return ClipBatch(self._flipped(pixels, seeds), clips.labels[indices], [], indices)

    def _one_by_one(
        self, clips: ClipSet, indices: Sequence[int], seeds: Sequence[int]
    ) -> ClipBatch:
        unreadable: list[str] = []
        places = draws([derive(seed, "position") for seed in seeds], 1)[:, 0].tolist()
        windows, read = [], []
        for index, place, seed in zip(indices, places, seeds, strict=True):
            clip, row = read_or_next(
                lambda i, p=place: clips.clip(i, p), index, len(clips), unreadable
            )
            windows.append(self._window(clip, seed))
            read.append(row)
        chosen = liveliest(windows, self.candidates)
        pixels = torch.cat([self._resized(windows[i]) for i in chosen])
        rows = torch.tensor([read[i] for i in chosen])
        pixels = self._flipped(pixels, [seeds[i] for i in chosen])
        return ClipBatch(pixels, clips.labels[rows], unreadable, rows)

    def _window(self, clip: UInt8[Tensor, "C T H W"], seed: int) -> UInt8[Tensor, "C T h w"]:
        """The clip's random crop, not yet resized; the whole clip where there is none."""
        if self.crop_scale is None:
            return clip
        (top, left, height, width), *_ = draw_crops(
            [seed], (clip.shape[2], clip.shape[3]), self.crop_scale
        ).tolist()
        return clip[:, :, top : top + height, left : left + width]

    def _resized(self, window: UInt8[Tensor, "C T h w"]) -> UInt8[Tensor, "1 D T S S"]:
        if self.crop_scale is None:
            return frames_first(self.plain, window[None])
        frames = self.recolour(window.transpose(0, 1))
        return resize(frames, [self.image_size] * 2, antialias=True).transpose(0, 1)[None]

    def _flipped(
        self, clips: UInt8[Tensor, "B C T S S"], seeds: Sequence[int]
    ) -> UInt8[Tensor, "B C T S S"]:
        if not self.flip:
            return clips
        seeds = [derive(seed, "flip") for seed in seeds]
        return random_flips(clips.flatten(1, 2), seeds).unflatten(1, clips.shape[1:3])


def motion(clip: UInt8[Tensor, "C T H W"]) -> float:
    """How much moves: the mean difference of a frame from the one before it, in grey levels; the
    median over the clip, so that a cut does not count."""
    frames = clip[:, :, ::2, ::2].float()
    return frames.diff(dim=1).abs().mean(dim=(0, 2, 3)).median().item()


def liveliest(clips: Sequence[UInt8[Tensor, "C T _ _"]], candidates: int) -> list[int]:
    """Of every `candidates` clips in a row the index of the one in which most `motion` is."""
    if candidates == 1:
        return list(range(len(clips)))
    moves = torch.tensor([motion(clip) for clip in clips]).unflatten(0, (-1, candidates))
    first = torch.arange(0, len(clips), candidates)
    return (first + moves.argmax(dim=1)).tolist()


class EvaluationClipBatches(CountedBatches):
    """The videos in order, all views of each one after the other, without augmentation.

    The clips of a video are uniform in time, from its first to its last possible one; a single
    one is from the middle. Of each clip, squares of the frames' shorter side are cut, uniform
    along the longer side; a single one from the middle. Unreadable videos are left out and named.

    Args:
        clips: what to evaluate on.
        batch_size: views per batch, up to a whole number of videos.
        image_size: side S of the result, in pixels.
        channels: of the result, 1 or 3.
        rows: indices of the videos to take; None: all.
        times: clips of each video.
        squares: of each clip; there are times * squares views of a video.
    """

    noun = "videos"

    def __init__(
        self,
        clips: ClipSet,
        *,
        batch_size: int,
        image_size: int,
        channels: int,
        rows: Int64[Tensor, " rows"] | None = None,
        times: int = 1,
        squares: int = 1,
    ) -> None:
        if min(batch_size, times, squares) < 1:
            raise ValueError(
                "batch size, clips per video and squares per clip are at least 1; "
                f"got {batch_size}, {times}, {squares}"
            )
        self.clips, self.image_size, self.channels = clips, image_size, channels
        self.times, self.squares, self.views = times, squares, times * squares
        self.videos = max(1, batch_size // self.views)
        self.rows = torch.arange(len(clips)) if rows is None else rows
        self.batch_size = batch_size
        self.described = {
            "image_size": image_size,
            "channels": channels,
            "rows": named_rows(self.rows),
            "times": times,
            "squares": squares,
        }
        self.recolour = to_channels(clips.channels, channels)

    @property
    def total(self) -> int:
        """Videos to be evaluated."""
        return len(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.videos)

    def __getitem__(self, batch: int) -> ClipBatch:
        rows = self.rows[batch * self.videos : (batch + 1) * self.videos]
        if isinstance(self.clips, InMemoryClips):
            rows = rows.repeat_interleave(self.times)
            views = self._seen(self.clips.images[rows])
            rows = rows.repeat_interleave(self.squares)
            return ClipBatch(views, self.clips.labels[rows], [], rows)
        shape = (0, self.channels, self.clips.frames, self.image_size, self.image_size)
        seen, read, unreadable = [torch.empty(shape, dtype=torch.uint8)], [], []
        for row in rows.tolist():
            try:
                clips = [self.clips.clip(row, at) for at in evenly(self.times)]
            except UnreadableImageError as problem:
                unreadable.append(str(problem))
                continue
            seen += [self._seen(clip[None]) for clip in clips]
            read += [row] * self.views
        rows = torch.tensor(read, dtype=torch.int64)
        return ClipBatch(torch.cat(seen), self.clips.labels[rows], unreadable, rows)

    def _seen(self, clips: UInt8[Tensor, "B C T H W"]) -> UInt8[Tensor, "V D T S S"]:
        """The squares of each clip, one after the other, in the channels that are wanted."""
        side = self.image_size
        frames = resize(clips.transpose(1, 2), [side], antialias=True)
        slack = frames.shape[-2] - side, frames.shape[-1] - side
        corners = [(round(at * slack[0]), round(at * slack[1])) for at in evenly(self.squares)]
        cut = [frames[..., y : y + side, x : x + side] for y, x in corners]
        return self.recolour(torch.stack(cut, 1).flatten(0, 1)).transpose(1, 2)


def frames_first(
    transform: nn.Module, clips: UInt8[Tensor, "B C T H W"]
) -> UInt8[Tensor, "B D T S S"]:
    """A transform of images, on every frame."""
    return transform(clips.transpose(1, 2)).transpose(1, 2)


def evenly(count: int) -> list[float]:
    """Positions from the first possible, 0, to the last, 1; a single one in the middle."""
    return [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
