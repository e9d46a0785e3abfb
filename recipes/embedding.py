"""The embedding of a world before it learns: of pixels, or behind a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from jepa import seeds

from ..planning.embedding import Embedding, FrozenEmbedding, LearntProjection, PixelEmbedding
from .frame_pretraining import FramePretraining, pretrained_on_frames


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The size of the embedding.

    Args:
        size: of the latent.
        width: channels of the network that sees pixels.
        hidden: channels of the projection behind a frozen encoder.
        layer: of the frozen encoder, see `FrozenEmbedding`; null: its outputs.
    """

    size: int = 32
    width: int = 32
    hidden: int = 64
    layer: str | None = None


def new_embedding(
    out: Path,
    frames: UInt8[Tensor, "n H W C"],
    pretraining: FramePretraining | None,
    latent: Latent,
    name: str,
    seed: int,
) -> Embedding:
    """With weights that the seed gives; its encoder, if any, is pretrained on the frames."""
    if pretraining is None:
        some = frames[:: max(1, len(frames) // 1000)].float()
        with seeds.weights(seed, "embedding"):
            return PixelEmbedding(
                image_size=frames.shape[1],
                size=latent.size,
                width=latent.width,
                mean=some.mean(dim=(0, 1, 2)),
                std=some.std(dim=(0, 1, 2)),
            )
    images = frames.permute(0, 3, 1, 2)
    frozen = pretrained_on_frames(images, out / "encoder", pretraining, f"{name} frames", seed)
    with seeds.weights(seed, "embedding"):
        projection = LearntProjection(
            frozen.dim,
            frozen.grid(images[:1]),
            components=latent.size,
            hidden=latent.hidden,
        )
    return FrozenEmbedding(frozen, projection, layer=latent.layer)
