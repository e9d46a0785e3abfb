"""From observations to latents: a frozen encoder and a projection, or a network that learns.

An embedding has two parts: `features` never change, so that they can be computed once for all
episodes; calling it takes them to latents, and may be trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.frozen import FrozenEncoder, device_of
from jepa.shapes import Grid


class Embedding(nn.Module):
    """Observations to latents [B, size]."""

    size: int

    def features(self, observation: Shaped[Tensor, "B *O"]) -> Shaped[Tensor, "B *F"]:
        """What is fixed; by default what is seen, as it is."""
        return observation

    def forward(self, features: Shaped[Tensor, "B *F"]) -> Float[Tensor, "B D"]:
        """Latents of features."""
        raise NotImplementedError("an embedding is called as embedding(embedding.features(images))")


@runtime_checkable
class Projection(Protocol):
    """From the patch grid to what is kept of it, where things are included, and to the latent."""

    components: int

    def pool(self, tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B *F"]: ...

    def latent(self, pooled: Float[Tensor, "B *F"]) -> Float[Tensor, "B K"]: ...


class FrozenEmbedding(Embedding):
    """A frozen encoder, whose patch grid is projected.

    Args:
        encoder: pretrained without actions; never trained here.
        projection: a module; `LearntProjection` is trained, `SlowFeatures` fitted.
        layer: whose tokens are projected, one of the encoder's `layer_names`; None: its outputs.
            The first ones know better where things are. Raises ValueError for another name.
        image_size: pixels a side that observations are brought to first; None: as they are.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        projection: Projection,
        *,
        layer: str | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if layer is not None and layer not in encoder.layer_names:
            raise ValueError(f"layer is one of {', '.join(encoder.layer_names)}; got {layer!r}")
        self.encoder, self.projection, self.size = encoder, projection, projection.components
        self.layer, self.image_size = layer, image_size

    @torch.no_grad()
    def features(self, observation: UInt8[Tensor, "B H W C"]) -> Float[Tensor, "B *F"]:
        """Tokens, pooled."""
        images = resized(observation.permute(0, 3, 1, 2), self.image_size)
        if self.layer is None:
            tokens = self.encoder(images)
        else:
            tokens = self.encoder.layers(images, [self.layer])[self.layer]
        return self.projection.pool(tokens, self.encoder.grid(images))

    def forward(self, features: Float[Tensor, "B *F"]) -> Float[Tensor, "B D"]:
        """Latents of pooled tokens."""
        return self.projection.latent(features)


def resized(
    images: UInt8[Tensor, "B C H W"], size: int | None
) -> UInt8[Tensor, "B C H W"] | Float[Tensor, "B C size size"]:
    """Images of `size` pixels a side, in [0, 1], for an encoder that was trained on larger ones."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images.float() / 255, (size, size), mode="bilinear", antialias=True)


class PatchProjection(nn.Module):
    """What projections that are trained on all tokens of one patch grid share.

    Args:
        grid: of the patches, (h, w).
        components: size of the latent.
    """

    def __init__(self, grid: Grid, components: int) -> None:
        super().__init__()
        self.grid, self.components = grid, components

    def pool(self, tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B N D"]:
        """All tokens. Raises ValueError for another grid."""
        if grid != self.grid:
            raise ValueError(f"expected a patch grid of {self.grid}; got {grid}")
        return tokens.float()


class LearntProjection(PatchProjection):
    """A small network for each patch by itself, and one over what they all say.

    The encoder's layers have already brought neighbours together: convolutions over the patch grid
    instead took 3.5 times as long, and knew less well where things are.

    Args:
        width: of the encoder's tokens, D.
        grid: of the patches, (h, w).
        components: size of the latent.
        hidden: width of the layer for each patch.
        said: numbers that each patch says.
        mixed: width of the layer over all.
    """

    def __init__(
        self,
        width: int,
        grid: Grid,
        *,
        components: int = 32,
        hidden: int = 64,
        said: int = 16,
        mixed: int = 256,
    ) -> None:
        super().__init__(grid, components)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, said),
            nn.Flatten(),
            nn.Linear(said * math.prod(grid), mixed),
            nn.ReLU(),
            nn.Linear(mixed, components),
        )

    def latent(self, pooled: Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        """[B, components]."""
        return self.layers(pooled)


class PixelEmbedding(Embedding):
    """A small convolutional network, to be trained with the dynamics.

    Patches of 4 x 4 pixels, two convolutions, and a linear layer over all places, which so keeps
    where things are.

    Args:
        image_size: pixels of a side; a multiple of 8.
        size: of the latent.
        width: channels of the first layer.
        mean, std: of the pixels, in 0 to 255, per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        size: int = 32,
        width: int = 32,
        mean: Float[Tensor, " C"],
        std: Float[Tensor, " C"],
    ) -> None:
        super().__init__()
        if image_size % 8 or width % 2:
            raise ValueError(
                "expected an image_size that is a multiple of 8 and an even width; got "
                f"{image_size} and {width}"
            )
        self.size = size
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())
        self.layers = nn.Sequential(
            nn.Conv2d(len(mean), width, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(2, 2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 16, 1),
            nn.Flatten(),
            nn.Linear(16 * (image_size // 8) ** 2, size),
        )

    def forward(self, features: UInt8[Tensor, "B H W C"]) -> Float[Tensor, "B D"]:
        """Latents of images as environments give them, channels last in memory too."""
        width = features.shape[2]
        rows = features.float().flatten(2)  # by rows: three times as fast as by threes of colours
        rows = (rows - self.mean.repeat(width)) / self.std.repeat(width)
        return self.layers(rows.view(features.shape).permute(0, 3, 1, 2))


@torch.no_grad()
def features_of(
    embedding: Embedding, observations: Shaped[Tensor, "n *O"], batch: int = 256
) -> Shaped[Tensor, "n *F"]:
    """The fixed part of all observations, where these are; computed where the embedding is."""
    device = device_of(embedding, observations.device)
    return each_batch(lambda some: embedding.features(some.to(device)), observations, batch)


@torch.no_grad()
def latents_of(
    embedding: Embedding, features: Shaped[Tensor, "n *F"], batch: int = 256
) -> Float[Tensor, "n D"]:
    """Latents of all features, where these are; computed where the embedding is."""
    device = device_of(embedding, features.device)
    return each_batch(lambda some: embedding(some.to(device)).float(), features, batch)


def each_batch(
    function: Callable[[Tensor], Tensor], rows: Shaped[Tensor, "n *I"], batch: int
) -> Shaped[Tensor, "n *O"]:
    """What the function makes of all rows, each batch put where it belongs: tokens of all frames
    fill half of a memory, and are not to be there twice."""
    first = function(rows[:batch])
    whole = first.new_empty(len(rows), *first.shape[1:], device=rows.device)
    whole[:batch] = first
    for start in range(batch, len(rows), batch):
        whole[start : start + batch] = function(rows[start : start + batch])
    return whole
