"""Second-order dynamics: how the latent has just changed counts too."""

from __future__ import annotations

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .dynamics import Dynamics, Scales, mlp
from .heads import PointHead


class SecondOrder(Dynamics):
    """Next latent = latent + MLP(latent, action, its last change): for worlds in which things keep
    moving, when one observation does not show how fast.

    The latent before is the entry `memory`; at the start it is the latent: nothing moves.

    Args:
        scales: of latents and actions.
        hidden: width of the hidden layers.
        layers: how many hidden layers; what happens only where things touch needs more than two.
    """

    told_first = 1

    def __init__(self, scales: Scales, *, hidden: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.scales, size = scales, len(scales.latent)
        self.layers = mlp(2 * size + len(scales.action), hidden, layers)
        self.head = PointHead(hidden, size)

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """At rest."""
        return TensorDict({"latent": latent, "memory": latent}, batch_size=[len(latent)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        latent = state["latent"]
        change = (latent - state["memory"]) / self.scales.latent
        features = self.layers(torch.cat([self.scales(latent, action), change], dim=-1))
        entries = self.head(latent, features, self.scales.latent)
        return TensorDict(entries | {"memory": latent}, batch_size=state.batch_size)
