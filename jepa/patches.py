"""Pixels to patches, and the two ways of picking tokens by index."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.shapes import Grid, Images


def grid_of(images: Tensor, patch_size: int) -> Grid:
    """(h, w) in patches of images [B, C, H, W]; refuses sizes that the patch does not divide."""
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        fits = [max(1, side // patch_size) * patch_size for side in (height, width)]
        raise ValueError(
            f"image height and width must be multiples of the patch size {patch_size}; "
            f"got {height}x{width}: resize or crop to {fits[0]}x{fits[1]}"
        )
    return height // patch_size, width // patch_size


def patchify(images: Images, patch_size: int) -> Float[Tensor, "B N P"]:
    """[B, C, H, W] to [B, h*w, C*p*p], raster order; inside a patch (channel, row, column)."""
    (h, w), p = grid_of(images, patch_size), patch_size
    batch, channels = images.shape[:2]
    cut = images.reshape(batch, channels, h, p, w, p)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, h * w, channels * p * p)


def take(tokens: Float[Tensor, "B N D"], index: Int64[Tensor, "B *K"]) -> Float[Tensor, "B *K D"]:
    """Rows of `tokens` named by `index`, for each sample of the batch; any index shape [B, ...]."""
    flat = index.flatten(1)
    picked = tokens.gather(1, flat[..., None].expand(-1, -1, tokens.shape[-1]))
    return picked.reshape(*index.shape, tokens.shape[-1])


class PatchEmbed(nn.Module):
    """A convolution with stride = patch, written as one matrix product on the patches.

    Only the kept patches are projected. The weight is the convolution's, flattened:
    [D, C*p*p].
    """

    def __init__(self, *, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(channels * patch_size * patch_size, dim)

    def forward(self, images: Images, keep: Int64[Tensor, "B K"] | None = None) -> Tensor:
        patches = patchify(images, self.patch_size)
        return self.proj(patches if keep is None else take(patches, keep))
