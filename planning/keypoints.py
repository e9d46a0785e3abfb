"""From patch tokens to a latent by way of a few places: where things are, and what is there."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.shapes import Grid

from .embedding import PatchProjection


class KeypointProjection(PatchProjection):
    """A few maps of attention over the patches; of each its mean place and what is seen there.

    The spatial softmax of Levine et al. 2016 (arXiv:1504.00702, section 5.2), of what a small
    network says of each token instead of convolutions' channels, with features beside the places.
    All patches share its weights, so that what is learnt of a thing at one place is known at all;
    `LearntProjection` learns each place by itself. Tokens are standardised first, each channel by
    its mean and deviation over all that was seen in training: those of frozen encoders have
    offsets far larger than what changes in them.

    Args:
        width: of the encoder's tokens, D.
        grid: of the patches, (h, w).
        components: size of the latent.
        hidden: width of the layer for each patch.
        points: maps of attention.
        said: numbers that each map tells beside its place.
        mixed: width of the two layers over all.
    """

    places: Tensor

    def __init__(
        self,
        width: int,
        grid: Grid,
        *,
        components: int = 32,
        hidden: int = 128,
        points: int = 16,
        said: int = 8,
        mixed: int = 256,
    ) -> None:
        super().__init__(grid, components)
        self.points, self.said = points, said
        self.standard = nn.BatchNorm1d(width, affine=False, momentum=None)
        self.patches = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, points * (1 + said))
        )
        axes = [torch.linspace(-1, 1, side) for side in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        self.register_buffer("places", places.reshape(math.prod(grid), 2), persistent=False)
        self.mix = nn.Sequential(
            nn.Linear(points * (2 + said), mixed),
            nn.ReLU(),
            nn.Linear(mixed, mixed),
            nn.ReLU(),
            nn.Linear(mixed, components),
        )

    def seen(
        self, pooled: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K said"]]:
        """The mean place of each map, (row, column) from -1 to 1, and the mean of what is said."""
        tokens = self.standard(pooled.flatten(0, 1)).view_as(pooled)
        said = self.patches(tokens).float()
        share = said[..., : self.points].softmax(dim=1)
        features = said[..., self.points :].unflatten(-1, (self.points, self.said))
        where = torch.einsum("bnk,nc->bkc", share, self.places)
        return where, torch.einsum("bnk,bnks->bks", share, features)

    def latent(self, pooled: Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        """[B, components]."""
        return self.mix(torch.cat(self.seen(pooled), dim=-1).flatten(1))
