"""Joint embedding: what VICReg, BYOL and LeJEPA share, an encoder that sees views of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.encoder import VisionTransformer
from jepa.objective import Objective


@dataclass(frozen=True)
class Embedded:
    """One forward pass: see `jepa.objective.Output`."""

    losses: dict[str, Float[Tensor, ""]]
    context: Float[Tensor, "n N D"]
    target: Float[Tensor, "BV E"] | None = None


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear, batch norm and ReLU from each size to the next; the last step is linear alone.

    Its batch norms see one process's samples. On several GPUs give Lightning's Trainer
    `sync_batchnorm=True`, as the published runs do; the losses themselves see all samples.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"an MLP has at least one layer, of positive width; got {sizes[1:]}")
    layers = nn.Sequential()
    for given, wanted in pairwise(sizes[:-1]):
        layers.extend([nn.Linear(given, wanted), nn.BatchNorm1d(wanted), nn.ReLU()])
    return layers.append(nn.Linear(sizes[-2], sizes[-1]))


def of_each_view(module: nn.Module, features: Float[Tensor, "B V D"]) -> Float[Tensor, "B V E"]:
    """`module` of one view after the other, so that batch norms see one view at a time."""
    return torch.stack([module(view) for view in features.unbind(1)], dim=1)


class JointEmbedding(Objective):
    """An encoder and a projector of its mean-pooled tokens; subclasses say what is minimised.

    Called with normalised views [B, V, C, H, W] and a generator, the same on all ranks, for what
    is drawn at each step.

    Args:
        encoder: to be trained; the only part that is kept.
        projector: widths of the projector's layers, the last one that of the embedding.
    """

    def __init__(self, encoder: VisionTransformer, projector: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp((encoder.dim, *projector))

    def embed(
        self, views: Float[Tensor, "B V C H W"]
    ) -> tuple[Float[Tensor, "BV N D"], Float[Tensor, "B V E"]]:
        """The encoder's tokens of all views, and the embeddings."""
        if views.shape[1] < 2:
            raise ValueError(f"need at least two views of each image; got {tuple(views.shape)}")
        tokens = self.encoder(views.flatten(0, 1))
        pooled = tokens.mean(dim=1).unflatten(0, views.shape[:2])
        return tokens, of_each_view(self.projector, pooled)
