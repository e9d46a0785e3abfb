"""Random resized crops of a whole batch at once, for images that are already in memory.

The same distribution as `pretrain_transform` at a tenth of the time, where the loader shares
two cores with the training. Every image has its own seed, so a batch is the same however it is
cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from .transforms import ASPECT

ATTEMPTS = 10


def draw_crops(
    seeds: Sequence[int], size: tuple[int, int], scale: tuple[float, float] | None
) -> tuple[Int64[Tensor, "B 4"], Bool[Tensor, " B"]]:
    """(top, left, height, width) and whether to flip, one draw per seed.

    As torchvision's RandomResizedCrop: area uniform in `scale`, aspect log-uniform in 3/4 to
    4/3, drawn again while it does not fit; after ten attempts, or with `scale` None, the
    central square, as in evaluation.
    """
    source, rows = torch.Generator(), []
    for seed in seeds:
        rows.append(torch.rand(ATTEMPTS, 5, generator=source.manual_seed(seed)))
    area, aspect, y, x, flip = torch.stack(rows).unbind(-1)
    mirrored = flip[:, 0] < 0.5
    side = min(size)
    square = ((size[0] - side) // 2, (size[1] - side) // 2, side, side)
    if scale is None:
        return torch.tensor([square]).expand(len(rows), 4), mirrored
    area = math.prod(size) * (scale[0] + area * (scale[1] - scale[0]))
    low, high = map(math.log, ASPECT)
    aspect = (low + aspect * (high - low)).exp()
    height, width = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (height >= 1) & (height <= size[0]) & (width >= 1) & (width <= size[1])
    first = fits.int().argmax(1, keepdim=True)
    tried = torch.stack(
        [
            (y * (size[0] - height + 1)).floor(),
            (x * (size[1] - width + 1)).floor(),
            height,
            width,
        ],
        dim=-1,
    ).long()
    boxes = tried.gather(1, first[..., None].expand(-1, -1, 4))[:, 0]
    return torch.where(fits.any(1)[:, None], boxes, torch.tensor(square)), mirrored


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
    images: UInt8[Tensor, "B C H W"],
    boxes: Int64[Tensor, "B 4"],
    flip: Bool[Tensor, " B"],
    size: int,
) -> UInt8[Tensor, "B C S S"]:
    """Each image's box resized to `size` x `size`, then mirrored where `flip`."""
    top, left, height, width = boxes.unbind(1)
    rows = resample(top, height, images.shape[2], size)
    columns = resample(left, width, images.shape[3], size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    out = rows[:, None] @ images.float() @ columns.transpose(1, 2)[:, None]
    return out.round().clamp(0, 255).to(torch.uint8)
