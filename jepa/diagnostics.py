"""Is the representation collapsing? Numbers that need no labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def feature_std(features: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Standard deviation over samples, mean over dimensions; 0 when all features are one point."""
    return features.float().std(dim=0, correction=0).mean()


def rankme(features: Float[Tensor, "N D"], epsilon: float = 1e-7) -> Float[Tensor, ""]:
    """Effective rank: exp of the entropy of the singular values, normalised to sum 1.

    RankMe (Garrido et al. 2023, arXiv:2210.02885, equation 1), on uncentred features. Between
    1 and min(N, D).
    """
    singular = torch.linalg.svdvals(features.float())
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float32).tiny) + epsilon
    return torch.exp(-(share * share.log()).sum())
