"""Fixed sine-cosine positions on a patch grid of any size and aspect."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.shapes import Grid


def sincos_1d(dim: int, positions: Float[Tensor, " N"]) -> Float[Tensor, "N dim"]:
    """[sin | cos] of position / 10000^(2i/dim), i < dim/2; computed in float64."""
    omega = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.double()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@functools.lru_cache(maxsize=64)
def sincos_2d(dim: int, grid: Grid, native: Grid) -> Float[Tensor, "N dim"]:
    """Positions of I-JEPA: the first half of the width encodes the column, the second the row.

    On a grid other than `native` the coordinates are stretched so that the two grids cover the
    same picture (patch centres, as in image resizing); on the native grid they are integers.

    Args:
        dim: width, a multiple of 4.
        grid: (h, w) of the picture at hand.
        native: (h, w) that the weights were trained on.

    Returns:
        [h*w, dim] float32, in raster order. Shared by all callers: do not write to it.
    """
    if dim % 4:
        raise ValueError(f"2-D sin-cos positions need a width divisible by 4; got {dim}")
    (h, w), (native_h, native_w) = grid, native
    rows = (torch.arange(h) + 0.5) * (native_h / h) - 0.5
    columns = (torch.arange(w) + 0.5) * (native_w / w) - 0.5
    table = torch.cat(
        [
            sincos_1d(dim // 2, columns).repeat(h, 1),
            sincos_1d(dim // 2, rows).repeat_interleave(w, dim=0),
        ],
        dim=1,
    )
    return table.float()
