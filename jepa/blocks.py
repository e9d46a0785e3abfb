"""Transformer blocks: timm's, with an attention that is fast on every device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jepa.rope import Rope, qkv_rows, turn

LAYER_NORM: Any = partial(nn.LayerNorm, eps=1e-6)


def attend(
    q: Float[Tensor, "B heads N d"],
    k: Float[Tensor, "B heads M d"],
    v: Float[Tensor, "B heads M d"],
) -> Float[Tensor, "B heads N d"]:
    """softmax(q k^T / sqrt(d)) v.

    torch's fused kernel, but in bfloat16 on a CPU the two products written out: the fused
    kernel is up to 2.5x slower there, and its backward pass up to 6x.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of timm and of the JEPA releases.

    timm's Block builds it and passes its other options, which must be off. With `rope`, queries
    and keys are turned by the positions of their tokens.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, **off) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def project(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, N, d], the first two turned."""
        if rope is None:
            q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).unbind(2)
        else:
            rows = qkv_rows(x.shape[-1], self.num_heads, x.device)
            qkv = F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
            qkv = qkv.unflatten(2, (3, self.num_heads, -1))
            q, k = turn(qkv[:, :, :2], rope).unbind(2)
            v = qkv[:, :, 2]
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None
    ) -> Float[Tensor, "B N D"]:
        heads = attend(*self.project(x, rope))
        return self.proj(heads.transpose(1, 2).flatten(2))


class Block(TimmBlock):
    """timm's pre-norm block, whose attention may be told where its tokens are."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: rope instead of masks
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None
    ) -> Float[Tensor, "B N D"]:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class Blocks(nn.ModuleList):
    """Blocks one after the other, sharing one table of positions.

    `activation_checkpointing`: keep only what goes into each block, and compute it again in the
    backward pass; less memory for a third more time.
    """

    activation_checkpointing: bool = False

    def run(self, x: Float[Tensor, "B N D"], rope: Rope | None = None) -> Iterator[Tensor]:
        """What each block gives, in order."""
        for block in self:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, use_reentrant=False)
            else:
                x = block(x, rope)
            yield x

    def forward(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None
    ) -> Float[Tensor, "B N D"]:
        """What the last block gives."""
        *_, last = self.run(x, rope)
        return last


def transformer_blocks(dim: int, depth: int, heads: int, mlp_ratio: float) -> Blocks:
    """`depth` pre-norm blocks with biases and GELU, without dropout."""
    if dim % heads:
        raise ValueError(f"width {dim} is not divisible by {heads} heads")
    return Blocks(
        Block(
            dim,
            heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            norm_layer=LAYER_NORM,
            attn_layer=Attention,
        )
        for _ in range(depth)
    )


def init_transformer(module: nn.Module, blocks: nn.ModuleList) -> None:
    """Truncated normal of variance 1 / inputs (LeCun et al. 1998) and zero biases, then residual
    branches scaled by 1/sqrt(2 layer).

    The published 0.02 suits widths near 2,500; in narrow networks it lets the positions drown
    the pixels. The scaling comes last; the published code draws again after it and so undoes it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=part.in_features**-0.5)
            nn.init.zeros_(part.bias)
    for layer, block in enumerate(blocks, start=1):
        for branch in ("attn.proj", "mlp.fc2"):
            block.get_submodule(branch).get_parameter("weight").data.div_(math.sqrt(2.0 * layer))
