"""The target encoder: a slow copy of the encoder that provides what is to be predicted."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.levels import Levels
from jepa.shapes import Pixels


@torch.no_grad()
def ema_update(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * fast, in one fused call; buffers are copied."""
    pairs = list(zip(slow.parameters(), fast.parameters(), strict=True))
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        [s for s, _ in pairs], [f for _, f in pairs], 1.0 - momentum
    )
    for old, new in zip(slow.buffers(), fast.buffers(), strict=True):
        old.copy_(new)


class EMATarget(nn.Module):
    """Exponential moving average of an encoder, without gradients.

    Its latents are layer-normalised without affine parameters (Assran et al. 2023; Bardes et
    al. 2024), so that the predictor cannot gain by shrinking them; each level by itself where
    there are several.
    """

    def __init__(self, encoder: VisionTransformer | Levels) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

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
