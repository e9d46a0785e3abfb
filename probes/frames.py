"""Image encoders on clips: the baselines that see every frame, or one, and never a motion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepa.frozen import FrozenEncoder


class _OnClips(nn.Module):
    """An image encoder as an encoder of clips; `way` says how, in names and fingerprints."""

    way: str

    def __init__(self, frozen: FrozenEncoder) -> None:
        super().__init__()
        self.frozen = frozen
        self.name = f"{frozen.name}_{self.way.replace(' ', '_')}"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The image encoder's."""
        return self.frozen.layer_names

    def fingerprint(self) -> str:
        """16 hexadecimal digits, other than the image encoder's."""
        return hashlib.sha256(f"{self.way} {self.frozen.fingerprint()}".encode()).hexdigest()[:16]


class FrameByFrame(_OnClips):
    """Every frame encoded on its own; the tokens of all T frames side by side, in their order.

    The encoder is never shown two frames at once. A mean over the tokens, or the pooler of an
    attentive probe of depth 1, does not see the order of the frames either.
    """

    way = "frame by frame"

    @torch.no_grad()
    def layers(
        self,
        images: UInt8[Tensor, "B C T H W"] | Float[Tensor, "B C T H W"],
        names: Sequence[str],
    ) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents of the patches of all frames after each named layer."""
        found = self.frozen.layers(images.transpose(1, 2).flatten(0, 1), names)
        sizes = len(images), images.shape[2]
        return {name: x.unflatten(0, sizes).flatten(1, 2) for name, x in found.items()}


class MiddleFrame(_OnClips):
    """The frame in the middle of the clip, T // 2, and nothing else."""

    way = "middle frame"

    @torch.no_grad()
    def layers(
        self,
        images: UInt8[Tensor, "B C T H W"] | Float[Tensor, "B C T H W"],
        names: Sequence[str],
    ) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents of the patches of the middle frame after each named layer."""
        return self.frozen.layers(images[:, :, images.shape[2] // 2], names)
