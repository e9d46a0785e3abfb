"""Pairs of a latent and a goal's latent, as critics and policies see them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Pairs(nn.Module):
    """Both, their difference, and how near they are at several ranges.

    Nearness at the range r is exp(-d^2 / (2 r^2)) of the distance d: a network of both latents
    alone hardly learns what happens only next to the goal.

    Args:
        scale: deviation of the latents, [D]; its length is the largest of the ranges.
        ranges: each half of the one before.
    """

    scale: Tensor
    reach: Tensor

    def __init__(self, scale: Float[Tensor, " D"], *, ranges: int = 6) -> None:
        super().__init__()
        self.register_buffer("scale", scale.clone())
        self.register_buffer(
            "reach", scale.norm() * 0.5 ** torch.arange(ranges, device=scale.device)
        )
        self.size = 3 * len(scale) + ranges

    def forward(
        self, latent: Float[Tensor, "*S B D"], goal: Float[Tensor, "B D"]
    ) -> Float[Tensor, "*S B F"]:
        """Features [*S, B, size]."""
        goal = goal.expand_as(latent)
        way = latent - goal
        square = way.square().sum(dim=-1, keepdim=True)
        near = torch.exp(-square / (2 * self.reach.square()))
        both = torch.cat([latent, goal, way], dim=-1) / self.scale.repeat(3)
        return torch.cat([both, near], dim=-1)
