"""The LightningDataModule of clips, and of images beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from .batch_loaders import EvaluationLoader, TrainLoader
from .clip_loaders import EvaluationClipBatches, TrainClipBatches
from .clips import ClipSet, open_clips
from .datamodule import DataModule
from .images import ImageSet, Split, open_images
from .loaders import TrainBatches
from .stills import MixedBatches, Stills


class ClipDataModule(DataModule[ClipSet]):
    """Clips of one source for pretraining and for evaluation.

    Args:
        source: see `open_clips`.
        frames: T of a clip.
        step, fps, reader: of video files; see `open_clips`.
        image_size: side in pixels; None: the clips' own, where they share one.
        channels: 1 or 3; None: the clips' own.
        batch_size: samples per step and process.
        seed: of the order, of the places in the videos and of the augmentations.
        crop_scale: share of the frame's area in a random crop, which all frames of a clip share;
            None: no random crop.
        flip: mirror every second training clip, at random; then right and left are one.
        candidates: clips of files drawn for each sample, of which the one that moves most is
            trained on; see `TrainClipBatches`.
        stills: images to train on as well, as clips of one frame; null for none.
        clips_per_video: in evaluation, uniform in time.
        squares_per_clip: in evaluation, uniform along the longer side of the frames.
        workers: processes that read; None: none for clips in memory, else one per processor
            up to 8.
        max_unreadable: largest accepted share of unreadable videos.
    """

    def __init__(
        self,
        *,
        source: str = "sprites",
        frames: int = 16,
        step: int | None = None,
        fps: float | None = None,
        reader: str = "auto",
        image_size: int | None = None,
        channels: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        crop_scale: tuple[float, float] | None = (0.3, 1.0),
        flip: bool = False,
        candidates: int = 1,
        stills: Stills | None = None,
        clips_per_video: int = 1,
        squares_per_clip: int = 1,
        workers: int | None = None,
        max_unreadable: float = 0.1,
    ) -> None:
        super().__init__(
            source=source,
            image_size=image_size,
            channels=channels,
            batch_size=batch_size,
            seed=seed,
            crop_scale=crop_scale,
            flip=flip,
            workers=workers,
            max_unreadable=max_unreadable,
        )
        self.frames, self.step, self.fps, self.reader = frames, step, fps, reader
        self.candidates = candidates
        self.stills = stills
        self.clips_per_video, self.squares_per_clip = clips_per_video, squares_per_clip

    @property
    def views(self) -> int:
        """Clips of each video in evaluation, one after the other."""
        return self.clips_per_video * self.squares_per_clip

    def open(self, split: Split) -> ClipSet:
        """The videos of a split; some are read, to see whether they can be."""
        opened = open_clips(
            self.source,
            split,
            frames=self.frames,
            step=self.step,
            fps=self.fps,
            image_size=self._image_size,
            detail=1 / math.sqrt(self.crop_scale[0] if self.crop_scale else 1),
            reader=self.reader,
        )
        return self.checked(opened)

    def train_loader(
        self, *, start: Callable[[], int] = lambda: 0, rank: int = 0, world_size: int = 1
    ) -> TrainLoader:
        """Training batches of one process, from step `start()` on; see `TrainClipBatches`."""
        ranks = {"rank": rank, "world_size": world_size}
        batches = self.train_batches(candidates=self.candidates, **ranks)
        if self.stills is not None:
            beside = self._images_beside(self.stills)
            images = TrainBatches(beside, **self.augmentation(**ranks))
            batches = MixedBatches(batches, images, weight=self.stills.weight, seed=self.seed)
        return TrainLoader(
            batches, start=start, workers=self.workers, max_unreadable=self.max_unreadable
        )

    def train_batches(self, **options: Any) -> TrainClipBatches:
        """See `TrainClipBatches`, which takes the options."""
        return TrainClipBatches(self.images("train"), **self.augmentation(**options))

    def _images_beside(self, stills: Stills) -> ImageSet:
        """The training images, checked for unreadable ones."""
        opened = open_images(stills.source, "train", image_size=self.image_size)
        return self.checked(opened)

    def evaluation_loader(
        self, split: Split, *, rows: Int64[Tensor, " rows"] | None = None, batch_size: int = 64
    ) -> EvaluationLoader:
        """A split in order, or the videos `rows` of it: the `views` of each, one after the other,
        without augmentation; see `EvaluationClipBatches`."""
        batches = EvaluationClipBatches(
            self.images(split),
            batch_size=batch_size,
            image_size=self.image_size,
            channels=self.channels,
            rows=rows,
            times=self.clips_per_video,
            squares=self.squares_per_clip,
        )
        return EvaluationLoader(batches, workers=self.workers, max_unreadable=self.max_unreadable)
