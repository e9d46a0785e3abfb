"""BYOL: from one view, foresee what a slow copy says of another; nothing else prevents collapse."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.joint import Embedded, JointEmbedding, mlp, of_each_view
from jepa.target import EMATarget, SlowLayers, ema_update


def byol_loss(
    predicted: Float[Tensor, "B V E"], target: Float[Tensor, "B V E"]
) -> Float[Tensor, ""]:
    """2 - 2 cos of each prediction and the targets of the image's other views.

    Mean over images, sum over the ordered pairs of different views: with two views, the
    symmetrised loss of the paper (equation 2 and below); 0 at best, 8 at worst.
    """
    cosines = [
        F.cosine_similarity(predicted[:, one], target[:, other], dim=-1).mean()
        for one, other in permutations(range(predicted.shape[1]), 2)
    ]
    return torch.stack([2 - 2 * cosine for cosine in cosines]).sum()


class BYOL(JointEmbedding):
    """BYOL (Grill et al. 2020, arXiv:2006.07733), on the mean-pooled tokens of a ViT.

    The target is a slow copy of encoder and projector. Its batch norms use the statistics of the
    batch, as the paper's do. The paper's momentum rises on half a cosine from 0.996 to 1; here it
    is `Optimisation`'s, on a line.

    Args:
        encoder: to be trained.
        projector: widths of the projector's layers.
        predictor: hidden width of the predictor, which ends at the projector's width.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        projector: Sequence[int] = (4096, 256),
        predictor: int = 4096,
    ) -> None:
        super().__init__(encoder, projector)
        self.predictor = mlp((projector[-1], predictor, projector[-1]))
        self.target = EMATarget(encoder)
        self.target_projector = SlowLayers(self.projector)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """`student` and `target`."""
        return {"student": self.encoder, "target": self.target.encoder}

    def follow(self, momentum: float) -> None:
        """Moves the copies of encoder and projector."""
        self.target.update(self.encoder, momentum)
        ema_update(self.target_projector, self.projector, momentum)

    def forward(self, views: Float[Tensor, "B V C H W"], generator: torch.Generator) -> Embedded:
        """Nothing is drawn."""
        tokens, embeddings = self.embed(views)
        predicted, target = of_each_view(self.predictor, embeddings), self.target_of(views)
        with torch.autocast(views.device.type, enabled=False):
            loss = byol_loss(predicted.float(), target)
        spread = F.normalize(target, dim=-1).flatten(0, 1) * target.shape[-1] ** 0.5
        return Embedded({"prediction": loss}, tokens, spread)

    @torch.no_grad()
    def target_of(self, views: Float[Tensor, "B V C H W"]) -> Float[Tensor, "B V E"]:
        """The slow copy's embeddings of the views."""
        pooled = self.target.encoder(views.flatten(0, 1)).mean(dim=1)
        return of_each_view(self.target_projector, pooled.unflatten(0, views.shape[:2])).float()
