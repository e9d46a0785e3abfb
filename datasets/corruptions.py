"""Corrupted images: noise, blur, JPEG, occlusion and lost light, at five severities."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from jepa.seeds import derive

from .augmented_views import gaussian_blur
from .crops import draws
from .loaders import ImageBatch

Kind: TypeAlias = Literal[
    "gaussian_noise", "gaussian_blur", "jpeg", "occlusion", "contrast", "brightness"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)

NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, of the range of grey levels
BLUR = (0.015, 0.025, 0.035, 0.05, 0.07)  # sigma, of the image's shorter side
QUALITY = (25, 18, 15, 10, 7)  # of the JPEG file
HIDDEN = (0.05, 0.1, 0.2, 0.3, 0.4)  # share of the area under a grey square
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # what is left of the distance to the mean
BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)  # added, of the range of grey levels


@dataclass(frozen=True)
class Corruption:
    """One kind at one severity.

    After Hendrycks & Dietterich 2019 (arXiv:1903.12261). Noise, JPEG, contrast and brightness have
    the strengths of their ImageNet-C: these are in grey levels, or in blocks of 8 pixels, and the
    same for every image size; on small images a JPEG block covers more of what is shown, so the
    same quality costs more. The width of the blur is a share of the image's shorter side (theirs
    are 0.4 % to 2.7 % of 224 pixels, of which the first would not reach the next pixel of an image
    of 28), and the square that hides a part of the image, which they do not have, a share of its
    area. Brightness is added to every channel.

    Args:
        kind: see KINDS.
        severity: 1, the mildest, to 5.
        seed: of the noise and of the square's place.
    """

    kind: Kind
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.severity not in SEVERITIES:
            raise ValueError(
                f"expected a kind of {', '.join(KINDS)} and a severity of 1 to 5; "
                f"got {self.kind!r} and {self.severity!r}"
            )

    def __call__(
        self, images: UInt8[Tensor, "B C H W"], rows: Sequence[int]
    ) -> UInt8[Tensor, "B C H W"]:
        """Corrupted copies. `rows` are the images' places in their set: each image's draws are a
        function of (seed, row, kind, severity), however the batch is cut."""
        if len(rows) != len(images):
            raise ValueError(f"expected one row per image, {len(images)}; got {len(rows)}")
        seeds = [derive(self.seed, "corrupt", self.kind, self.severity, row) for row in rows]
        return CORRUPT[self.kind](images, seeds, self.severity - 1)


def corrupted(batches: Iterable[ImageBatch], corruption: Corruption) -> Iterator[ImageBatch]:
    """The same batches of an evaluation loader with corrupted images."""
    for batch in batches:
        if batch.rows is None:
            raise ValueError("corruptions are for evaluation: training batches do not tell rows")
        yield batch._replace(images=corruption(batch.images, batch.rows.tolist()))


def gaussian_noise(images: Tensor, seeds: Sequence[int], level: int) -> UInt8[Tensor, "B C H W"]:
    """Every pixel and channel on its own."""
    source = torch.Generator()
    noise = [torch.randn(images.shape[1:], generator=source.manual_seed(s)) for s in seeds]
    return _in_bytes(images.float() + 255 * NOISE[level] * torch.stack(noise))


def blur(images: Tensor, seeds: Sequence[int], level: int) -> UInt8[Tensor, "B C H W"]:
    """Gaussian; nothing is drawn."""
    sigma = BLUR[level] * min(images.shape[-2:])
    return _in_bytes(gaussian_blur(images.float(), torch.full((len(images),), sigma)))


def jpeg(images: Tensor, seeds: Sequence[int], level: int) -> UInt8[Tensor, "B C H W"]:
    """Written to a JPEG file of that quality and read again; nothing is drawn."""
    files = [_jpeg_file(image, QUALITY[level]) for image in images.movedim(1, -1).numpy()]
    read = [np.asarray(Image.open(file)) for file in files]
    return torch.from_numpy(np.stack(read)).reshape(images.movedim(1, -1).shape).movedim(-1, 1)


def occlusion(images: Tensor, seeds: Sequence[int], level: int) -> UInt8[Tensor, "B C H W"]:
    """A square of middle grey somewhere inside the image, as Zeiler & Fergus 2014 hide parts."""
    height, width = images.shape[-2:]
    side = min(round((HIDDEN[level] * height * width) ** 0.5), height, width)
    top, left = (draws(seeds, 2) * torch.tensor([height - side + 1, width - side + 1])).long().T
    down, across = torch.arange(height), torch.arange(width)
    inside = (down >= top[:, None]) & (down < top[:, None] + side)
    beside = (across >= left[:, None]) & (across < left[:, None] + side)
    return images.masked_fill((inside[:, :, None] & beside[:, None])[:, None], 128)


def contrast(images: Tensor, seeds: Sequence[int], level: int) -> UInt8[Tensor, "B C H W"]:
    """Towards the image's mean, channel by channel; nothing is drawn."""
    pixels = images.float()
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return _in_bytes(mean + CONTRAST[level] * (pixels - mean))


def brightness(images: Tensor, seeds: Sequence[int], level: int) -> UInt8[Tensor, "B C H W"]:
    """Nothing is drawn."""
    return _in_bytes(images.float() + 255 * BRIGHTER[level])


CORRUPT: dict[Kind, Callable[[Tensor, Sequence[int], int], Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": blur,
    "jpeg": jpeg,
    "occlusion": occlusion,
    "contrast": contrast,
    "brightness": brightness,
}


def _jpeg_file(image: UInt8[np.ndarray, "H W C"], quality: int) -> io.BytesIO:
    file = io.BytesIO()
    grey = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if grey else image).save(file, format="JPEG", quality=quality)
    return file


def _in_bytes(pixels: Tensor) -> UInt8[Tensor, "B C H W"]:
    return pixels.round().clamp(0, 255).to(torch.uint8)
