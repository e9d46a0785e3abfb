"""The contract of an objective: what turns an encoder, its target and a batch into named losses."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from jepa.encoder import VisionTransformer
from jepa.levels import Levels


@runtime_checkable
class Output(Protocol):
    """What one forward pass gives.

    losses: named, weighted, reduced to scalars; training minimises their sum.
    context: what the encoder said of what it saw, [n, N, D]; for those who watch.
    target: what a slow copy said, [..., D], of spread 1 while it is no single point; None without.
    """

    @property
    def losses(self) -> dict[str, Tensor]: ...
    @property
    def context(self) -> Tensor: ...
    @property
    def target(self) -> Tensor | None: ...


class Objective(nn.Module):
    """A module that is called with pixels and with what is drawn anew at each step.

    There are three kinds. A JEPA is called with images or clips and their masks; a JointEmbedding
    with views [B, V, C, H, W] of the images, and a generator that is the same on all ranks;
    Supervised with images and their labels. All give an `Output`.
    """

    encoder: VisionTransformer | Levels

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """`student`, which is trained, and `target` where a slow copy of it exists: then that
        one is what a run is for."""
        return {"student": self.encoder}

    def begin(self, step: int) -> None:
        """Told the optimiser step before each forward pass of training. Here nothing depends on
        it."""

    def follow(self, momentum: float) -> None:
        """Moves the slow copies; called once after every optimiser step. Here there are none."""
