"""Videos that are stored as folders of images, one image a frame."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from .clip_times import ClipTimes
from .clips import ClipSet, UnreadableVideoError
from .folders import decode
from .images import UnreadableImageError, fingerprint, label_tensor
from .video_lists import Listing, is_image, natural
from .video_readers import shrunk


class FrameFolderClips(ClipSet):
    """Folders of frames with labels, in natural order of the names: frame 10 comes after frame 9.

    The fingerprint follows frames that come or go, not frames that are written over.

    Args:
        listing: folders, labels, classes and groups.
        times: which frames make a clip, by step; images have no times.
        short_side: pixels of the shorter side to which larger frames are shrunk; None: as stored.

    Raises ValueError if `times` asks for frames per second.
    """

    channels = 3
    size = None

    def __init__(self, listing: Listing, times: ClipTimes, short_side: int | None) -> None:
        if times.fps is not None:
            raise ValueError(f"folders of frames have no frame rate: use step, not fps={times.fps}")
        self.paths, self.classes = listing.paths, listing.classes
        self.labels, self.groups = label_tensor(listing.labels), listing.groups
        self.targets, self.frames = {}, times.frames
        self.times, self.short_side = times, short_side
        self.fingerprint = fingerprint(listing.content, f"{times} {short_side}")

    def clip(self, index: int, position: float) -> UInt8[Tensor, "3 T H W"]:
        folder = self.paths[index]
        try:
            names = sorted(filter(is_image, os.listdir(folder)), key=natural)
        except OSError as problem:
            raise UnreadableVideoError(str(folder), str(problem)) from problem
        if not names:
            raise UnreadableVideoError(str(folder), "holds no images")
        numbers = self.times.pick(np.arange(len(names), dtype=np.float64), position)
        wanted, places = np.unique(numbers, return_inverse=True)
        try:
            frames = self._decoded([folder / names[number] for number in wanted])
        except UnreadableImageError as problem:
            raise UnreadableVideoError(str(folder), str(problem)) from problem
        return frames[:, torch.from_numpy(places)]

    def _decoded(self, paths: list[Path]) -> UInt8[Tensor, "3 T H W"]:
        """Images as frames of one size: that of the first, shrunk."""
        frames = []
        for path in paths:
            if not path.is_file():  # to open a named pipe would wait for ever
                raise UnreadableImageError(str(path), "is no regular file")
            image = decode(path)
            _, height, width = frames[0].shape if frames else image.shape
            frames.append(
                resize(image, list(shrunk(height, width, self.short_side)), antialias=True)
            )
        return torch.stack(frames, dim=1)

    def name(self, index: int) -> str:
        return str(self.paths[index])
