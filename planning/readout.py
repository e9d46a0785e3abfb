"""What a latent knows of the truth: a linear readout, and how distances compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LinearReadout:
    """truth = latent @ weight + bias. For measurements and drawings; no planner uses it."""

    weight: Float[Tensor, "D P"]
    bias: Float[Tensor, " P"]

    @classmethod
    def fit(
        cls,
        latents: Float[Tensor, "S D"],
        truth: Float[Tensor, "S P"],
        penalty: float = 1e-6,
    ) -> LinearReadout:
        """Ridge regression in float64; `penalty` times the mean variance of the latents."""
        latents, truth = latents.cpu().double(), truth.cpu().double()
        centre, level = latents.mean(dim=0), truth.mean(dim=0)
        known = latents - centre
        gram = known.T @ known
        gram.diagonal().add_(penalty * gram.diagonal().mean())
        weight = torch.linalg.solve(gram, known.T @ (truth - level))
        return cls(weight.float(), (level - centre @ weight).float())

    def __call__(self, latents: Float[Tensor, "*S D"]) -> Float[Tensor, "*S P"]:
        return latents @ self.weight.to(latents) + self.bias.to(latents)

    def r2(self, latents: Float[Tensor, "S D"], truth: Float[Tensor, "S P"]) -> float:
        """Share of the variance explained, all components together; fit and test on others."""
        missed = (self(latents) - truth).square().sum()
        return 1 - float(missed / (truth - truth.mean(dim=0)).square().sum())


def distance_correlation(
    latents: Float[Tensor, "S D"], truth: Float[Tensor, "S P"], generator: torch.Generator
) -> float:
    """Pearson correlation of latent and true distances over 10,000 random pairs."""
    i, j = torch.randint(len(latents), (2, 10_000), generator=generator)
    pairs = [(values[i] - values[j]).norm(dim=1) for values in (latents, truth)]
    return float(torch.corrcoef(torch.stack(pairs))[0, 1])


@dataclass(frozen=True)
class NearestReadout:
    """The truth of the nearest known latent; for latents in which it is not linear.

    For measurements and drawings; no planner uses it.
    """

    known: Float[Tensor, "N D"]
    truth: Float[Tensor, "N P"]

    @classmethod
    def of(
        cls,
        latents: Float[Tensor, "S D"],
        truth: Float[Tensor, "S P"],
        generator: torch.Generator,
        most: int = 4000,
    ) -> NearestReadout:
        """Knows some of them, drawn at random."""
        some = torch.randperm(len(latents), generator=generator)[:most]
        return cls(latents[some], truth[some])

    def __call__(self, latents: Float[Tensor, "*S D"]) -> Float[Tensor, "*S P"]:
        exact = "donot_use_mm_for_euclid_dist"
        asked, known = latents.flatten(0, -2), self.known.to(latents)
        nearest = torch.cdist(asked, known, compute_mode=exact).argmin(dim=1)
        return self.truth.to(latents)[nearest].view(*latents.shape[:-1], -1)
