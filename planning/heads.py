"""Heads of dynamics: from features to the next latent, a Gaussian over it, or several outcomes."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from tensordict import TensorDict
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


class OutcomesHead(nn.Module):
    """Next latents f(latent, action, z), one for each value of a latent variable z that stands for
    what cannot be known, and a prior p(z | latent, action) (LeCun 2022, "A Path Towards Autonomous
    Machine Intelligence", section 4.4).

    z takes few values, so that it tells at most log(values) nats of each step. What is left
    unsaid is noise around the outcomes; see `latent_variable.measure_noise`.

    Args:
        hidden, size: widths of the features and of the latent.
        values: of z, K.
    """

    noise: Tensor

    def __init__(self, hidden: int, size: int, *, values: int = 4) -> None:
        super().__init__()
        if values < 1:
            raise ValueError(f"z needs at least one value; got {values}")
        self.change = nn.Linear(hidden, values * size)
        self.log_prior = nn.Linear(hidden, values)
        self.values = values
        self.register_buffer("noise", torch.zeros(size))  # variance, in units of spread^2

    def forward(
        self,
        latent: Float[Tensor, "*B D"],
        features: Float[Tensor, "*B hidden"],
        spread: Float[Tensor, " D"],
    ) -> dict[str, Tensor]:
        """Entries `outcomes` [*B, K, D], `log_prior` [*B, K] and `noise` [*B, D], the variance
        around each outcome; `latent` and `variance`, mean and variance of all of them."""
        changes = self.change(features).unflatten(-1, (self.values, -1))
        outcomes = latent.unsqueeze(-2) + spread * changes
        log_prior = self.log_prior(features).log_softmax(dim=-1)
        prior = log_prior.exp().unsqueeze(-1)
        mean = (prior * outcomes).sum(dim=-2)
        noise = (spread.square() * self.noise).expand_as(mean)
        between = (prior * (outcomes - mean.unsqueeze(-2)).square()).sum(dim=-2)
        return {
            "latent": mean,
            "variance": between + noise,
            "outcomes": outcomes,
            "log_prior": log_prior,
            "noise": noise,
        }


def drawn(
    state: TensorDict, normal: Float[Tensor, "*B D"], uniform: Float[Tensor, "*B"]
) -> Float[Tensor, "*B D"]:
    """One latent of the distribution that a state foresees: a function of noise of either kind."""
    if "outcomes" not in state:
        return state["latent"] + state["variance"].sqrt() * normal
    below = state["log_prior"].exp().cumsum(dim=-1)[..., :-1]
    z = (uniform.unsqueeze(-1) >= below).sum(dim=-1)
    return outcome(state, z) + state["noise"].sqrt() * normal


def outcome(state: TensorDict, z: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
    """The outcomes of these values of z."""
    return state["outcomes"].take_along_dim(z[..., None, None], dim=-2).squeeze(-2)
