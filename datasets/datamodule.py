"""The LightningDataModule of images, and what it has in common with that of clips."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Int64
from pytorch_lightning import LightningDataModule
from torch import Tensor

from jepa.seeds import generator

from .augmented_views import ViewBatch, ViewBatches, Views
from .batch_loaders import EvaluationLoader, TrainLoader
from .clip_loaders import TrainClipBatches
from .clips import ClipSet, InMemoryClips
from .fixed_views import FixedViews
from .images import ImageSet, InMemoryImages, Split, fingerprint, open_images
from .loaders import EvaluationBatches, TrainBatches
from .reading import scan

Source = TypeVar("Source", ImageSet, ClipSet)
Opened = TypeVar("Opened", ImageSet, ClipSet)


class DataModule(LightningDataModule, Generic[Source]):
    """What images and clips have in common: the sets, opened once, and the order of training.

    Subclasses say how a split is opened and which batches are made of it.
    """

    def __init__(
        self,
        *,
        source: str,
        image_size: int | None,
        channels: int | None,
        batch_size: int,
        seed: int,
        crop_scale: tuple[float, float] | None,
        flip: bool,
        workers: int | None,
        max_unreadable: float,
    ) -> None:
        super().__init__()
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.crop_scale, self.flip, self.max_unreadable = crop_scale, flip, max_unreadable
        if workers is not None and workers < 0:
            raise ValueError(f"workers are at least 0; got {workers}")
        self._image_size, self._channels, self._workers = image_size, channels, workers
        self._sets: dict[Split, Source] = {}
        self.scanned = True  # for unreadable samples, when a set is opened

    @abstractmethod
    def open(self, split: Split) -> Source:
        """The set of a split, checked for unreadable samples."""

    def checked(self, opened: Opened) -> Opened:
        """The set itself, after a look for unreadable samples, unless `scanned` is false."""
        if self.scanned:
            scan(opened, self.max_unreadable, seed=self.seed)
        return opened

    @abstractmethod
    def train_loader(
        self, *, start: Callable[[], int] = lambda: 0, rank: int = 0, world_size: int = 1
    ) -> TrainLoader:
        """Training batches of one process, from step `start()` on."""

    @abstractmethod
    def evaluation_loader(
        self, split: Split, *, rows: Int64[Tensor, " rows"] | None = None, batch_size: int = 256
    ) -> EvaluationLoader:
        """A split in order, or the samples `rows` of it, without augmentation."""

    @abstractmethod
    def train_batches(self, **options: Any) -> TrainBatches | TrainClipBatches:
        """Batches of the training set, as `augmentation` says but for `options`."""

    def augmentation(self, **options: Any) -> dict[str, Any]:
        """What batches of images and of clips are made with."""
        return {
            "batch_size": self.batch_size,
            "image_size": self.image_size,
            "channels": self.channels,
            "seed": self.seed,
            "crop_scale": self.crop_scale,
            "flip": self.flip,
            **options,
        }

    def views_loader(self, rows: Int64[Tensor, " rows"], count: int) -> EvaluationLoader:
        """`count` augmented views of each of some training samples, the same at every call.

        They differ in crop and flip, as in training; where training has neither, in crops of
        0.3 to 1 of the area.
        """
        plain = self.crop_scale is None and not self.flip
        batches = self.train_batches(crop_scale=(0.3, 1.0)) if plain else self.train_batches()
        views = FixedViews(batches, rows=rows, count=count, seed=self.seed)
        return EvaluationLoader(views, workers=self.workers, max_unreadable=self.max_unreadable)

    def images(self, split: Split) -> Source:
        """The set of a split, opened and checked once."""
        if split not in self._sets:
            self._sets[split] = self.open(split)
        return self._sets[split]

    @property
    def image_size(self) -> int:
        """Side of the images in a batch, in pixels."""
        if self._image_size is not None:
            return self._image_size
        size = self.images("train").size
        if size is None or size[0] != size[1]:
            given = "differ in size" if size is None else f"are {size[0]}x{size[1]}"
            raise ValueError(f"the images of {self.source} {given}: give image_size, e.g. 224")
        return size[0]

    @property
    def channels(self) -> int:
        """Channels of the images in a batch."""
        return self.images("train").channels if self._channels is None else self._channels

    @property
    def workers(self) -> int:
        """Processes that read: none for what is in memory, else one per processor up to 8."""
        if self._workers is not None:
            return self._workers
        in_memory = isinstance(self.images("train"), InMemoryImages | InMemoryClips)
        return 0 if in_memory else min(8, os.cpu_count() or 1)

    def prepare_data(self) -> None:
        """Download, if the source does: once per machine."""
        self.images("train")

    def setup(self, stage: str) -> None:
        """Open the set: wrong sources and unreadable sets fail before the first step."""
        self.images("train")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to know: which samples the order is an order of."""
        images = self.images("train")
        return {"samples": len(images), "labels": fingerprint(images.labels.numpy().tobytes())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if there are other samples than when the run began, by their number
        and labels: files may have been copied to another place."""
        if state_dict != (now := self.state_dict()):
            raise ValueError(
                f"{self.source} has changed since the run began: {state_dict['samples']} samples "
                f"then, {now['samples']} now, or other labels. Bring them back to go on with the "
                "run, or begin another from its weights with --init_from"
            )

    def train_dataloader(self) -> TrainLoader:
        """The loader that goes on at the trainer's step, which is all that it needs to know."""
        trainer = self.trainer
        if trainer is None:
            raise RuntimeError("train_dataloader needs a trainer; without one use train_loader")
        return self.train_loader(
            start=lambda: trainer.global_step * trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def draw(self, split: Split, count: int, *purpose: str) -> Int64[Tensor, " count"]:
        """At most `count` different samples of a split, in random order under the named seed."""
        n = len(self.images(split))
        return torch.randperm(n, generator=generator(self.seed, *purpose))[:count]


class ImageDataModule(DataModule[ImageSet]):
    """Images of one source for pretraining and for evaluation.

    Args:
        source: see `open_images`.
        image_size: side in pixels; None: the images' own, where they share one.
        channels: 1 or 3; None: the images' own.
        batch_size: samples per step and process.
        seed: of the order and of the augmentations.
        crop_scale: share of the image's area in a random crop; None: no random crop.
        flip: mirror every second training image, at random.
        views: training batches have a field `views` [B, V, C, S, S] instead of `images`, for
            joint embedding: how many views, and how they differ; None: one image, `images`.
        workers: processes that read; None: none for images in memory, else one per processor
            up to 8.
        max_unreadable: largest accepted share of unreadable images.
        decoded: folder where images are kept once they have been decoded, as squares of
            image_size / sqrt(least share in a random crop); None: they are decoded anew each time.
    """

    def __init__(
        self,
        *,
        source: str = "photographs",
        image_size: int | None = None,
        channels: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        crop_scale: tuple[float, float] | None = (0.3, 1.0),
        flip: bool = False,
        views: Views | None = None,
        workers: int | None = None,
        max_unreadable: float = 0.1,
        decoded: Path | None = None,
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
        self.views, self.decoded = views, decoded
        if decoded is not None and image_size is None:
            raise ValueError("decoded images are kept at one size: give image_size, e.g. 224")

    def open(self, split: Split) -> ImageSet:
        """The images of a split, checked for unreadable ones."""
        options = {} if self._image_size is None else {"image_size": self._image_size}
        opened = self.checked(open_images(self.source, split, **options))
        if self.decoded is None or self._image_size is None:
            return opened
        from .decoded_images import decoded_images

        return decoded_images(
            opened,
            self.decoded,
            math.ceil(self._image_size / math.sqrt(self.crop_scale[0] if self.crop_scale else 1)),
            workers=min(8, os.cpu_count() or 1) if self._workers is None else self._workers,
            max_unreadable=self.max_unreadable,
        )

    def train_loader(
        self, *, start: Callable[[], int] = lambda: 0, rank: int = 0, world_size: int = 1
    ) -> TrainLoader:
        """Training batches of one process, from step `start()` on: see `TrainBatches`, or
        `ViewBatches` where there are views. For a trainer's accelerator these leave it to
        `on_after_batch_transfer` to change colours and sharpness."""
        batches = self.train_batches(rank=rank, world_size=world_size)
        if self.views is not None:
            trainer = self.trainer
            later = trainer is not None and trainer.strategy.root_device.type != "cpu"
            batches = ViewBatches(batches, self.views, later=later)
        return TrainLoader(
            batches,
            start=start,
            workers=self.workers,
            max_unreadable=self.max_unreadable,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """On the device: what views still want."""
        if isinstance(batch, ViewBatch) and self.views is not None:
            return batch.done(self.views)
        return batch

    def train_batches(self, **options: Any) -> TrainBatches:
        """See `TrainBatches`, which takes the options."""
        return TrainBatches(self.images("train"), **self.augmentation(**options))

    def evaluation_loader(
        self, split: Split, *, rows: Int64[Tensor, " rows"] | None = None, batch_size: int = 256
    ) -> EvaluationLoader:
        """A split in order, or the images `rows` of it, without augmentation."""
        batches = EvaluationBatches(
            self.images(split),
            batch_size=batch_size,
            image_size=self.image_size,
            channels=self.channels,
            rows=rows,
        )
        return EvaluationLoader(batches, workers=self.workers, max_unreadable=self.max_unreadable)


class MadeImages(ImageDataModule):
    """An `ImageDataModule` over images that are there already, such as frames of an environment.

    Args:
        images: the sets by split.
        options: as for `ImageDataModule`.
    """

    def __init__(self, images: Mapping[Split, ImageSet], **options: Any) -> None:
        super().__init__(source="made", **options)
        self._sets.update(images)
