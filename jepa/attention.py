"""Multi-head self-attention that is fast on every device."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from jepa.linear import Linear, eager_on_cpu, fast_product, linear, processor
from jepa.rope import Rope, split_rows, turned

CACHE = 5 << 20  # bytes of scores worked on at a time: a head of 1,568 tokens in bfloat16
MANY = 16 << 20  # bytes of scores that are too many to be kept while learning
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
    learning, half = torch.is_grad_enabled(), half_on_cpu(q)
    if half and learning and eager_on_cpu(q) and size_of_scores(q, k) > MANY:
        return Recomputed.apply(q, k, v)
    if (half and (learning or not TILES)) or (fast_product(q) and q.shape[2] >= LONG):
        return written_out(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def half_on_cpu(x: Tensor) -> bool:
    """Whether torch's fused kernel is slow at it, and products at strided matrices."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def size_of_scores(q: Float[Tensor, "B heads N d"], k: Float[Tensor, "B heads M d"]) -> int:
    """In bytes."""
    return math.prod(q.shape[:3]) * k.shape[2] * q.element_size()


def written_out(
    q: Float[Tensor, "B heads N d"],
    k: Float[Tensor, "B heads M d"],
    v: Float[Tensor, "B heads M d"],
) -> Float[Tensor, "B heads N d"]:
    """The two products and the softmax between them, for as many scores at a time as the cache
    holds: some heads, or some rows of one. While learning, scores are kept in any case: they are
    worked out at once unless they are many."""
    shape = q.shape[:2]
    q = q * q.shape[-1] ** -0.5
    if torch.is_grad_enabled() and size_of_scores(q, k) <= MANY and not fast_product(q):
        return (q @ k.mT).softmax(dim=-1) @ v
    heads, rows = piece(k)
    heads = 1 if fast_product(q) else heads
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    parts = []
    for some, keys, values in zip(q.split(heads), k.split(heads), v.split(heads), strict=True):
        shares = (products(part, keys).softmax(dim=-1) for part in some.split(rows, dim=1))
        parts.append(torch.cat([products(share, values.mT) for share in shares], dim=1))
    return torch.cat(parts).unflatten(0, shape)


def piece(k: Float[Tensor, "B heads M d"]) -> tuple[int, int]:
    """Heads, and rows of each, whose scores the cache holds."""
    rows = max(1, CACHE // (k.shape[2] * k.element_size()))
    return max(1, rows // k.shape[2]), rows


class Recomputed(torch.autograd.Function):
    """Attention that keeps no scores: the backward pass works them out again, a piece at a time.

    No product there is of a transposed matrix of scores, to which processors take three times as
    long as to the transposed gradients of keys and values that are made here instead.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return attend(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator's type
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, ...]:
        q, k, v = ctx.saved_tensors
        heads, rows = piece(k)
        kept = q.new_empty(2, min(heads, q.shape[:2].numel()), min(rows, q.shape[2]), k.shape[2])
        scale = q.shape[-1] ** -0.5
        given = (x.contiguous().flatten(0, 1) for x in (q * scale, k, v, gradients[0]))
        for_q, for_k, for_v = (torch.empty_like(x).flatten(0, 1) for x in (q, k, v))
        every = (x.split(heads) for x in (*given, for_q, for_k, for_v))
        for some, keys, values, changes, to_q, to_k, to_v in zip(*every, strict=True):
            parts_k, parts_v = [], []
            by_rows = (x.split(rows, dim=1) for x in (some, changes, to_q))
            for part, change, to_part in zip(*by_rows, strict=True):
                shares, slopes = kept[:, : len(part), : part.shape[1]]
                torch.softmax(torch.bmm(part, keys.mT, out=shares), dim=-1, out=shares)
                parts_v.append(torch.bmm(change.mT, shares))
                softmax_gradient(torch.bmm(change, values.mT, out=slopes), shares)
                torch.bmm(slopes, keys, out=to_part)
                parts_k.append(torch.bmm(part.mT, slopes))
            to_k.copy_(total(parts_k).mT)
            to_v.copy_(total(parts_v).mT)
        for_q.mul_(scale)
        return tuple(x.unflatten(0, q.shape[:2]) for x in (for_q, for_k, for_v))


def total(parts: list[Tensor]) -> Tensor:
    """Their sum, with the digits of float32 until the end; of one, itself."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).sum(dim=0, dtype=torch.float32).to(parts[0])


def softmax_gradient(gradient: Float[Tensor, "*B N"], shares: Float[Tensor, "*B N"]) -> None:
    """The gradient by what went into a softmax, of its result, written over that by the result."""
    torch.ops.aten._softmax_backward_data(gradient, shares, -1, shares.dtype, grad_input=gradient)


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
