"""Labelled videos: one small interface, from which clips are taken."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from .images import UnreadableImageError


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
