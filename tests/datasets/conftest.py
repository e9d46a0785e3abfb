"""Video files made for a test, whose pictures say which frame they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

HEIGHT, WIDTH, BLOCK = 96, 128, 16
BITS = WIDTH // BLOCK


def picture(number: int) -> np.ndarray:
    """[96, 128, 3]: a row of blocks with the bits of `number`, a row with their opposites, noise
    that is the same in all frames, and a bar that moves."""
    image = np.random.default_rng(0).integers(64, 192, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    image = image.repeat(4, axis=0).repeat(4, axis=1)
    for bit in range(BITS):
        on = number >> bit & 1
        columns = slice(bit * BLOCK, (bit + 1) * BLOCK)
        image[:BLOCK, columns] = 235 if on else 16
        image[BLOCK : 2 * BLOCK, columns] = 16 if on else 235
    image[3 * BLOCK :, number % WIDTH : number % WIDTH + 6] = (200, 30, 30)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a picture [h, w, 3] of any size shows; -1 if it shows none."""
    block = image.shape[1] / BITS
    centres = np.round((np.arange(BITS) + 0.5) * block).astype(int)
    bits, opposites = (image[round(row * block), centres].mean(axis=1) > 125 for row in (0.5, 1.5))
    return int((bits << np.arange(BITS)).sum()) if (bits != opposites).all() else -1


def write_video(
    path: Path,
    numbers: Sequence[int] = range(60),
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    rate: int = 30,
    times: Sequence[Fraction] | None = None,
    turn: int = 0,
    form: str | None = None,
) -> Path:
    """A file with one frame per number, shown at `times` in seconds, else at a constant rate."""
    base = Fraction(1, 1000 if times else rate)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stored = np.rot90(picture(0), turn).shape
        stream.height, stream.width, stream.pix_fmt = *stored[:2], pixels
        stream.codec_context.time_base = base
        for place, number in enumerate(numbers):
            image = np.ascontiguousarray(np.rot90(picture(number), turn))
            frame = av.VideoFrame.from_ndarray(image)
            frame.time_base = base
            frame.pts = round(times[place] / base) if times else place
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def shown() -> Callable[[np.ndarray], list[int]]:
    """The numbers that frames [T, h, w, 3] show."""
    return lambda frames: [number_of(frame) for frame in frames]
