"""Values that change with the optimiser step: pure functions, so that nothing is to be saved."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `steps` and after."""
    progress = min(step / max(steps, 1), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(step: int, steps: int, start: float, end: float) -> float:
    """A straight line from `start` at step 0 to `end` at step `steps` and after."""
    return start + (end - start) * min(step / max(steps, 1), 1.0)


def warmup_cosine(
    step: int, *, steps: int, warmup: int, start: float, peak: float, end: float
) -> float:
    """A line from `start` to `peak` over `warmup` steps, then half a cosine to `end`."""
    if step < warmup:
        return linear(step, warmup, start, peak)
    return cosine(step - warmup, steps - warmup, peak, end)
