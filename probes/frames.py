"""Image encoders on clips: the baselines that see every frame, or one, and never a motion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepa.frozen import FrozenEncoder


class FrameByFrame(nn.Module):
    """Every frame encoded on its own; the tokens of all T frames side by side, in their order.

    The encoder is never shown two frames at once. A mean over the tokens, or the pooler of an
    attentive probe of depth 1, does not see the order of the frames either.
    """

    def __init__(self, frozen: FrozenEncoder) -> None:
        super().__init__()
        self.frozen = frozen
        self.name = f"{frozen.name}_frame_by_frame"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The image encoder's."""
        return self.frozen.layer_names

    @torch.no_grad()
    def layers(
        self,
        images: UInt8[Tensor, "B C T H W"] | Float[Tensor, "B C T H W"],
        names: Sequence[str],
    ) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents of the patches of all frames after each named layer."""
        found = self.frozen.layers(images.transpose(1, 2).flatten(0, 1), names)
        return {name: x.unflatten(0, (len(images), -1)).flatten(1, 2) for name, x in found.items()}

    def fingerprint(self) -> str:
        """16 hexadecimal digits, other than the image encoder's."""
        return _fingerprint("frame by frame", self.frozen)


class MiddleFrame(nn.Module):
    """The frame in the middle of the clip, T // 2, and nothing else."""

    def __init__(self, frozen: FrozenEncoder) -> None:
        super().__init__()
        self.frozen = frozen
        self.name = f"{frozen.name}_middle_frame"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The image encoder's."""
        return self.frozen.layer_names

    @torch.no_grad()
    def layers(
        self,
        images: UInt8[Tensor, "B C T H W"] | Float[Tensor, "B C T H W"],
        names: Sequence[str],
    ) -> dict[str, Float[Tensor, "B N D"]]:
        """Latents of the patches of the middle frame after each named layer."""
        return self.frozen.layers(images[:, :, images.shape[2] // 2], names)

    def fingerprint(self) -> str:
        """16 hexadecimal digits, other than the image encoder's."""
        return _fingerprint("middle frame", self.frozen)


def _fingerprint(way: str, frozen: FrozenEncoder) -> str:
    return hashlib.sha256(f"{way} {frozen.fingerprint()}".encode()).hexdigest()[:16]
