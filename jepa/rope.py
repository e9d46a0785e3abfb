"""Rotary positions of clips: queries and keys turned by angles that grow with (t, h, w).

V-JEPA 2 (Assran et al. 2025, arXiv:2506.09985, section 2.1): a third of a head's channels each
for time, row and column. The tables are made once for a grid and shared by all layers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from jepa.shapes import Grid
from jepa.tables import CPU, shared_table

RopeStyle: TypeAlias = Literal["rope", "rope_legacy"]


class Rope(NamedTuple):
    """What turns a head's channels at each token: x * cos + swapped(x) * sin, see `turn`.

    Channels stand in the order of `split_order`, and `sin` carries the signs.
    """

    cos: Float[Tensor, "*B N d"]
    sin: Float[Tensor, "*B N d"]

    def take(self, index: Int64[Tensor, "*B K"]) -> Rope:
        """The rows of the tokens `index`, of each sample: [B, K, d]."""
        return Rope(self.cos[index], self.sin[index])

    def to(self, where: Tensor | torch.device) -> Rope:
        """On a device; or where the tokens are that are to be turned, and as precise as they."""
        return Rope(self.cos.to(where), self.sin.to(where))


@shared_table
def rope_table(
    head_dim: int, grid: Grid, style: RopeStyle = "rope", device: torch.device = CPU
) -> Rope:
    """The table of all tokens of a grid (t, h, w), or (h, w) with t = 1, in raster order.

    Each axis has d = 2 * (head_dim // 3 // 2) channels with the angles
    position * 10000^(-i / (d / 2)), i < d / 2; what is left over of the head is not turned.

    Args:
        head_dim: channels of one head.
        style: `rope`: channels 2i and 2i + 1 share angle i, so that attention depends on
            differences of positions only. `rope_legacy`: channel j has angle j mod d / 2, while
            the pairs are neighbours all the same; no rotation, but what the released V-JEPA 2
            weights were trained with.
        device: where it is to be.

    Returns:
        cos and sin [N, head_dim], channels in `split_order`, float32, computed in float64. Shared
        by all callers: do not write to them.
    """
    channels = 2 * (head_dim // 3 // 2)
    if not channels or head_dim % 2:
        raise ValueError(
            f"3-D rotary positions need heads of an even number of channels, from 6; got {head_dim}"
        )
    omega = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    axes = [torch.arange(side, dtype=torch.float64) for side in ((1,) * (3 - len(grid)) + grid)]
    angles = []
    for position in torch.meshgrid(*axes, indexing="ij"):
        angle = position.flatten()[:, None] * omega
        paired = angle.repeat_interleave(2, dim=1)
        angles.append(paired if style == "rope" else angle.repeat(1, 2))
    unturned = torch.zeros(len(angles[0]), head_dim - 3 * channels, dtype=torch.float64)
    angle = torch.cat([*angles, unturned], dim=1)[:, split_order(head_dim)]
    sign = torch.ones(2, head_dim // 2, dtype=torch.float64)
    sign[0] = -1
    return Rope(angle.cos().float(), (sign.flatten() * angle.sin()).float()).to(device)


@shared_table
def split_order(head_dim: int) -> Int64[Tensor, " d"]:
    """The first channels of all pairs, then the second ones: 0, 2, 4, ..., 1, 3, 5, ...

    A pair is then half a head apart, so that swapping its members is one copy of two blocks.
    Queries and keys are both put in this order, by the rows of their weights, which changes no
    product of the two. Shared by all callers: do not write to it.
    """
    return torch.arange(head_dim).view(-1, 2).T.flatten()


@shared_table
def qkv_rows(dim: int, heads: int, device: torch.device) -> Int64[Tensor, "2 rows"]:
    """The rows of the joint weight of queries, keys and values [3 * dim, ...], those of queries
    and keys with each head in `split_order`; and where each row has gone. Shared by all callers:
    do not write to them."""
    rows = torch.arange(3 * dim).unflatten(0, (3, heads, -1))
    rows[:2] = rows[:2, :, split_order(dim // heads)]
    return torch.stack([rows.flatten(), rows.flatten().argsort()]).to(device)


def split_rows(weight: Float[Tensor, "rows *D"], heads: int) -> Float[Tensor, "rows *D"]:
    """Weight or bias of queries, keys and values, with its rows in the order of `qkv_rows`."""
    if torch.compiler.is_compiling():  # which knows a better gradient itself
        return weight.index_select(0, qkv_rows(len(weight) // 3, heads, weight.device)[0])
    return TakeRows.apply(weight, *qkv_rows(len(weight) // 3, heads, weight.device))


class TakeRows(torch.autograd.Function):
    """All rows in another order. Indexing does the same, but its gradient is ten times slower:
    it does not know that no row is taken twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator's type
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, *ctx.saved_tensors), None, None


def turned(
    qkv: Float[Tensor, "B N 3 heads d"], rope: Rope
) -> tuple[
    Float[Tensor, "B heads N d"], Float[Tensor, "B heads N d"], Float[Tensor, "B heads N d"]
]:
    """Queries and keys, whose channels are in `split_order`, turned by their tokens' angles;
    and the values. All three in one piece of memory each, as products want them."""
    cos, sin = (table.unsqueeze(-3) for table in rope)
    if torch.compiler.is_compiling():  # which joins these steps itself, and stops at `out=`
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        half = qkv.shape[-1] // 2
        q, k = (x * cos + x.roll(half, dims=-1) * sin for x in (q, k))
        return q, k, v
    return Turned.apply(qkv, cos, sin)


class Turned(torch.autograd.Function):
    """Written straight to where they are needed, without copies in between."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        parts = qkv.permute(2, 0, 3, 1, 4)
        out = torch.empty_like(parts, memory_format=torch.contiguous_format)
        turn(parts[:2], cos, sin, out=out[:2])
        out[2].copy_(parts[2])
        return out[0], out[1], out[2]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator's type
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        q, k, v = gradients
        batch, heads, tokens, d = q.shape
        out = q.new_empty(batch, tokens, 3, heads, d)
        parts = out.permute(2, 0, 3, 1, 4)
        for gradient, part in ((q, parts[0]), (k, parts[1])):
            turn(gradient, cos, sin.roll(d // 2, dims=-1), out=part)
        parts[2].copy_(v)
        return out, None, None


def turn(x: Float[Tensor, "*S d"], cos: Tensor, sin: Tensor, *, out: Float[Tensor, "*S d"]) -> None:
    """x * cos + swapped(x) * sin, written to `out`: for the two members of each pair
    first * cos - second * sin, and second * cos + first * sin. Tables are broadcast."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
