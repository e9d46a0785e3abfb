"""Calibration: are foreseen distributions as wide as the errors that are made? By horizon.

All scores are per number of the latent, so that they compare across sizes; predictions are
Gaussians of known mean and variance, or samples. Of states on any device; computed in float64 on
the processor, as not every device has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from tensordict import TensorDict
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Means over environments and numbers of the latent, after 1 ... H decisions.

    rmse: root of the mean squared error of the mean, in the latent's units.
    nll: negative log-likelihood of what came, nats.
    crps: continuous ranked probability score, in the latent's units.
    coverage: share of what came that lay inside the central intervals of `level`.
    level: wanted coverage.
    disagreement: Spearman's correlation, over environments, of the ensemble's disagreement with
        the squared distance of its mean from what came; None: the states have no disagreement.
    """

    rmse: Float[Tensor, " H"]
    nll: Float[Tensor, " H"]
    crps: Float[Tensor, " H"]
    coverage: Float[Tensor, " H"]
    level: float
    disagreement: Float[Tensor, " H"] | None


@torch.no_grad()
def calibration(
    states: TensorDict, truth: Float[Tensor, "B H D"], *, level: float = 0.9
) -> Calibration:
    """Of foreseen states [B, H] with `latent` and `variance`, taken as Gaussians.

    Args:
        states: `dynamics.rollout(dynamics.start(latent), actions)`.
        truth: the latents that came.
        level: of the central intervals.
    """
    if "variance" not in states:
        raise ValueError(
            "calibration needs states with `variance`: give the dynamics a GaussianHead, or make "
            f"an Ensemble of them; these states have {sorted(states.keys())}"
        )
    mean, variance, truth = (
        numbers.cpu().double() for numbers in (states["latent"], states["variance"], truth)
    )
    over = (0, 2)
    return Calibration(
        rmse=(mean - truth).square().mean(dim=over).sqrt(),
        nll=gaussian_nll(mean, variance, truth).mean(dim=over),
        crps=gaussian_crps(mean, variance, truth).mean(dim=over),
        coverage=gaussian_covers(mean, variance, truth, level).double().mean(dim=over),
        level=level,
        disagreement=rank_correlation(states["disagreement"], (mean - truth).square().sum(dim=-1))
        if "disagreement" in states
        else None,
    )


def gaussian_nll(
    mean: Float[Tensor, "*B"], variance: Float[Tensor, "*B"], truth: Float[Tensor, "*B"]
) -> Float[Tensor, "*B"]:
    """Negative log-likelihood of each number, nats; infinite for a prediction that is certain."""
    square = (truth - mean).square()
    spread = 0.5 * (square / variance + variance.log() + math.log(2 * math.pi))
    return torch.where(variance > 0, spread, torch.where(square > 0, torch.inf, -torch.inf))


def gaussian_crps(
    mean: Float[Tensor, "*B"], variance: Float[Tensor, "*B"], truth: Float[Tensor, "*B"]
) -> Float[Tensor, "*B"]:
    """Continuous ranked probability score of each number (Gneiting & Raftery 2007, eq. 21, with
    the sign that makes 0 best): the absolute error, for a prediction that is certain."""
    std, error = variance.sqrt(), truth - mean
    z = torch.where(std > 0, error / std, 0.0)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    spread = std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    return torch.where(std > 0, spread, error.abs())


def sample_crps(samples: Float[Tensor, "*B P"], truth: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """As `gaussian_crps`, of the distribution of equally likely samples: mean |x - truth| - half
    the mean |x - x'| over all pairs (Gneiting & Raftery 2007, eq. 20).

    Pairs of a sample with itself are among them: P samples of the true distribution score 1 + 1/P
    times what that distribution does (Ferro 2014). Compare clouds of the same size.
    """
    count, ranked = samples.shape[-1], samples.sort(dim=-1).values
    ranks = 2 * torch.arange(1, count + 1, dtype=samples.dtype, device=samples.device) - count - 1
    return (samples - truth.unsqueeze(-1)).abs().mean(dim=-1) - ranked @ ranks / count**2


def gaussian_covers(
    mean: Float[Tensor, "*B"],
    variance: Float[Tensor, "*B"],
    truth: Float[Tensor, "*B"],
    level: float,
) -> Bool[Tensor, "*B"]:
    """Whether the central interval that holds `level` of the probability holds what came."""
    reach = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=mean.dtype, device=mean.device))
    return (truth - mean).abs() <= reach * variance.sqrt()


def sample_covers(
    samples: Float[Tensor, "*B P"], truth: Float[Tensor, "*B"], level: float
) -> Bool[Tensor, "*B"]:
    """As `gaussian_covers`, between quantiles of the samples.

    The k-th smallest of P is the quantile k / (P + 1) (Weibull 1939), below which lies what came
    in that share of cases if the samples are right; linear between them. The whole range of the
    samples holds (P - 1) / (P + 1), and is the interval where `level` is more.
    """
    count = samples.shape[-1]
    low = max(((0.5 - level / 2) * (count + 1) - 1) / max(count - 1, 1), 0.0)  # torch's ends at 0
    ends = torch.tensor([low, 1 - low], dtype=samples.dtype, device=samples.device)
    low, high = samples.quantile(ends, dim=-1)
    return (low <= truth) & (truth <= high)


def particle_scores(
    particles: Float[Tensor, "B H P D"], truth: Float[Tensor, "B H D"], *, level: float = 0.9
) -> tuple[Float[Tensor, " H"], Float[Tensor, " H"]]:
    """Continuous ranked probability score, and coverage of the central intervals of `level`, as in
    `Calibration`, of equally likely futures; one particle is a prediction that is certain."""
    samples, truth = particles.movedim(-2, -1).cpu().double(), truth.cpu().double()
    covered = sample_covers(samples, truth, level).double()
    return sample_crps(samples, truth).mean(dim=(0, 2)), covered.mean(dim=(0, 2))


def rank_correlation(a: Float[Tensor, "B H"], b: Float[Tensor, "B H"]) -> Float[Tensor, " H"]:
    """Spearman's, over the environments; not a number where one of them is constant."""
    pairs = zip(a.T.numpy(force=True), b.T.numpy(force=True), strict=True)
    return torch.tensor([spearmanr(*pair)[0] for pair in pairs])
