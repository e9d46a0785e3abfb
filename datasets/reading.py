"""What happens when a sample cannot be read: skipped, counted, named; too many are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from jepa.seeds import generator

from .clips import ClipSet, InMemoryClips
from .images import ImageSet, InMemoryImages, UnreadableImageError

log = logging.getLogger(__name__)

SCANNED_IMAGES, SCANNED_VIDEOS = 512, 32  # at most so many are decoded before training starts
NAMED = 10  # of the unreadable samples, in messages


class TooManyUnreadableError(RuntimeError):
    """More of a data set is unreadable than the stated share."""


class UnreadableTally:
    """Counts and names the unreadable samples of one set, each once.

    Args:
        total: samples that the count is a share of.
        limit: largest accepted share, in [0, 1).
        noun: what the samples are called in messages.
    """

    def __init__(self, total: int, limit: float, noun: str = "images") -> None:
        if not 0 <= limit < 1:
            raise ValueError(f"the accepted share of unreadable {noun} is in [0, 1); got {limit}")
        self.total, self.limit, self.noun = total, limit, noun
        self.found: dict[str, None] = {}

    def add(self, unreadable: Iterable[str]) -> None:
        """Log what is new; raise TooManyUnreadableError beyond the limit."""
        for message in unreadable:
            if message not in self.found:
                self.found[message] = None
                log.warning(
                    "unreadable %s skipped (%d so far): %s", self.noun, len(self.found), message
                )
        if len(self.found) > self.limit * self.total:
            named = "".join(f"\n  {message}" for message in list(self.found)[:NAMED])
            raise TooManyUnreadableError(
                f"{len(self.found)} of {self.total} {self.noun} are unreadable, more than the "
                f"accepted {self.limit:.0%}: repair or remove them, or raise max_unreadable. "
                f"The first:{named}"
            )


def scan(samples: ImageSet | ClipSet, limit: float, *, seed: int = 0) -> list[str]:
    """Decode up to 512 images, or one clip of each of up to 32 videos, drawn at random; return
    what is wrong with the unreadable ones.

    Of a larger set this is an estimate; `UnreadableTally` goes on counting while it is used.
    Raises TooManyUnreadableError when more than the share `limit` of them is unreadable.
    """
    if isinstance(samples, InMemoryImages | InMemoryClips):
        return []
    if isinstance(samples, ClipSet):
        noun, count = "videos", SCANNED_VIDEOS
    else:
        noun, count = "images", SCANNED_IMAGES
    chosen = torch.randperm(len(samples), generator=generator(seed, "scan"))[:count]
    problems: list[str] = []
    for index in chosen.tolist():
        try:
            samples.clip(index, 0.5) if isinstance(samples, ClipSet) else samples[index]
        except UnreadableImageError as problem:
            problems.append(str(problem))
    UnreadableTally(len(chosen), limit, noun).add(problems)
    return problems
