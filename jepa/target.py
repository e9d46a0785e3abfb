"""The target encoder: a slow copy of the encoder that provides what is to be predicted."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.levels import Levels
from jepa.shapes import Pixels

HALF = (torch.bfloat16, torch.float16)


@torch.no_grad()
def ema_update(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * fast, in one fused call; buffers are copied.

    Raises ValueError where `slow` has weights in half precision, which would hardly move.
    """
    pairs = list(zip(slow.parameters(), fast.parameters(), strict=True))
    if any(s.dtype in HALF for s, _ in pairs):
        raise ValueError(
            "what follows slowly needs weights in float32: train with precision bf16-mixed, or "
            "make it a jepa.target.Slow"
        )
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        [s for s, _ in pairs], [f.to(s.dtype) for s, f in pairs], 1.0 - momentum
    )
    for old, new in zip(slow.buffers(), fast.buffers(), strict=True):
        old.copy_(new)


class Slow(nn.Module):
    """What follows by `ema_update`; its weights are float32 where all others are half.

    Its steps, thousandths of the way, are below the digits of bfloat16: it would never move.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Slow:
        """What `.to(...)`, `.bfloat16()` and the like call."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device, torch.float32) if moved.dtype in HALF else moved

        return super()._apply(kept, recurse)


class SlowLayers(Slow, nn.Sequential):
    """Layers that follow others, without gradients."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(*copy.deepcopy(layers))
        self._apply(lambda weights: weights)
        self.requires_grad_(False)


class EMATarget(Slow):
    """Exponential moving average of an encoder, without gradients.

    Its latents are layer-normalised without affine parameters (Assran et al. 2023; Bardes et
    al. 2024), so that the predictor cannot gain by shrinking them; each level by itself where
    there are several.
    """

    def __init__(self, encoder: VisionTransformer | Levels) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self._apply(lambda weights: weights)

    def train(self, mode: bool = True) -> EMATarget:
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Pixels) -> Float[Tensor, "B N D"]:
        width = self.encoder.dim
        levels = self.encoder(images).float().unflatten(-1, (-1, width))
        return F.layer_norm(levels, (width,)).flatten(-2)

    def update(self, encoder: nn.Module, momentum: float) -> None:
        """Move towards `encoder`; call once after every optimiser step."""
        ema_update(self.encoder, encoder, momentum)
