"""A bar over long work, with the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(total: int | None, title: str, unit: str, *, done: int = 0, shown: bool = True) -> tqdm:
    """tqdm's, on stderr: redrawn on a terminal, a line every 10 s in logs.

    Args:
        total: units of work; None: not known, and so is the time left.
        title: what is being done.
        unit: its name.
        done: units that an earlier run has done.
        shown: False: nothing is printed.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        disable=not shown,
    )


def track(
    items: Iterable[T],
    title: str,
    unit: str,
    *,
    total: int | None = None,
    done: int = 0,
    shown: bool = True,
) -> Iterator[T]:
    """The items, under a bar that moves as they are asked for; see `bar`.

    total: by default the length of `items`, where they have one.
    """
    with bar(total or length_hint(items) or None, title, unit, done=done, shown=shown) as moving:
        for item in items:
            yield item
            moving.update()
