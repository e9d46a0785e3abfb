"""The predictor: from context latents and places to the latents that stand there."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.blocks import LAYER_NORM, init_transformer, transformer_blocks
from jepa.choices import check_choice
from jepa.linear import Linear
from jepa.patches import take
from jepa.positions import Positions, sincos
from jepa.rope import rope_table
from jepa.shapes import Grid


class Predictor(nn.Module):
    """Narrow ViT of I-JEPA (Assran et al. 2023, section 3) and of V-JEPA 1 and 2.

    Each target block is foreseen from the context alone: blocks do not see one another. Grids of
    any size are given with the tokens, so that positions are right at every resolution.

    Args:
        encoder_dim: width D of the encoder's latents.
        native_grid: (h, w) or (t, h, w) on which positions are integers; the encoder's.
        dim: width inside the predictor.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        mask_tokens: one per group of masks.
        positions: as the encoder's, see `VisionTransformer`.
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
        mask_tokens: int = 1,
        positions: Positions = "sincos",
    ) -> None:
        super().__init__()
        check_choice("positions", positions, Positions)
        self.config: dict[str, Any] = dict(
            encoder_dim=encoder_dim,
            native_grid=list(native_grid),
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            mask_tokens=mask_tokens,
            positions=positions,
        )
        self.dim, self.heads, self.native_grid = dim, heads, tuple(native_grid)
        self.positions: Positions = positions
        self.predictor_embed: nn.Module = Linear(encoder_dim, dim)
        self.mask_tokens = nn.ParameterList(torch.zeros(1, 1, dim) for _ in range(mask_tokens))
        self.predictor_blocks = transformer_blocks(dim, depth, heads, mlp_ratio)
        self.predictor_norm = LAYER_NORM(dim)
        self.predictor_proj = Linear(dim, encoder_dim)
        init_transformer(self, self.predictor_blocks)
        for token in self.mask_tokens:
            nn.init.trunc_normal_(token, std=0.02)

    def forward(
        self,
        context: Float[Tensor, "B Nc D"],
        context_index: Int64[Tensor, "B Nc"],
        target_index: Int64[Tensor, "B M Nt"],
        grid: Grid,
        group: int = 0,
    ) -> Float[Tensor, "B M Nt D"]:
        """Predicted latents at `target_index`, both indices being raster indices on `grid`.

        `group` says which group of masks this is: each has a mask token of its own.
        """
        asked = target_index.shape[2]
        tokens = self.tokens(context, context_index, target_index, grid, group, asked)
        return self.predictor_proj(self.predictor_norm(tokens))

    def tokens(
        self,
        context: Float[Tensor, "B Nc D"],
        context_index: Int64[Tensor, "B Nc"],
        target_index: Int64[Tensor, "B M Nt"],
        grid: Grid,
        group: int = 0,
        asked: int | None = None,
    ) -> Float[Tensor, "B M n d"]:
        """What the last block gives for the context and for each block of targets after it, or
        for the last `asked` tokens of these alone."""
        batch, blocks, size = target_index.shape
        if not 0 <= group < len(self.mask_tokens):
            raise ValueError(
                f"this predictor has {len(self.mask_tokens)} mask tokens; got group {group}: "
                "set mask_tokens to the number of groups of masks"
            )
        seen = self.predictor_embed(context)
        hidden = self.mask_tokens[group][:, :, None].expand(batch, blocks, size, -1)
        rope = None
        if self.positions == "sincos":
            table = sincos(self.dim, grid, self.native_grid, context.device)
            table = table.to(hidden.dtype).expand(batch, -1, -1)
            seen, hidden = seen + take(table, context_index), hidden + take(table, target_index)
        else:
            places = context_index[:, None].expand(-1, blocks, -1)
            places = torch.cat([places, target_index], dim=2).flatten(0, 1)
            table = rope_table(self.dim // self.heads, grid, self.positions, context.device)
            rope = table.take(places).to(seen)
        seen = seen[:, None].expand(-1, blocks, -1, -1)
        tokens = torch.cat([seen, hidden.to(seen.dtype)], dim=2).flatten(0, 1)
        return self.predictor_blocks(tokens, rope, asked).unflatten(0, (batch, blocks))
