"""From patch tokens to a compact latent in which distance means travelling time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.shapes import Grid


def cosines(size: int, count: int) -> Float[Tensor, "count size"]:
    """The first `count` vectors of the orthonormal cosine basis (DCT-II) on `size` cells."""
    centres = (torch.arange(size) + 0.5) / size
    rows = torch.cos(math.pi * torch.arange(count)[:, None] * centres)
    return rows / rows.norm(dim=1, keepdim=True)


def cosine_pooling(
    tokens: Float[Tensor, "B N D"], grid: Grid, frequencies: int
) -> Float[Tensor, "B F"]:
    """The lowest `frequencies` x `frequencies` cosine coefficients of the grid, per channel: a
    spatial pooling that keeps where things are (a mean over the grid would lose it)."""
    if frequencies > min(grid):
        raise ValueError(f"{frequencies} frequencies do not fit the patch grid {grid}")
    rows, columns = (cosines(side, frequencies).to(tokens.device) for side in grid)
    image = tokens.float().unflatten(1, grid)
    return torch.einsum("uh,vw,bhwd->buvd", rows, columns, image).flatten(1)


class SlowFeatures(nn.Module):
    """Slow feature analysis of the patch grid (Wiskott & Sejnowski 2002), fitted on episodes.

    1. `cosine_pooling` of the grid.
    2. Principal components, whitened; the leading `principal`.
    3. The `components` linear functions that change least from one frame to the next, each
       divided by the square root of its mean squared change.

    The squared distance in step 3's space is the linear estimate of the commute time of the
    policy that made the episodes (its diffusion map; as in Wu et al. 2019, arXiv:1810.04586):
    it grows with the way to go, not with the difference of pictures. It needs neither actions
    nor positions. At the end all is divided by one number, the root mean square distance from
    the mean, so that 1 is the error of foreseeing the mean.

    Args:
        components: size D of the latent.
        frequencies: cosines per axis; at most the side of the grid.
        principal: whitened components kept before the slow ones are looked for.
    """

    mean: Tensor
    basis: Tensor
    spread: Tensor
    slowness: Tensor

    def __init__(self, *, components: int = 16, frequencies: int = 4, principal: int = 256) -> None:
        super().__init__()
        if not 1 <= components <= principal:
            raise ValueError(f"need 1 <= components <= principal; got {components} and {principal}")
        self.components, self.frequencies, self.principal = components, frequencies, principal
        for name in ("mean", "basis", "spread", "slowness"):
            self.register_buffer(name, torch.empty(0))

    def pool(self, tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B F"]:
        """Step 1."""
        return cosine_pooling(tokens, grid, self.frequencies)

    @torch.no_grad()
    def fit(self, pooled: Float[Tensor, "E T F"]) -> SlowFeatures:
        """Fits on episodes of pooled frames; sets `slowness` [D], the mean squared changes of
        unit-variance features, and `spread` [D], the standard deviations of the latent."""
        flat = pooled.flatten(0, 1)
        if min(flat.shape) < self.principal:
            raise ValueError(
                f"{self.principal} principal components need as many frames and features; got "
                f"{flat.shape[0]} frames of {flat.shape[1]} features"
            )
        mean = flat.mean(dim=0)
        covariance = (flat - mean).T @ (flat - mean) / len(flat)
        values, vectors = torch.linalg.eigh(covariance.cpu().double())
        whiten = (vectors / values.clamp(min=1e-12).sqrt())[:, -self.principal :]
        change = (pooled[:, 1:] - pooled[:, :-1]).flatten(0, 1) @ whiten.to(flat)
        slowness, turn = torch.linalg.eigh((change.T @ change / len(change)).cpu().double())
        slowness, turn = slowness[: self.components], turn[:, : self.components]
        spread = slowness.rsqrt() / slowness.reciprocal().sum().sqrt()
        self.mean, self.basis = mean, ((whiten @ turn) * spread).to(mean)
        self.spread, self.slowness = spread.to(mean), slowness.to(mean)
        return self

    def latent(self, pooled: Float[Tensor, "*B F"]) -> Float[Tensor, "*B K"]:
        """Latents [B, components] of pooled tokens."""
        if not self.basis.numel():
            raise RuntimeError("SlowFeatures is not fitted: call fit first")
        return (pooled - self.mean) @ self.basis
