"""Distances of latents: pure functions of two tensors whose last dimension holds the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Norm: TypeAlias = Literal["l2", "l1", "mean_l1", "smooth_l1", "cosine"]


def l2(a: Float[Tensor, "*_ D"], b: Float[Tensor, "*_ D"]) -> Float[Tensor, "*_"]:
    """Euclidean."""
    return torch.linalg.vector_norm(a - b, dim=-1)


def l1(a: Float[Tensor, "*_ D"], b: Float[Tensor, "*_ D"]) -> Float[Tensor, "*_"]:
    """Sum of the absolute differences."""
    return torch.linalg.vector_norm(a - b, ord=1, dim=-1)


def mean_l1(a: Float[Tensor, "*_ D"], b: Float[Tensor, "*_ D"]) -> Float[Tensor, "*_"]:
    """Mean of the absolute differences."""
    return l1(a, b) / a.shape[-1]


def smooth_l1(a: Float[Tensor, "*_ D"], b: Float[Tensor, "*_ D"]) -> Float[Tensor, "*_"]:
    """Sum over the differences x of x^2 / 2 where |x| < 1, and |x| - 1/2 beyond."""
    gap = a - b
    return F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none").sum(dim=-1)


def cosine(a: Float[Tensor, "*_ D"], b: Float[Tensor, "*_ D"]) -> Float[Tensor, "*_"]:
    """1 - the cosine of the angle between them: 0 to 2."""
    return 1 - F.cosine_similarity(a, b, dim=-1)


DISTANCES: dict[Norm, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": l2,
    "l1": l1,
    "mean_l1": mean_l1,
    "smooth_l1": smooth_l1,
    "cosine": cosine,
}
