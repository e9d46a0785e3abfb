"""The latent world model: a frozen encoder, a compact latent, and learned dynamics on it."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from tensordict import TensorDict
from torch import Tensor, nn

from jepa.frozen import FrozenEncoder

from .planner import unroll
from .projection import SlowFeatures


class ResidualMLP(nn.Module):
    """Next latent = latent + MLP(latent, action), all components on their own scales.

    Args:
        size: of the latent, D.
        actions: size of the action, A.
        hidden: width of the two hidden layers.
    """

    spread: Tensor
    action_scale: Tensor

    def __init__(self, *, size: int, actions: int, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(size))
        self.register_buffer("action_scale", torch.ones(actions))
        self.layers = nn.Sequential(
            nn.Linear(size + actions, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, size),
        )

    def forward(
        self, latent: Float[Tensor, "B D"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B D"]:
        known = torch.cat([latent / self.spread, action / self.action_scale], dim=-1)
        return latent + self.spread * self.layers(known)


class LatentWorldModel(nn.Module):
    """Foresees in the space of a frozen encoder. States have one entry, `latent` [B, D].

    Args:
        encoder: pretrained without actions; never trained here.
        projection: fitted on frames.
        dynamics: (latent, action) to the next latent.
    """

    def __init__(
        self, *, encoder: FrozenEncoder, projection: SlowFeatures, dynamics: nn.Module
    ) -> None:
        super().__init__()
        self.encoder, self.projection, self.dynamics = encoder, projection, dynamics

    @torch.no_grad()
    def encode(self, observation: UInt8[Tensor, "B H W C"]) -> TensorDict:
        """Images as environments give them, channels last."""
        images = observation.permute(0, 3, 1, 2)
        latent = self.projection(self.encoder(images), self.encoder.grid(images))
        return TensorDict({"latent": latent}, batch_size=[len(images)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        latent = self.dynamics(state["latent"], action)
        return TensorDict({"latent": latent}, batch_size=state.batch_size)

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action."""
        return unroll(self.step, state, actions)


def world_model(
    encoder: FrozenEncoder,
    projection: SlowFeatures,
    action_scale: Float[Tensor, " A"],
    *,
    hidden: int = 256,
) -> LatentWorldModel:
    """An untrained world model whose dynamics know the scales of latents and actions."""
    size = projection.components
    dynamics = ResidualMLP(size=size, actions=len(action_scale), hidden=hidden)
    dynamics.spread, dynamics.action_scale = projection.spread.clone(), action_scale.clone()
    return LatentWorldModel(encoder=encoder, projection=projection, dynamics=dynamics)
