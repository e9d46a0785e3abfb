"""What is minimised: the distance of a prediction, and terms that keep latents from collapsing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Distance: TypeAlias = Literal["smooth_l1", "l1", "mse"]

DISTANCES: dict[Distance, Callable[..., Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,  # I-JEPA
    "l1": F.l1_loss,  # V-JEPA
    "mse": F.mse_loss,
}


@runtime_checkable
class Regulariser(Protocol):
    """Named losses, weighted, of the latents that the trained encoder gave."""

    def __call__(self, latents: Float[Tensor, "B N D"]) -> dict[str, Tensor]: ...


def variance_loss(
    latents: Float[Tensor, "n D"], *, goal: float = 1.0, eps: float = 1e-4
) -> Float[Tensor, ""]:
    """Mean over dimensions of max(0, goal - standard deviation): VICReg, equation 1."""
    spread = (latents.var(dim=0) + eps).sqrt()
    return F.relu(goal - spread).mean()


def covariance_loss(latents: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances of different dimensions over D: VICReg, equation 4."""
    centred = latents - latents.mean(dim=0)
    covariance = centred.T @ centred / (len(latents) - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return off_diagonal / latents.shape[1]


class VarianceCovariance(nn.Module):
    """VICReg's two terms (Bardes et al. 2022, arXiv:2105.04906) over all tokens of a batch.

    Beside a JEPA's prediction they are C-JEPA's idea (Mo & Tong 2024, arXiv:2410.19560), which
    applies them to pooled latents; here every token is a sample, so that small batches do. The
    spread over tokens is wanted equal in all directions, which is what nearest neighbours and
    planners measure distances with.

    Args:
        variance: weight of `variance_loss`.
        covariance: weight of `covariance_loss`.
    """

    def __init__(self, *, variance: float = 0.2, covariance: float = 0.008) -> None:
        super().__init__()
        if variance < 0 or covariance < 0:
            raise ValueError(f"weights are at least 0; got {variance} and {covariance}")
        self.variance, self.covariance = variance, covariance

    def forward(self, latents: Float[Tensor, "B N D"]) -> dict[str, Float[Tensor, ""]]:
        """{"variance", "covariance"}: weighted, in float32 whatever the latents are in."""
        with torch.autocast(latents.device.type, enabled=False):
            samples = latents.float().flatten(0, 1)
            return {
                "variance": self.variance * variance_loss(samples),
                "covariance": self.covariance * covariance_loss(samples),
            }
