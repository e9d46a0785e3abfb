"""Linear layers that are faster than torch's on processors, by way of oneDNN.

torch multiplies float32 matrices with MKL, which leaves half of an AMD processor's vector width
unused; oneDNN, which comes with torch as well, does not. In bfloat16 torch calls oneDNN too, but
writes the biases into every row first, and has the products added. Everywhere else, and where
matrices are small, this is torch's layer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALLEST = 1 << 22  # multiplications: below, a call costs more than it saves
BIASES = 1 << 20  # numbers of an output: below, writing the biases costs less than a call


class Linear(nn.Linear):
    """torch's layer, by way of `linear`."""

    def forward(self, input: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*B D"], weight: Float[Tensor, "E D"], bias: Float[Tensor, " E"] | None = None
) -> Float[Tensor, "*B E"]:
    """x weight^T + bias."""
    rows = x.shape[:-1]
    if bias is not None and half_product(x) and rows.numel() * len(weight) >= BIASES:
        x, weight, bias = (part.bfloat16() for part in (x, weight, bias))
    elif not (fast_product(x) and x.numel() * len(weight) >= SMALLEST):
        return F.linear(x, weight, bias)
    return OneDNNLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*rows, -1)


def fast_product(x: Tensor) -> bool:
    """Whether oneDNN is to multiply `x`: float32, outside autocast, on an AMD as above."""
    return (
        eager_on_cpu(x)
        and x.dtype == torch.float32
        and slow_mkl()
        and not torch.is_autocast_enabled("cpu")
    )


def half_product(x: Tensor) -> bool:
    """Whether the product of `x` is one of bfloat16 that a processor makes without detours."""
    return (
        eager_on_cpu(x)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and bool(processor().get("avx512_bf16"))
        and has_one_dnn()
    )


def eager_on_cpu(x: Tensor) -> bool:
    """Not inside torch.compile, which chooses products itself, and stops at those chosen here."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


@functools.cache
def processor() -> Mapping[str, Any]:
    """Its name and abilities, as torch tells them; empty where it does not."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


@functools.cache
def slow_mkl() -> bool:
    """Whether this is an AMD processor of 512-bit vectors, and torch has MKL and oneDNN."""
    able = processor()
    return (
        str(able.get("cpu_name", "")).startswith("AMD")
        and bool(able.get("avx512_f"))
        and torch.backends.mkl.is_available()
        and has_one_dnn()
    )


def has_one_dnn() -> bool:
    """Whether torch has oneDNN, and the operator that `product` calls."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias of matrices, with the operator that torch.compile emits."""
    x, weight = without_gaps(x), without_gaps(weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def without_gaps(x: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """`x`, copied if its rows or columns are parts of longer ones: oneDNN is very slow at those."""
    return x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()


class OneDNNLinear(torch.autograd.Function):
    """The product of matrices x [N, D] and weight [E, D], and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator's type
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        gradient = gradient.contiguous()
        times = product if gradient.dtype == torch.float32 else F.linear  # there without a bias
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            times(gradient, weight.T) if for_x else None,
            times(gradient.T, x.T) if for_weight else None,
            gradient.sum(dim=0) if for_bias else None,
        )
