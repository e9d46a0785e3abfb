"""Which frames of a video make a clip: every n-th one, or the nearest to so many a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

ROUNDING = 1e-6  # seconds by which two distances in time may differ and still be the same


@dataclass(frozen=True)
class ClipTimes:
    """Frames of a clip. A video that is too short repeats its last frame.

    frames: T, how many.
    step: distance between two, counted in frames of the video; or else
    fps: frames per second, of each the nearest one in time; more than the video has repeats some.
    """

    frames: int = 16
    step: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"a clip has at least one frame; got frames={self.frames}")
        if (self.step is None) == (self.fps is None):
            raise ValueError(
                f"give either step=4 (every 4th frame) or fps=8 (8 frames per second); "
                f"got step={self.step}, fps={self.fps}"
            )
        if (self.step is not None and self.step < 1) or (self.fps is not None and self.fps <= 0):
            raise ValueError(f"step is at least 1, fps above 0; got {self.step}, {self.fps}")

    def pick(self, seconds: Float[np.ndarray, " n"], position: float) -> Int64[np.ndarray, " T"]:
        """Indices of the clip's frames in a video whose n frames are shown at `seconds`, sorted.

        Args:
            seconds: when each frame is shown, increasing.
            position: in [0, 1], between the first and the last start at which the clip fits.
        """
        if not 0 <= position <= 1:
            raise ValueError(f"a clip's position is in [0, 1]; got {position}")
        last = len(seconds) - 1
        if self.step is not None:
            slack = max(last - (self.frames - 1) * self.step, 0)
            picked = round(position * slack) + self.step * np.arange(self.frames)
            return np.minimum(picked, last)
        assert self.fps is not None
        offsets = np.arange(self.frames) / self.fps
        slack = max(seconds[last] - seconds[0] - offsets[-1], 0.0)
        return nearest(seconds, seconds[0] + position * slack + offsets)


def nearest(
    seconds: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " T"]
) -> Int64[np.ndarray, " T"]:
    """Index of the frame nearest in time to each wanted time; the earlier one of two."""
    after = np.searchsorted(seconds, wanted).clip(1, len(seconds) - 1) if len(seconds) > 1 else None
    if after is None:
        return np.zeros(len(wanted), dtype=np.int64)
    earlier = wanted - seconds[after - 1] <= seconds[after] - wanted + ROUNDING
    return (after - earlier).astype(np.int64)
