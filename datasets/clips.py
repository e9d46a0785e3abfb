"""Labelled videos: one small interface, and `open_clips`, the door to every source."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from .images import Split, UnreadableImageError, fingerprint, parse_source


class UnreadableVideoError(UnreadableImageError):
    """One video cannot be decoded; says which and why."""


class ClipSet(Dataset):
    """Videos with labels, by index. Subclasses set the fields and say how to read one clip.

    labels: class of each video, known without decoding it.
    classes: name of each label.
    targets: further things that are known of each video, by name: speeds, positions.
    channels: 1 or 3, the same for all videos.
    frames: T of every clip.
    size: (height, width) when all videos share it, else None.
    fingerprint: 16 hexadecimal digits that change with the content and the way of sampling.
    groups: which videos show the same scene, or None if that is not known.
    """

    labels: Int64[Tensor, " n"]
    classes: list[str]
    targets: dict[str, Float[Tensor, " n"]]
    channels: int
    frames: int
    size: tuple[int, int] | None
    fingerprint: str
    groups: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def clip(self, index: int, position: float) -> UInt8[Tensor, "C T H W"]:
        """One clip of a video; `position` in [0, 1] says where between its first and its last
        possible start. Raises UnreadableVideoError, and IndexError beyond the end."""

    @abstractmethod
    def name(self, index: int) -> str:
        """How messages call this video: a path, or the set and the index."""


class InMemoryClips(ClipSet):
    """Clips already made, all of one size: `images[indices]` is a batch.

    Each video is exactly one clip long, so that a position in it has no meaning.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "n C T H W"],
        labels: Int64[Tensor, " n"],
        *,
        classes: Sequence[str],
        title: str,
        targets: Mapping[str, Float[Tensor, " n"]],
        groups: Int64[Tensor, " n"] | None = None,
    ) -> None:
        self.images, self.labels, self.classes, self.title = images, labels, list(classes), title
        self.targets, self.groups = dict(targets), groups
        self.channels, self.frames = images.shape[1], images.shape[2]
        self.size = (images.shape[3], images.shape[4])
        self.fingerprint = fingerprint(
            str(tuple(images.shape)), images.numpy().tobytes(), labels.numpy().tobytes()
        )

    def clip(self, index: int, position: float) -> UInt8[Tensor, "C T H W"]:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"


def open_clips(
    source: str,
    split: Split,
    *,
    frames: int = 16,
    step: int | None = None,
    fps: float | None = None,
    image_size: int | None = None,
    detail: float = 1.0,
    reader: str = "auto",
) -> ClipSet:
    """The training or test clips of a source.

    Args:
        source: `sprites` and `motions` (made, need nothing), `videos:DIR` (one folder per class,
            optionally below train/ and test/ or val/), `frames:DIR` (the same with folders of
            images), `list:FILE` (lines of path, space, label), `csv:FILE`; see `video_files`.
            `decoded:DIR`: all video files below a folder, without labels, decoded once to disk;
            see `decoded_clips`.
        split: which half; no video is in both.
        frames: T of a clip.
        step, fps: of files: every step-th frame, or the nearest to so many a second; if neither
            is given every 4th frame.
        image_size: side of the clips that are made, in pixels; None: 32. Files give their
            frames at their own aspect.
        detail: larger frames of files are shrunk to a shorter side of detail * image_size while
            being read; without image_size they stay as stored.
        reader: of video files: auto, decord, pyav or torchcodec.

    Raises:
        ValueError: no such form of source; step or fps where they mean nothing; malformed files.
        FileNotFoundError: its files are not there.
    """
    from . import motions, sprites
    from .clip_times import ClipTimes
    from .decoded import decoded_clips
    from .videos import Kind, video_files

    made = {"sprites": sprites.sprites, "motions": motions.motions}
    kinds: dict[str, Kind] = {
        "videos:DIR": "videos",
        "list:FILE": "list",
        "csv:FILE": "csv",
        "frames:DIR": "frames",
    }
    form, place = parse_source(source, split, (*made, *kinds, "decoded:DIR"), "clip")
    if form in made:
        if step is not None or fps is not None:
            raise ValueError(f"step and fps are for files; {form} are made frame by frame")
        return made[form](split, frames=frames, image_size=image_size or 32)
    times = ClipTimes(frames, step=4 if step is None and fps is None else step, fps=fps)
    size = None if image_size is None else math.ceil(detail * image_size)
    if form == "decoded:DIR":
        if size is None:
            raise ValueError("decoded videos are kept at one size: give an image_size")
        return decoded_clips(place, split, times=times, size=size, reader=reader)
    return video_files(kinds[form], place, split, times=times, size=size, reader=reader)
