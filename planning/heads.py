"""Heads of dynamics: from features to the next latent, or to a Gaussian over it."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Head(Protocol):
    """Made by `head(hidden, size)`: widths of the features and of the latent."""

    def __call__(
        self,
        latent: Float[Tensor, "*B D"],
        features: Float[Tensor, "*B hidden"],
        spread: Float[Tensor, " D"],
    ) -> dict[str, Tensor]:
        """The entries of the next state; `spread` is the latents' deviation."""
        ...


class PointHead(nn.Module):
    """The next latent = latent + spread * (linear in the features)."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.change = nn.Linear(hidden, size)

    def forward(
        self,
        latent: Float[Tensor, "*B D"],
        features: Float[Tensor, "*B hidden"],
        spread: Float[Tensor, " D"],
    ) -> dict[str, Tensor]:
        """Entry `latent`."""
        return {"latent": latent + spread * self.change(features)}


class GaussianHead(nn.Module):
    """Mean as `PointHead`, and the variance of each number of the latent around it.

    The logarithm of the variance, in units of spread^2, is kept between soft bounds (Chua et al.
    2018, arXiv:1805.12114, appendix A.1). There the bounds are learnt, with a penalty that is one
    more number to choose; these are fixed.

    Args:
        hidden, size: widths of the features and of the latent.
        low, high: the bounds; e^-10 is half a percent of the spread.
    """

    def __init__(self, hidden: int, size: int, *, low: float = -10.0, high: float = 0.5) -> None:
        super().__init__()
        self.change = nn.Linear(hidden, size)
        self.log_variance = nn.Linear(hidden, size)
        self.low, self.high = low, high

    def forward(
        self,
        latent: Float[Tensor, "*B D"],
        features: Float[Tensor, "*B hidden"],
        spread: Float[Tensor, " D"],
    ) -> dict[str, Tensor]:
        """Entries `latent` and `variance`, after one step from a latent that is known."""
        logarithm = soft_bounds(self.log_variance(features), self.low, self.high)
        return {
            "latent": latent + spread * self.change(features),
            "variance": spread.square() * logarithm.exp(),
        }


def soft_bounds(x: Float[Tensor, "*B D"], low: float, high: float) -> Float[Tensor, "*B D"]:
    """Nearly x between the bounds, smoothly held at them beyond."""
    x = high - F.softplus(high - x)
    return low + F.softplus(x - low)
