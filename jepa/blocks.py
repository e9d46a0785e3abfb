"""Transformer blocks: timm's, of layers that are fast on every device."""

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

from jepa.attention import Attention
from jepa.linear import Linear
from jepa.rope import Rope

LAYER_NORM: Any = partial(nn.LayerNorm, eps=1e-6)


class Mlp(nn.Module):
    """Two layers and a GELU, with timm's parameter names; its other options must be off."""

    def __init__(self, in_features: int, hidden_features: int, **off) -> None:
        super().__init__()
        self.fc1 = Linear(in_features, hidden_features)
        self.fc2 = Linear(hidden_features, in_features)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(TimmBlock):
    """timm's pre-norm block, whose attention may be told where its tokens are.

    `asked`: only the last so many tokens are wanted, and only they are computed.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: rope instead of masks
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None, asked: int | None = None
    ) -> Float[Tensor, "B n D"]:
        change = self.attn(self.norm1(x), rope, asked)
        x = added(x if asked is None else x[:, -asked:], change)
        return added(x, self.mlp(self.norm2(x)))


def added(x: Float[Tensor, "B n D"], change: Float[Tensor, "B n D"]) -> Float[Tensor, "B n D"]:
    """The sum. Processors add tensors of two precisions slowly: there the change is cast before."""
    return x + (change.to(x.dtype) if x.device.type == "cpu" else change)


class Blocks(nn.ModuleList):
    """Blocks one after the other, sharing one table of positions.

    `activation_checkpointing`: keep only what goes into each block, and compute it again in the
    backward pass; less memory for a third more time.
    """

    activation_checkpointing: bool = False

    def run(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None, asked: int | None = None
    ) -> Iterator[Tensor]:
        """What each block gives, in order; the last one only the last `asked` tokens."""
        for number, block in enumerate(self, start=1):
            wanted = asked if number == len(self) else None
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, wanted, use_reentrant=False)
            else:
                x = block(x, rope, wanted)
            yield x

    def forward(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None, asked: int | None = None
    ) -> Float[Tensor, "B n D"]:
        """What the last block gives."""
        *_, last = self.run(x, rope, asked)
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
            mlp_layer=Mlp,
        )
        for _ in range(depth)
    )


def ratio_of(hidden: int, dim: int) -> float:
    """The `mlp_ratio` of which `dim` makes a hidden width of exactly `hidden`, as it is cut off."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


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
