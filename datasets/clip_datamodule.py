"""The LightningDataModule of clips; an image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Int64
from torch import Tensor

from .clip_loaders import EvaluationClipBatches, TrainClipBatches
from .clips import ClipSet, open_clips
from .datamodule import DataModule, EvaluationLoader, TrainLoader
from .images import Split
from .reading import scan


class ClipDataModule(DataModule[ClipSet]):
    """Clips of one source for pretraining and for evaluation.

    Args:
        source: see `open_clips`.
        frames: T of a clip.
        image_size: side in pixels; None: the clips' own, where they share one.
        channels: 1 or 3; None: the clips' own.
        batch_size: samples per step and process.
        seed: of the order, of the places in the videos and of the augmentations.
        crop_scale: share of the frame's area in a random crop, which all frames of a clip share;
            None: no random crop.
        flip: mirror every second training clip, at random; then right and left are one.
        clips_per_video: in evaluation, uniform in time.
        workers: processes that read; None: none for clips in memory, else one per processor
            up to 8.
        max_unreadable: largest accepted share of unreadable videos.
    """

    def __init__(
        self,
        *,
        source: str = "sprites",
        frames: int = 16,
        image_size: int | None = None,
        channels: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        crop_scale: tuple[float, float] | None = (0.3, 1.0),
        flip: bool = False,
        clips_per_video: int = 1,
        workers: int | None = None,
        max_unreadable: float = 0.1,
    ) -> None:
        super().__init__(
            source=source,
            image_size=image_size,
            channels=channels,
            batch_size=batch_size,
            seed=seed,
            workers=workers,
            max_unreadable=max_unreadable,
        )
        self.frames, self.clips_per_video = frames, clips_per_video
        self.crop_scale, self.flip = crop_scale, flip

    def open(self, split: Split) -> ClipSet:
        """The videos of a split; some are read, to see whether they can be."""
        options = {} if self._image_size is None else {"image_size": self._image_size}
        opened = open_clips(self.source, split, frames=self.frames, **options)
        scan(opened, self.max_unreadable, seed=self.seed)
        return opened

    def train_loader(
        self, *, start: Callable[[], int] = lambda: 0, rank: int = 0, world_size: int = 1
    ) -> TrainLoader:
        """Training batches of one process, from step `start()` on; see `TrainClipBatches`."""
        batches = TrainClipBatches(
            self.images("train"),
            batch_size=self.batch_size,
            image_size=self.image_size,
            channels=self.channels,
            seed=self.seed,
            crop_scale=self.crop_scale,
            flip=self.flip,
            rank=rank,
            world_size=world_size,
        )
        return TrainLoader(
            batches, start=start, workers=self.workers, max_unreadable=self.max_unreadable
        )

    def evaluation_loader(
        self, split: Split, *, rows: Int64[Tensor, " rows"] | None = None, batch_size: int = 64
    ) -> EvaluationLoader:
        """A split in order, or the videos `rows` of it: `clips_per_video` clips of each, one
        after the other, without augmentation; see `EvaluationClipBatches`."""
        batches = EvaluationClipBatches(
            self.images(split),
            batch_size=batch_size,
            image_size=self.image_size,
            channels=self.channels,
            rows=rows,
            views=self.clips_per_video,
        )
        return EvaluationLoader(batches, workers=self.workers, max_unreadable=self.max_unreadable)
