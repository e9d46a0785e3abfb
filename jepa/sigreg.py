"""LeJEPA: embeddings of views agree, and SIGReg makes their distribution an isotropic Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.joint import Embedded, JointEmbedding
from jepa.ranks import total, world_size

KNOTS, REACH = 17, 3.0  # the points at which characteristic functions are compared: in [0, REACH]


def draw_directions(
    dim: int, count: int, generator: torch.Generator
) -> Float[Tensor, "{dim} {count}"]:
    """Columns of length 1, uniformly distributed, whatever torch's default type."""
    where = {"device": generator.device, "dtype": torch.float32}
    drawn = torch.randn(dim, count, generator=generator, **where)
    return F.normalize(drawn, dim=0)


def sigreg(samples: Float[Tensor, "n E"], directions: Float[Tensor, "E M"]) -> Float[Tensor, ""]:
    """How far the samples of all ranks are from N(0, I), along each direction, in the mean.

    Epps and Pulley's statistic (1983) of the projections: n times the integral, weighted by
    exp(-t^2 / 2), of the squared distance between their empirical characteristic function and
    that of N(0, 1). By symmetry the integral over [-3, 3] is twice that over [0, 3], which is
    taken by the trapezoid rule on 17 knots. About 1 for a Gaussian of any n; 0.402 n where all
    samples are 0.
    """
    t = torch.linspace(0, REACH, KNOTS, dtype=samples.dtype, device=samples.device)
    gauss = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * REACH / (KNOTS - 1))
    weights[[0, -1]] /= 2
    angles = (samples @ directions)[..., None] * t
    n = len(samples) * world_size()
    cosine, sine = total(torch.stack([angles.cos().sum(0), angles.sin().sum(0)])) / n
    distance = (cosine - gauss).square() + sine.square()
    return n * (distance @ (weights * gauss)).mean()


def agreement(embeddings: Float[Tensor, "B V E"]) -> Float[Tensor, ""]:
    """Mean squared distance of each view's embedding to the mean of its image's."""
    return (embeddings - embeddings.mean(dim=1, keepdim=True)).square().mean()


class LeJEPA(JointEmbedding):
    """LeJEPA (Balestriero & LeCun 2025, arXiv:2511.08544), on the mean-pooled tokens of a ViT.

    (1 - weight) * `agreement` + weight * `sigreg`, the latter in the mean over the views. The
    directions are drawn anew at each step, the same on all ranks. All views have the same size;
    the paper adds smaller crops.

    Args:
        encoder: to be trained.
        projector: widths of the projector's layers.
        weight: of SIGReg, in [0, 1]: the paper's lambda.
        directions: along which the embeddings are compared to a Gaussian.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        projector: Sequence[int] = (2048, 2048, 64),
        weight: float = 0.02,
        directions: int = 256,
    ) -> None:
        super().__init__(encoder, projector)
        if not 0 <= weight <= 1 or directions < 1:
            raise ValueError(
                f"need 0 <= weight <= 1 and directions >= 1; got {weight} and {directions}"
            )
        self.weight, self.directions = weight, directions

    def forward(self, views: Float[Tensor, "B V C H W"], generator: torch.Generator) -> Embedded:
        """Draws the directions from `generator`."""
        tokens, embeddings = self.embed(views)
        with torch.autocast(views.device.type, enabled=False):
            embeddings = embeddings.float()
            directions = draw_directions(embeddings.shape[-1], self.directions, generator)
            spread = [sigreg(view, directions) for view in embeddings.unbind(1)]
            losses = {
                "invariance": (1 - self.weight) * agreement(embeddings),
                "sigreg": self.weight * torch.stack(spread).mean(),
            }
        return Embedded(losses, tokens)
