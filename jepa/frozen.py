"""The frozen encoder: what probes and planners are given. It never learns again."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepa.shapes import Grid
from jepa.tables import CPU

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Pixels to what an encoder was trained on: (x - mean) / std per channel, on the device.

    uint8 images are first divided by 255; float images are expected in [0, 1], those of numpy's
    float64 are computed as the weights are. One mean and std are for all channels.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"need one mean and one positive std per channel; got {mean}, {std}")
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("shift", torch.tensor(self.mean), persistent=False)
        self.register_buffer("scale", torch.tensor(self.std), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "B C *T H W"] | Float[Tensor, "B C *T H W"]
    ) -> Float[Tensor, "B C *T H W"]:
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(
                f"expected images [B, C, H, W] or clips [B, C, T, H, W] of C = {len(self.mean)} "
                f"channels, as there are means; got {tuple(images.shape)}"
            )
        dtype = self.shift.dtype
        pixels = images if images.is_floating_point() else images.to(dtype) / 255
        pixels = pixels.to(dtype) if pixels.dtype == torch.float64 else pixels
        channels = (-1, *(1,) * (images.ndim - 2))
        return (pixels - self.shift.view(channels)) / self.scale.view(channels)


def device_of(model: object, otherwise: torch.device = CPU) -> torch.device:
    """Where a module's weights are, or else its buffers; `otherwise` for what has neither."""
    if not isinstance(model, nn.Module):
        return otherwise
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), otherwise)


class FrozenEncoder(nn.Module):
    """An encoder with its own pixel normalisation, without gradients, always in eval mode.

    It freezes the very module that it is given, in place: to measure an encoder that goes on
    learning, give it a copy.

    Args:
        encoder: a VisionTransformer, or anything with its `forward`, `layers`, `layer_names`,
            `grid`, `dim`, `channels` and `patch_size`.
        mean, std: per channel, of pixels in [0, 1].
        name: where it came from, for tables and reports.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        name: str = "encoder",
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder.requires_grad_(False)
        self.normalize = Normalize(mean, std)
        self.name = name
        self.eval()

    @property
    def dim(self) -> int:
        """Width D of the latents."""
        return self.encoder.dim

    @property
    def channels(self) -> int:
        """Channels of the images that it takes."""
        return self.encoder.channels

    @property
    def patch_size(self) -> int:
        """Patch side in pixels; image sides must be multiples of it."""
        return self.encoder.patch_size

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names that `layers` accepts, input to output."""
        return self.encoder.layer_names

    def grid(self, images: Tensor) -> Grid:
        """(h, w) in patches; (t, h, w) for an encoder of clips."""
        return self.encoder.grid(images)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, images: UInt8[Tensor, "B C *T H W"] | Float[Tensor, "B C *T H W"]
    ) -> Float[Tensor, "B N D"]:
        """Latents of all patches; images or clips, uint8 or float in [0, 1]."""
        return self.encoder(self.normalize(images))

    @torch.no_grad()
    def layers(
        self,
        images: UInt8[Tensor, "B C *T H W"] | Float[Tensor, "B C *T H W"],
        names: Sequence[str],
    ) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents of all patches after each named layer."""
        return self.encoder.layers(self.normalize(images), names)

    def fingerprint(self) -> str:
        """16 hexadecimal digits over weights, sizes and normalisation."""
        config = getattr(self.encoder, "config", None)
        digest = hashlib.sha256(repr((self.normalize.mean, self.normalize.std, config)).encode())
        for key, value in sorted(self.encoder.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]
