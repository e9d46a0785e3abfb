"""Images among the videos: a batch is either clips or images, each image a clip of one frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from jepa.seeds import derive

from .clip_loaders import ClipBatch, TrainClipBatches
from .loaders import Batches, TrainBatches


@dataclass(frozen=True, kw_only=True)
class Stills:
    """Images that are trained on beside the videos.

    Args:
        source: see `open_images`.
        weight: share of the batches that are images, in (0, 1).
    """

    source: str
    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(
                f"the images' share of the batches is above 0 and below 1; got {self.weight}"
            )


class MixedBatches(Batches):
    """Batches of clips, and among them, evenly spread, batches of images.

    Which a step is, is the same on all ranks, and each kind has its own count of steps: every
    image and every video is shown once in each pass over its set. Labels are those of the set
    that a batch is from.

    Args:
        clips: the training batches of the videos.
        images: the training batches of the images, of the same batch size.
        weight: share of the batches that are images.
        seed: of the place of the first batch of images.
    """

    noun = "videos and images"

    def __init__(
        self, clips: TrainClipBatches, images: TrainBatches, *, weight: float, seed: int
    ) -> None:
        self.clips, self.images, self.weight = clips, images, weight
        self.phase = derive(seed, "stills") / 2**63

    @property
    def total(self) -> int:
        """Videos and images."""
        return self.clips.total + self.images.total

    def images_before(self, step: int) -> int:
        """How many of the steps 0 to step - 1 are images."""
        return math.floor(step * self.weight + self.phase)

    def __getitem__(self, step: int) -> ClipBatch:
        before = self.images_before(step)
        if self.images_before(step + 1) == before:
            return self.clips[step - before]
        batch = self.images[before]
        rows = torch.full_like(batch.labels, -1)
        return ClipBatch(batch.images[:, :, None], batch.labels, batch.unreadable, rows)
