"""Random resized crops of a whole batch at once, for images that are already in memory.

The same distribution as `pretrain_transform` at a tenth of the time, where the loader shares
two cores with the training. Every image has its own seed, so a batch is the same however it is
cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from .transforms import ASPECT

ATTEMPTS = 10


def draws(seeds: Sequence[int], *shape: int) -> Float[Tensor, "B *shape"]:
    """Uniform numbers in [0, 1), of the given shape for each seed."""
    source = torch.Generator()
    return torch.stack([torch.rand(shape, generator=source.manual_seed(s)) for s in seeds])


def draw_crops(
    seeds: Sequence[int], size: tuple[int, int], scale: tuple[float, float]
) -> Int64[Tensor, "B 4"]:
    """(top, left, height, width), one box per seed, in images of `size` (height, width).

    As torchvision's RandomResizedCrop: area uniform in `scale`, aspect log-uniform in 3/4 to
    4/3, drawn again while it does not fit; after ten attempts the central square.
    """
    area, aspect, y, x = draws(seeds, ATTEMPTS, 4).unbind(-1)
    area = math.prod(size) * (scale[0] + area * (scale[1] - scale[0]))
    low, high = map(math.log, ASPECT)
    aspect = (low + aspect * (high - low)).exp()
    height, width = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (height >= 1) & (height <= size[0]) & (width >= 1) & (width <= size[1])
    top = (y * (size[0] - height + 1)).floor()
    left = (x * (size[1] - width + 1)).floor()

    boxes = torch.stack([top, left, height, width], dim=-1).long()
    first = fits.int().argmax(1)
    side = min(size)
    square = torch.tensor([(size[0] - side) // 2, (size[1] - side) // 2, side, side])
    return torch.where(fits.any(1)[:, None], boxes[torch.arange(len(first)), first], square)


def resample(
    start: Int64[Tensor, " B"], length: Int64[Tensor, " B"], full: int, size: int
) -> Float[Tensor, "B S L"]:
    """Matrices that resize [start, start + length) of an axis of `full` pixels to `size` pixels.

    Bilinear with antialiasing: triangles around the pixel centres, as wide as the step when
    that is more than a pixel; nothing outside the interval has weight.
    """
    step = (length / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size)[:, None] + 0.5) * step - 0.5
    pixel = torch.arange(full)
    weight = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(-1, keepdim=True)


def resized_crops(
    images: UInt8[Tensor, "B C H W"], boxes: Int64[Tensor, "B 4"], size: int
) -> UInt8[Tensor, "B C S S"]:
    """Each image's box (top, left, height, width) resized to `size` x `size`."""
    top, left, height, width = boxes.unbind(1)
    rows = resample(top, height, images.shape[2], size)
    columns = resample(left, width, images.shape[3], size)
    out = rows[:, None] @ images.float() @ columns.transpose(1, 2)[:, None]
    return out.round().clamp(0, 255).to(torch.uint8)


def random_flips(
    images: UInt8[Tensor, "B C H W"], seeds: Sequence[int]
) -> UInt8[Tensor, "B C H W"]:
    """Each image mirrored left to right with probability 1/2, by its seed."""
    mirrored = draws(seeds, 1) < 0.5
    return torch.where(mirrored[..., None, None], images.flip(-1), images)
