"""The predictor: from context latents and places to the latents that stand there."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.blocks import LAYER_NORM, init_transformer, transformer_blocks
from jepa.patches import take
from jepa.positions import sincos_2d
from jepa.shapes import Grid


class Predictor(nn.Module):
    """Narrow ViT of I-JEPA (Assran et al. 2023, section 3), one prediction per target block.

    Each target block is foreseen from the context alone: blocks do not see one another.

    Args:
        encoder_dim: width D of the encoder's latents.
        native_grid: (h, w) on which positions are integers; the encoder's.
        dim: width inside the predictor.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
    """

    def __init__(
        self,
        encoder_dim: int,
        native_grid: Grid,
        *,
        dim: int = 384,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.dim, self.native_grid = dim, native_grid
        self.predictor_embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.predictor_blocks = transformer_blocks(dim, depth, heads, mlp_ratio)
        self.predictor_norm = LAYER_NORM(dim)
        self.predictor_proj = nn.Linear(dim, encoder_dim)
        init_transformer(self, self.predictor_blocks)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self,
        context: Float[Tensor, "B Nc D"],
        context_index: Int64[Tensor, "B Nc"],
        target_index: Int64[Tensor, "B M Nt"],
        grid: Grid,
    ) -> Float[Tensor, "B M Nt D"]:
        """Predicted latents at `target_index`, both indices being raster indices on `grid`."""
        batch, blocks, size = target_index.shape
        table = sincos_2d(self.dim, grid, self.native_grid).to(context.device)
        table = table.expand(batch, -1, -1)
        seen = self.predictor_embed(context) + take(table, context_index)
        asked = self.mask_token[:, :, None] + take(table, target_index)
        seen = seen[:, None].expand(-1, blocks, -1, -1)
        tokens = torch.cat([seen, asked.to(seen.dtype)], dim=2).flatten(0, 1)
        for block in self.predictor_blocks:
            tokens = block(tokens)
        tokens = self.predictor_norm(tokens[:, -size:])
        return self.predictor_proj(tokens).unflatten(0, (batch, blocks))
