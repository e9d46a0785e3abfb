"""Supervised: the labels themselves are learnt, as a baseline for what is learnt without them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.joint import Embedded
from jepa.objective import Objective


class Supervised(Objective):
    """Cross entropy of a linear layer on the mean-pooled tokens of a ViT.

    The same network, pooling and training as the objectives without labels, so that probes of its
    frozen features say what the labels are worth.

    Args:
        encoder: to be trained; the only part that is kept.
        classes: of the labels, 0 to classes - 1.
        smoothing: of the labels, in [0, 1): that share of each is spread over all classes.
    """

    def __init__(self, encoder: VisionTransformer, *, classes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        if classes < 2 or not 0 <= smoothing < 1:
            raise ValueError(
                f"need at least 2 classes and 0 <= smoothing < 1; got {classes} and {smoothing}"
            )
        self.encoder, self.classes, self.smoothing = encoder, classes, smoothing
        self.head = nn.Linear(encoder.dim, classes)

    def forward(self, images: Float[Tensor, "B C H W"], labels: Int64[Tensor, " B"]) -> Embedded:
        """Normalised images and their labels."""
        tokens = self.encoder(images)
        logits = self.head(tokens.mean(dim=1))
        with torch.autocast(images.device.type, enabled=False):
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        return Embedded({"cross_entropy": loss}, tokens)
