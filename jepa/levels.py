"""Several depths of an encoder as one latent, for deep self-supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.blocks import LAYER_NORM
from jepa.encoder import VisionTransformer
from jepa.shapes import Grid, Pixels


class Levels(nn.Module):
    """Latents after some blocks, each with a norm of its own, and the encoder's output, side by
    side: what V-JEPA 2.1 trains.

    Args:
        encoder: the only part that is kept after training.
        blocks: numbers of the blocks, from 0, in order; the last block is the output already.
    """

    def __init__(self, encoder: VisionTransformer, blocks: Sequence[int]) -> None:
        super().__init__()
        if list(blocks) != sorted(set(blocks) & set(range(encoder.depth - 1))):
            raise ValueError(
                f"blocks are numbers from 0 to {encoder.depth - 2}, in order, of an encoder "
                f"{encoder.depth} deep, whose last block is there in any case; got {list(blocks)}"
            )
        self.encoder, self.blocks = encoder, tuple(blocks)
        self.norms = nn.ModuleList(LAYER_NORM(encoder.dim) for _ in blocks)

    @property
    def dim(self) -> int:
        """Width D of one level."""
        return self.encoder.dim

    @property
    def width(self) -> int:
        """Width L * D of all levels."""
        return self.dim * (len(self.blocks) + 1)

    def grid(self, images: Tensor) -> Grid:
        """The encoder's."""
        return self.encoder.grid(images)

    def forward(
        self, images: Pixels, keep: Int64[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B N E"]:
        """As the encoder's `forward`, of all levels, the deepest one last."""
        names = [f"blocks.{number}" for number in self.blocks]
        found = self.encoder.layers(images, [*names, "norm"], keep)
        levels = [norm(found[name]) for norm, name in zip(self.norms, names, strict=True)]
        return torch.cat([*levels, found["norm"]], dim=-1)
