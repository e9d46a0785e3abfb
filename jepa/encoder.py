"""The encoder: visible patches to latents, a Vision Transformer without a class token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.blocks import LAYER_NORM, init_transformer, transformer_blocks
from jepa.patches import PatchEmbed, grid_of, take
from jepa.positions import sincos_2d
from jepa.shapes import Grid, Images


class VisionTransformer(nn.Module):
    """ViT encoder of I-JEPA (Assran et al. 2023, arXiv:2301.08243).

    Fixed 2-D sine-cosine positions, pre-norm blocks, a final norm, no class token. Any image
    size and aspect whose sides the patch divides is accepted; `image_size` only says on which
    grid positions are integers.

    Args:
        image_size: native image side, in pixels.
        patch_size: patch side, in pixels.
        channels: image channels.
        dim: width D.
        depth: number of blocks.
        heads: attention heads; must divide `dim`.
        mlp_ratio: hidden width of the MLP over `dim`.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        channels: int = 3,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"image_size {image_size} is not a multiple of patch_size {patch_size}"
            )
        self.config: dict[str, Any] = dict(
            image_size=image_size,
            patch_size=patch_size,
            channels=channels,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
        )
        self.dim, self.depth, self.patch_size, self.channels = dim, depth, patch_size, channels
        self.native_grid: Grid = (image_size // patch_size, image_size // patch_size)
        self.patch_embed = PatchEmbed(patch_size=patch_size, channels=channels, dim=dim)
        self.blocks = transformer_blocks(dim, depth, heads, mlp_ratio)
        self.norm = LAYER_NORM(dim)
        init_transformer(self, self.blocks)

    def grid(self, images: Tensor) -> Grid:
        """(h, w) in patches of images [..., H, W]."""
        return grid_of(images, self.patch_size)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names that `layers` accepts: `blocks.0` ... `blocks.<depth-1>` and `norm`."""
        return (*(f"blocks.{i}" for i in range(self.depth)), "norm")

    def forward(
        self, images: Images, keep: Int64[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Latents of all patches, or of the kept ones only, which then see only each other."""
        tokens = self._embed(images, keep)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def layers(self, images: Images, names: Sequence[str]) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents of all patches after the named layers; `norm` is what `forward` returns."""
        unknown = sorted(set(names) - set(self.layer_names))
        if unknown:
            raise ValueError(f"no layer {unknown}; this encoder has {list(self.layer_names)}")
        tokens, found = self._embed(images, None), {}
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            found[f"blocks.{i}"] = tokens
        found["norm"] = self.norm(tokens)
        return {name: found[name] for name in names}

    def _embed(self, images: Tensor, keep: Tensor | None) -> Tensor:
        if images.shape[-3] != self.channels:
            raise ValueError(f"expected {self.channels} channels, got images {tuple(images.shape)}")
        table = sincos_2d(self.dim, self.grid(images), self.native_grid).to(images.device)
        positions = table if keep is None else take(table.expand(len(images), -1, -1), keep)
        return self.patch_embed(images, keep) + positions


def vit_tiny(**sizes) -> VisionTransformer:
    """ViT-Ti: 192 wide, 12 deep, 3 heads."""
    return VisionTransformer(**{"dim": 192, "depth": 12, "heads": 3} | sizes)


def vit_small(**sizes) -> VisionTransformer:
    """ViT-S: 384 wide, 12 deep, 6 heads."""
    return VisionTransformer(**{"dim": 384, "depth": 12, "heads": 6} | sizes)


def vit_base(**sizes) -> VisionTransformer:
    """ViT-B: 768 wide, 12 deep, 12 heads."""
    return VisionTransformer(**{"dim": 768, "depth": 12, "heads": 12} | sizes)


def vit_large(**sizes) -> VisionTransformer:
    """ViT-L: 1024 wide, 24 deep, 16 heads."""
    return VisionTransformer(**{"dim": 1024, "depth": 24, "heads": 16} | sizes)


def vit_huge(**sizes) -> VisionTransformer:
    """ViT-H/14: 1280 wide, 32 deep, 16 heads."""
    return VisionTransformer(**{"patch_size": 14, "dim": 1280, "depth": 32, "heads": 16} | sizes)
