"""Pixels to patches, and the two ways of picking tokens by index."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.linear import Linear
from jepa.shapes import Clips, Grid, Pixels


def as_clips(images: Pixels, tubelet_size: int) -> Clips:
    """[B, C, T, H, W]: a single image, or a clip of one frame, lasts for one tubelet."""
    clips = images.unsqueeze(2) if images.ndim == 4 else images
    return clips.expand(-1, -1, tubelet_size, -1, -1) if clips.shape[2] == 1 else clips


def grid_of(images: Tensor, patch_size: int, tubelet_size: int = 1) -> Grid:
    """(t, h, w) in patches of clips [B, C, T, H, W]; (1, h, w) of images [B, C, H, W].

    Refuses sizes that the patch does not divide.
    """
    frames = images.shape[2] if images.ndim == 5 else 1
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        fits = [max(1, side // patch_size) * patch_size for side in (height, width)]
        raise ValueError(
            f"image height and width must be multiples of the patch size {patch_size}; "
            f"got {height}x{width}: resize or crop to {fits[0]}x{fits[1]}"
        )
    if frames > 1 and frames % tubelet_size:
        raise ValueError(
            f"a clip has 1 frame, or a multiple of the tubelet size {tubelet_size}; got {frames}: "
            f"take {max(1, frames // tubelet_size) * tubelet_size}"
        )
    return max(1, frames // tubelet_size), height // patch_size, width // patch_size


def patchify(images: Pixels, patch_size: int, tubelet_size: int = 1) -> Float[Tensor, "B N P"]:
    """To [B, t*h*w, C*dt*p*p], raster order; inside a patch (channel, frame, row, column)."""
    (t, h, w), p = grid_of(images, patch_size, tubelet_size), patch_size
    clips = as_clips(images, tubelet_size)
    batch, channels = clips.shape[:2]
    cut = clips.reshape(batch, channels, t, tubelet_size, h, p, w, p)
    cut = cut.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return cut.reshape(batch, t * h * w, channels * tubelet_size * p * p)


def take(tokens: Float[Tensor, "B N D"], index: Int64[Tensor, "B *K"]) -> Float[Tensor, "B *K D"]:
    """Rows of `tokens` named by `index`, for each sample of the batch; any index shape [B, ...]."""
    if len(index) != len(tokens):  # of fewer, gather would leave out the last samples
        raise ValueError(
            f"expected an index for each of {len(tokens)} samples, got {len(index)}: draw masks "
            f"for all of them, sample(grid, {len(tokens)}, generator)"
        )
    flat = index.flatten(1)
    picked = tokens.gather(1, flat[..., None].expand(-1, -1, tokens.shape[-1]))
    return picked.reshape(*index.shape, tokens.shape[-1])


class PatchEmbed(nn.Module):
    """A convolution with stride = patch, written as one matrix product on the patches.

    Only the kept patches are projected. The weight is the convolution's, flattened:
    [D, C*dt*p*p].
    """

    def __init__(self, *, patch_size: int, channels: int, dim: int, tubelet_size: int = 1) -> None:
        super().__init__()
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.proj = Linear(channels * tubelet_size * patch_size * patch_size, dim)

    def forward(self, images: Pixels, keep: Int64[Tensor, "B K"] | None = None) -> Tensor:
        patches = patchify(images, self.patch_size, self.tubelet_size)
        if patches.is_floating_point():
            patches = patches.to(self.proj.weight.dtype)  # a target's has more digits than pixels
        return self.proj(patches if keep is None else take(patches, keep))
