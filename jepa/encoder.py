"""The encoder: visible patches of images or clips to latents, a ViT without a class token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.blocks import LAYER_NORM, init_transformer, transformer_blocks
from jepa.choices import check_choice
from jepa.patches import PatchEmbed, grid_of, take
from jepa.positions import Positions, sincos
from jepa.rope import Rope, rope_table
from jepa.shapes import Grid, Pixels


class VisionTransformer(nn.Module):
    """ViT encoder of I-JEPA (Assran et al. 2023), V-JEPA (2024) and V-JEPA 2 (2025).

    Pre-norm blocks, a final norm, no class token; positions are fixed. Any image size, aspect
    and clip length that the patches divide is accepted; `image_size` and `frames` only say on
    which grid sine-cosine positions are integers.

    With `frames` and `tubelet_size` of 1 it is an image encoder, with grids (h, w). Otherwise it
    takes clips [B, C, T, H, W], with grids (t, h, w), and an image as a clip that stands still
    for one tubelet.

    Args:
        image_size: native image side, in pixels.
        patch_size: patch side, in pixels.
        channels: image channels.
        frames: native clip length, in frames.
        tubelet_size: frames per patch.
        positions: `sincos`, added to the patches: of I-JEPA, or of V-JEPA for clips; `rope`:
            rotary, in every layer; `rope_legacy`: as in the released V-JEPA 2 weights.
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
        frames: int = 1,
        tubelet_size: int = 1,
        positions: Positions = "sincos",
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        check_choice("positions", positions, Positions)
        if image_size % patch_size:
            raise ValueError(
                f"image_size {image_size} is not a multiple of patch_size {patch_size}"
            )
        if frames % tubelet_size:
            raise ValueError(f"frames {frames} is not a multiple of tubelet_size {tubelet_size}")
        self.config: dict[str, Any] = dict(
            image_size=image_size,
            patch_size=patch_size,
            channels=channels,
            frames=frames,
            tubelet_size=tubelet_size,
            positions=positions,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
        )
        self.dim, self.depth, self.patch_size, self.channels = dim, depth, patch_size, channels
        self.frames, self.tubelet_size, self.heads = frames, tubelet_size, heads
        self.positions: Positions = positions
        side = image_size // patch_size
        self.native_grid: Grid = (
            (frames // tubelet_size, side, side) if self.video else (side, side)
        )
        self.patch_embed = PatchEmbed(
            patch_size=patch_size, channels=channels, dim=dim, tubelet_size=tubelet_size
        )
        self.blocks = transformer_blocks(dim, depth, heads, mlp_ratio)
        self.norm = LAYER_NORM(dim)
        init_transformer(self, self.blocks)

    @property
    def video(self) -> bool:
        """Whether it takes clips."""
        return self.frames > 1

    def grid(self, images: Tensor) -> Grid:
        """(h, w) in patches of images [B, C, H, W]; (t, h, w) for an encoder of clips."""
        grid = grid_of(images, self.patch_size, self.tubelet_size)
        if not self.video and grid[0] > 1:
            raise ValueError(
                f"this encoder takes images; got clips {tuple(images.shape)}: encode them frame by "
                "frame"
            )
        return grid if self.video else grid[1:]

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names that `layers` accepts: `blocks.0` ... `blocks.<depth-1>` and `norm`."""
        return (*(f"blocks.{i}" for i in range(self.depth)), "norm")

    def forward(
        self, images: Pixels, keep: Int64[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Latents of all patches, or of the kept ones only, which then see only each other."""
        return self.norm(self.blocks(*self._embed(images, keep)))

    def layers(
        self, images: Pixels, names: Sequence[str], keep: Int64[Tensor, "B K"] | None = None
    ) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents after the named layers, as `forward` has them; `norm` is what it returns.

        Blocks behind the last one named are not computed.
        """
        unknown = sorted(set(names) - set(self.layer_names))
        if unknown:
            raise ValueError(f"no layer {unknown}; this encoder has {list(self.layer_names)}")
        depth = 1 + max((self.layer_names.index(name) for name in names), default=0)
        outputs = list(islice(self.blocks.run(*self._embed(images, keep)), depth))
        found = {f"blocks.{i}": tokens for i, tokens in enumerate(outputs)}
        if "norm" in names:
            found["norm"] = self.norm(outputs[-1])
        return {name: found[name] for name in names}

    def _embed(self, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Rope | None]:
        """Patches with added positions, or patches and what turns queries and keys."""
        if images.shape[1] != self.channels:
            raise ValueError(f"expected {self.channels} channels, got images {tuple(images.shape)}")
        patches, grid = self.patch_embed(images, keep), self.grid(images)
        if self.positions == "sincos":
            table = sincos(self.dim, grid, self.native_grid, images.device)
            table = table.to(self.patch_embed.proj.weight.dtype)
            added = table if keep is None else take(table.expand(len(images), -1, -1), keep)
            return patches + added, None
        rope = rope_table(self.dim // self.heads, grid, self.positions, images.device)
        return patches, (rope if keep is None else rope.take(keep)).to(patches)


def vit_tiny(**sizes: Any) -> VisionTransformer:
    """ViT-Ti: 192 wide, 12 deep, 3 heads."""
    return _sized(sizes, dim=192, depth=12, heads=3)


def vit_small(**sizes: Any) -> VisionTransformer:
    """ViT-S: 384 wide, 12 deep, 6 heads."""
    return _sized(sizes, dim=384, depth=12, heads=6)


def vit_base(**sizes: Any) -> VisionTransformer:
    """ViT-B: 768 wide, 12 deep, 12 heads."""
    return _sized(sizes, dim=768, depth=12, heads=12)


def vit_large(**sizes: Any) -> VisionTransformer:
    """ViT-L: 1024 wide, 24 deep, 16 heads."""
    return _sized(sizes, dim=1024, depth=24, heads=16)


def vit_huge(**sizes: Any) -> VisionTransformer:
    """ViT-H/14: 1280 wide, 32 deep, 16 heads."""
    return _sized(sizes, patch_size=14, dim=1280, depth=32, heads=16)


def vit_giant(**sizes: Any) -> VisionTransformer:
    """ViT-g/14 of I-JEPA; V-JEPA 2's has patch_size 16 and heads 22: 1408 wide, 40 deep."""
    return _sized(sizes, patch_size=14, dim=1408, depth=40, heads=16, mlp_ratio=48 / 11)


def _sized(given: dict[str, Any], **usual: Any) -> VisionTransformer:
    return VisionTransformer(**usual | given)
