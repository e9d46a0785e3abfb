"""Memory of the C library that a training step gives back and needs again at the next one."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_memory() -> bool:
    """From here on the process keeps what it frees, for its next tensors; True if it will.

    glibc asks the system anew for every tensor of 32 MB or more, and gives it back when it is
    freed: the pages are then cleared and mapped again in every layer of every step, which costs
    more than what is computed between two matrix products. The most that the process has ever
    needed is unchanged. Only glibc is told; others do as they do.
    """
    if not sys.platform.startswith("linux"):
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return tell is not None and bool(tell(MMAP_MAX, 0)) and bool(tell(TRIM_THRESHOLD, -1))
