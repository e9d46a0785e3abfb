"""A bar over long work, with the time left."""

from __future__ import annotations

import sys

from tqdm import tqdm


def bar(total: int, title: str, unit: str, *, done: int = 0, shown: bool = True) -> tqdm:
    """tqdm's, on stderr: redrawn on a terminal, a line every 10 s in logs.

    Args:
        total: units of work.
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
