"""Fixed sine-cosine positions on a patch grid of any size, aspect and length."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.shapes import Grid
from jepa.tables import CPU, shared_table

Positions: TypeAlias = Literal["sincos", "rope", "rope_legacy"]


def sincos_1d(dim: int, positions: Float[Tensor, " N"]) -> Float[Tensor, "N dim"]:
    """[sin | cos] of position / 10000^(2i/dim), i < dim/2; computed in float64."""
    omega = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.double()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(dim: int, grid: Grid, native: Grid) -> Float[Tensor, "N dim"]:
    """Positions of I-JEPA: the first half of the width encodes the column, the second the row.

    On a grid other than `native` the coordinates are stretched so that the two grids cover the
    same picture (patch centres, as in image resizing); on the native grid they are integers.

    Args:
        dim: width, a multiple of 4.
        grid: (h, w) of the picture at hand.
        native: (h, w) that the weights were trained on.

    Returns:
        [h*w, dim] float32, in raster order.
    """
    if dim % 4:
        raise ValueError(f"2-D sin-cos positions need a width divisible by 4; got {dim}")
    rows, columns = (stretched(*sides) for sides in zip(grid, native, strict=True))
    table = torch.cat(
        [
            sincos_1d(dim // 2, columns).repeat(grid[0], 1),
            sincos_1d(dim // 2, rows).repeat_interleave(grid[1], dim=0),
        ],
        dim=1,
    )
    return table.float()


def sincos_3d(dim: int, grid: Grid, native: Grid) -> Float[Tensor, "N dim"]:
    """Positions of V-JEPA (its `uniform_power`): a third of the width for each of t, h and w.

    Each axis is given 2 * ceil(dim / 6) numbers, and the whole is cut to `dim`. Rows and columns
    are stretched as in `sincos_2d`; times are not: a longer clip lasts longer.

    Args:
        dim: width.
        grid: (t, h, w) of the clip at hand.
        native: (t, h, w) that the weights were trained on.

    Returns:
        [t*h*w, dim] float32, in raster order.
    """
    axes = [torch.arange(grid[0], dtype=torch.float64)]
    axes += [stretched(*sides) for sides in zip(grid[1:], native[1:], strict=True)]
    places = torch.meshgrid(*axes, indexing="ij")
    each = 2 * -(-dim // 6)
    return torch.cat([sincos_1d(each, p.flatten()) for p in places], dim=1)[:, :dim].float()


@shared_table
def sincos(
    dim: int, grid: Grid, native: Grid, device: torch.device = CPU
) -> Float[Tensor, "N dim"]:
    """`sincos_2d` on image grids (h, w), `sincos_3d` on clip grids (t, h, w).

    Shared by all callers: do not write to it.
    """
    return (sincos_2d if len(native) == 2 else sincos_3d)(dim, grid, native).to(device)


def stretched(side: int, native: int) -> Float[Tensor, " side"]:
    """Patch centres of an axis of `side` patches, in units of `native` patches on that axis."""
    return (torch.arange(side, dtype=torch.float64) + 0.5) * (native / side) - 0.5
