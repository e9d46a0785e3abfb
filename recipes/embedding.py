"""The embedding of a world before it learns: of pixels, or behind a frozen encoder."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

from jepa import seeds
from jepa.checkpoint import load_frozen_encoder
from jepa.frozen import FrozenEncoder

from ..planning.embedding import (
    Embedding,
    FrozenEmbedding,
    LearntProjection,
    PixelEmbedding,
    resized,
)
from ..planning.keypoints import KeypointProjection
from .frame_pretraining import FramePretraining, pretrained_on_frames

PROJECTIONS = {"places": LearntProjection, "keypoints": KeypointProjection}


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The size of the embedding.

    Args:
        size: of the latent.
        width: channels of the network that sees pixels.
        hidden: channels of the projection behind a frozen encoder.
        pooling: of its patches: places, each of which learns by itself (`LearntProjection`); or
            keypoints, of which what is learnt at one place is known at all.
        layer: of the frozen encoder, see `FrozenEmbedding`; null: its outputs.
    """

    size: int = 32
    width: int = 32
    hidden: int = 64
    pooling: Literal["places", "keypoints"] = "places"
    layer: str | None = None


@dataclass(frozen=True, kw_only=True)
class GivenEncoder:
    """A frozen encoder that there is already, instead of one that is trained on the frames.

    Args:
        weights: what `jepa probe --encoder` takes: a run folder or encoder.safetensors, an
            official checkpoint, a folder of transformers' or timm's, hf-hub:OWNER/NAME, or the
            name of a timm model, e.g. vit_small_patch14_dinov2.lvd142m.
        architecture: the timm model that an encoder.safetensors of timm holds.
        image_size: pixels a side that frames are brought to first; null: as they are.
    """

    weights: str
    architecture: str | None = None
    image_size: int | None = None


class Given(NamedTuple):
    """The encoder of a GivenEncoder, loaded."""

    frozen: FrozenEncoder
    image_size: int | None


Sight: TypeAlias = FramePretraining | Given | None
"""What sees the world: trained on its frames, given, or (None) a part of the latent's training."""


def sight(
    pretraining: FramePretraining | None,
    encoder: GivenEncoder | None,
    latent: Latent,
    *,
    size: int,
    frames: int,
) -> Sight:
    """The one that is given, loaded and tried before anything is collected.

    Args:
        latent: tells the layer.
        size: of a frame, in pixels a side, of three colours.
        frames: that there will be; their tokens are kept in memory.

    Raises:
        ValueError: where both are given, and where the encoder cannot see such frames.
    """
    if encoder is None:
        return pretraining
    if pretraining is not None:
        raise ValueError(
            "an encoder is trained or given: add --pretraining=null, or leave out --encoder"
        )
    frozen = load_frozen_encoder(encoder.weights, architecture=encoder.architecture)
    if frozen.channels != 3:
        raise ValueError(f"{encoder.weights} takes {frozen.channels} channels, frames have 3")
    layer = latent.layer
    if layer is not None and layer not in frozen.layer_names:
        raise ValueError(f"latent.layer is one of {', '.join(frozen.layer_names)}; got {layer!r}")
    black = resized(torch.zeros(1, 3, size, size).byte(), encoder.image_size)
    named = layer or frozen.layer_names[-1]
    try:
        tokens = frozen.layers(black, [named])[named]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{encoder.weights} cannot see frames of {black.shape[-2]} x {black.shape[-1]} px: "
            f"{error}. Give --encoder.image_size, a multiple of its patch of {frozen.patch_size}"
        ) from error
    if tokens.shape[1] != math.prod(frozen.grid(black)):
        raise ValueError(
            f"latent.layer: {named} of {encoder.weights} has {tokens.shape[1]} tokens, which are "
            f"not those of its {frozen.grid(black)} patches"
        )
    needed, there = 4 * frames * tokens[0].numel(), memory()
    if needed > 0.7 * there:
        count, numbers = tokens.shape[1:]
        raise ValueError(
            f"{frames} frames of {count} tokens of {numbers} numbers need {needed / 1e9:.1f} GB, "
            f"there are {there / 1e9:.1f}: give a smaller --encoder.image_size, or fewer "
            "--experience.episodes"
        )
    return Given(frozen, encoder.image_size)


def memory() -> float:
    """Bytes of the machine's memory; infinite where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def new_embedding(
    out: Path,
    frames: UInt8[Tensor, "n H W C"],
    seen_by: Sight,
    latent: Latent,
    name: str,
    seed: int,
) -> Embedding:
    """With weights that the seed gives; its encoder is given, or pretrained on the frames."""
    if seen_by is None:
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
    if isinstance(seen_by, Given):
        frozen, size = seen_by
    else:
        title = f"{name} frames"
        frozen, size = pretrained_on_frames(images, out / "encoder", seen_by, title, seed), None
    with seeds.weights(seed, "embedding"):
        projection = PROJECTIONS[latent.pooling](
            frozen.dim,
            frozen.grid(resized(images[:1], size)),
            components=latent.size,
            hidden=latent.hidden,
        )
    return FrozenEmbedding(frozen, projection, layer=latent.layer, image_size=size)
