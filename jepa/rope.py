"""Rotary positions of clips: queries and keys turned by angles that grow with (t, h, w).

V-JEPA 2 (Assran et al. 2025, arXiv:2506.09985, section 2.1): a third of a head's channels each
for time, row and column. The tables are made once for a grid and shared by all layers.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa.shapes import Grid

RopeStyle: TypeAlias = Literal["rope", "rope_legacy"]


class Rope(NamedTuple):
    """What turns a head's channels at each token: x * cos + swapped(x) * sin.

    `sin` carries the signs: channels 2i and 2i + 1 are a pair, the first gets -sin.
    """

    cos: Float[Tensor, "*B N d"]
    sin: Float[Tensor, "*B N d"]

    def take(self, index: Int64[Tensor, "B K"]) -> Rope:
        """The rows of the tokens `index` of each sample: [B, K, d]."""
        return Rope(self.cos[index], self.sin[index])

    def to(self, device: torch.device) -> Rope:
        """On another device."""
        return Rope(self.cos.to(device), self.sin.to(device))


@functools.lru_cache(maxsize=64)
def rope_table(head_dim: int, grid: Grid, style: RopeStyle = "rope") -> Rope:
    """The table of all tokens of a grid (t, h, w), or (h, w) with t = 1, in raster order.

    Each axis has d = 2 * (head_dim // 3 // 2) channels with the angles
    position * 10000^(-i / (d / 2)), i < d / 2; what is left over of the head is not turned.

    Args:
        head_dim: channels of one head.
        style: `rope`: channels 2i and 2i + 1 share angle i, so that attention depends on
            differences of positions only. `rope_legacy`: channel j has angle j mod d / 2, while
            the pairs are neighbours all the same; no rotation, but what the released V-JEPA 2
            weights were trained with.

    Returns:
        cos and sin [N, head_dim], float32, computed in float64. Shared by all callers: do not
        write to them.
    """
    channels = 2 * (head_dim // 3 // 2)
    if not channels:
        raise ValueError(f"3-D rotary positions need heads of 6 channels or more; got {head_dim}")
    omega = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    axes = [torch.arange(side, dtype=torch.float64) for side in ((1,) * (3 - len(grid)) + grid)]
    angles = []
    for position in torch.meshgrid(*axes, indexing="ij"):
        angle = position.flatten()[:, None] * omega
        paired = angle.repeat_interleave(2, dim=1)
        angles.append(paired if style == "rope" else angle.repeat(1, 2))
    unturned = torch.zeros(len(angles[0]), head_dim - 3 * channels, dtype=torch.float64)
    angle = torch.cat([*angles, unturned], dim=1)
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(-(-head_dim // 2))[:head_dim]
    return Rope(angle.cos().float(), (sign * angle.sin()).float())


def turn(x: Float[Tensor, "B N *S d"], rope: Rope) -> Float[Tensor, "B N *S d"]:
    """Channels turned by their token's angles; `S` are heads, or (query and key, heads)."""
    shape = (*rope.cos.shape[:-1], *(1,) * (x.ndim - 3), x.shape[-1])
    cos, sin = (table.to(x.dtype).reshape(shape) for table in rope)
    odd = x.shape[-1] % 2
    swapped = x[..., : x.shape[-1] - odd].unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    if odd:
        swapped = torch.cat([swapped, x[..., -1:]], dim=-1)
    return x * cos + swapped * sin
