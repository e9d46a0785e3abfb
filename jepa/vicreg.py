"""VICReg: embeddings of two views agree, have spread in every dimension, and no correlations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.joint import Embedded, JointEmbedding
from jepa.losses import covariance_loss, variance_loss
from jepa.ranks import gathered


def vicreg_terms(embeddings: Float[Tensor, "B V E"]) -> dict[str, Float[Tensor, ""]]:
    """{"invariance", "variance", "covariance"} without their weights.

    invariance: mean squared difference, over all pairs of views.
    variance: `variance_loss`, mean over the views. covariance: `covariance_loss`, sum over the
    views. So the authors' code weighs them; the paper's equation 6 sums both. These two are taken
    over the samples of all ranks.
    """
    views = embeddings.unbind(1)
    whole = [gathered(view) for view in views]
    return {
        "invariance": torch.stack([F.mse_loss(a, b) for a, b in combinations(views, 2)]).mean(),
        "variance": torch.stack([variance_loss(view) for view in whole]).mean(),
        "covariance": torch.stack([covariance_loss(view) for view in whole]).sum(),
    }


class VICReg(JointEmbedding):
    """VICReg (Bardes et al. 2022, arXiv:2105.04906), on the mean-pooled tokens of a ViT.

    Args:
        encoder: to be trained.
        projector: widths of the expander's layers.
        invariance, variance, covariance: weights of `vicreg_terms`.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        projector: Sequence[int] = (8192, 8192, 8192),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(encoder, projector)
        self.weights = {
            "invariance": invariance,
            "variance": variance,
            "covariance": covariance,
        }
        if min(self.weights.values()) < 0:
            raise ValueError(f"weights are at least 0; got {self.weights}")

    def forward(self, views: Float[Tensor, "B V C H W"], generator: torch.Generator) -> Embedded:
        """Nothing is drawn."""
        tokens, embeddings = self.embed(views)
        with torch.autocast(views.device.type, enabled=False):
            terms = vicreg_terms(embeddings.float())
        return Embedded({name: self.weights[name] * terms[name] for name in terms}, tokens)
