"""Multi-head self-attention that is fast on every device."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.linear import Linear, fast_product, linear, processor
from jepa.rope import Rope, split_rows, turned

CACHE = 5 << 20  # bytes of scores worked on at a time: a head of 1,568 tokens in bfloat16
MANY = 16 << 20  # bytes of scores that are too many for one tensor
LONG = 256  # tokens from which the written-out products pay in float32
TILES = bool(processor().get("amx_bf16"))  # multiplied at once, by processors that can


def attend(
    q: Float[Tensor, "B heads N d"],
    k: Float[Tensor, "B heads M d"],
    v: Float[Tensor, "B heads M d"],
) -> Float[Tensor, "B heads N d"]:
    """softmax(q k^T / sqrt(d)) v.

    torch's fused kernel, except on a CPU: in bfloat16 its backward pass is slow, and its forward
    pass is so without tiles (AMX); and oneDNN multiplies long float32 sequences faster.
    """
    half = half_on_cpu(q) and (torch.is_grad_enabled() or not TILES)
    if half or (fast_product(q) and q.shape[2] >= LONG):
        return written_out(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def half_on_cpu(x: Tensor) -> bool:
    """Whether torch's fused kernel is slow at it, and products at strided matrices."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def written_out(
    q: Float[Tensor, "B heads N d"],
    k: Float[Tensor, "B heads M d"],
    v: Float[Tensor, "B heads M d"],
) -> Float[Tensor, "B heads N d"]:
    """The two products and the softmax between them, for as many scores at a time as the cache
    holds: some heads, or some rows of one. While learning, scores are kept in any case: they are
    worked out at once unless they are many."""
    shape, tokens = q.shape[:2], k.shape[2]
    q = q * q.shape[-1] ** -0.5
    scores = math.prod(q.shape[:3]) * tokens * q.element_size()
    if torch.is_grad_enabled() and scores <= MANY and not fast_product(q):
        return (q @ k.mT).softmax(dim=-1) @ v
    rows = max(1, CACHE // (tokens * q.element_size()))
    heads = 1 if fast_product(q) else max(1, rows // tokens)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    parts = []
    for some, keys, values in zip(q.split(heads), k.split(heads), v.split(heads), strict=True):
        shares = (products(part, keys).softmax(dim=-1) for part in some.split(rows, dim=1))
        parts.append(torch.cat([products(share, values.mT) for share in shares], dim=1))
    return torch.cat(parts).unflatten(0, shape)


def products(a: Float[Tensor, "S n d"], b: Float[Tensor, "S m d"]) -> Float[Tensor, "S n m"]:
    """a b^T of each pair of matrices."""
    if len(a) == 1 and fast_product(a):
        return linear(a[0], b[0])[None]
    return a @ b.mT


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of timm and of the JEPA releases.

    timm's Block builds it and passes its other options, which must be off. With `rope`, queries
    and keys are turned by the positions of their tokens.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, **off) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def project(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, N, d], the first two turned."""
        if rope is None:
            qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k, v = (qkv.contiguous() if half_on_cpu(qkv) else qkv).unbind(0)
            return q, k, v
        rows = (split_rows(part, self.num_heads) for part in (self.qkv.weight, self.qkv.bias))
        return turned(linear(x, *rows).unflatten(2, (3, self.num_heads, -1)), rope)

    def forward(
        self, x: Float[Tensor, "B N D"], rope: Rope | None = None, asked: int | None = None
    ) -> Float[Tensor, "B n D"]:
        """Of all tokens, or of the last `asked` ones, which see all."""
        q, k, v = self.project(x, rope)
        heads = attend(q if asked is None else q[:, :, -asked:], k, v)
        return self.proj(heads.transpose(1, 2).flatten(2))
