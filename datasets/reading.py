"""What happens when an image cannot be read: skipped, counted, named; too many are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from jepa.seeds import generator

from .images import ImageSet, InMemoryImages, UnreadableImageError

log = logging.getLogger(__name__)

SCAN = 512  # images that are decoded before training starts
NAMED = 10  # of the unreadable images, in messages


class TooManyUnreadableError(RuntimeError):
    """More of a data set is unreadable than the stated share."""


class UnreadableTally:
    """Counts and names the unreadable images of one set, each once.

    Args:
        total: images that the count is a share of.
        limit: largest accepted share, in [0, 1).
    """

    def __init__(self, total: int, limit: float) -> None:
        if not 0 <= limit < 1:
            raise ValueError(f"the accepted share of unreadable images is in [0, 1); got {limit}")
        self.total, self.limit = total, limit
        self.found: dict[str, None] = {}

    def add(self, unreadable: Iterable[str]) -> None:
        """Log what is new; raise TooManyUnreadableError beyond the limit."""
        for message in unreadable:
            if message not in self.found:
                self.found[message] = None
                log.warning("unreadable image skipped (%d so far): %s", len(self.found), message)
        if len(self.found) > self.limit * self.total:
            named = "".join(f"\n  {message}" for message in list(self.found)[:NAMED])
            raise TooManyUnreadableError(
                f"{len(self.found)} of {self.total} images are unreadable, more than the accepted "
                f"{self.limit:.0%}: repair or remove them, or raise max_unreadable. "
                f"The first:{named}"
            )


def scan(images: ImageSet, limit: float, *, seed: int = 0) -> list[str]:
    """Decode up to 512 images, drawn at random, and return what is wrong with the unreadable.

    Of a larger set this is an estimate; `UnreadableTally` goes on counting while it is used.
    Raises TooManyUnreadableError when more than the share `limit` of them is unreadable.
    """
    if isinstance(images, InMemoryImages):
        return []
    chosen = torch.randperm(len(images), generator=generator(seed, "scan"))[:SCAN]
    problems: list[str] = []
    for index in chosen.tolist():
        try:
            images[index]
        except UnreadableImageError as problem:
            problems.append(str(problem))
    UnreadableTally(len(chosen), limit).add(problems)
    return problems
