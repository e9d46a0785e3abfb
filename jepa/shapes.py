"""The vocabulary of shapes, used on every public signature.

B batch, V views of an image, C channels, T frames, H W pixels, t h w patches in time, per column
and per row, N tokens, D width, E width of an embedding, K kept tokens, M target blocks, Nc / Nt
tokens of a context / of one target block, A action size.
Tests switch the checks on (jaxtyping with beartype); at run time they cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Images: TypeAlias = Float[Tensor, "B C H W"]
Clips: TypeAlias = Float[Tensor, "B C T H W"]
Pixels: TypeAlias = Float[Tensor, "B C *T H W"]  # images or clips
Tokens: TypeAlias = Float[Tensor, "B N D"]
TokenIndex: TypeAlias = Int64[Tensor, "B K"]
Grid: TypeAlias = tuple[int, ...]  # (h, w) or (t, h, w) in patches; token index in raster order


@dataclass(frozen=True)
class Masks:
    """Which tokens the encoder sees and which the predictor must foresee.

    context [B, Nc] and targets [B, M, Nt] are raster token indices; every row has the same
    number of tokens, so nothing is padded.
    """

    context: Int64[Tensor, "B Nc"]
    targets: Int64[Tensor, "B M Nt"]

    def to(self, device: torch.device) -> Masks:
        """The same on another device."""
        there = {"device": device, "non_blocking": True}
        return Masks(context=self.context.to(**there), targets=self.targets.to(**there))
