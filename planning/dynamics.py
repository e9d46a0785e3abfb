"""The latent world model: a frozen encoder, a compact latent, and learned dynamics on it."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.frozen import FrozenEncoder

from .planner import unroll


class SpatialPCA(nn.Module):
    """Patch tokens to a vector that still knows where things are.

    The tokens are average-pooled over `pool` x `pool` patches, flattened with their places
    (never averaged over the picture, which would lose them), centred and projected on their
    leading principal components, not whitened. Of features that move with an object the leading
    components are the smooth functions of its place, so that Euclidean distances keep a slope
    where single patches would only say "elsewhere". All are divided by one number, the root
    mean square distance from the mean.

    Args:
        components: size D of the vector.
        pool: side of the pooled cells, in patches.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor
    spread: Tensor

    def __init__(self, *, components: int = 32, pool: int = 1) -> None:
        super().__init__()
        self.components, self.pool = components, pool
        for name in ("mean", "basis", "scale", "spread"):
            self.register_buffer(name, torch.empty(0))

    @torch.no_grad()
    def fit(self, tokens: Float[Tensor, "S N D"], grid: tuple[int, int]) -> SpatialPCA:
        """Exact, from the Gram matrix of the S samples; a few thousand samples are plenty."""
        flat = self._flatten(tokens, grid).double()
        if len(flat) <= self.components:
            raise ValueError(
                f"{self.components} components need more than {self.components} frames; "
                f"got {len(flat)}"
            )
        mean = flat.mean(dim=0)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        values = values[-self.components :].flip(0)
        basis = centred.T @ vectors[:, -self.components :].flip(1) / values.sqrt()
        projected = centred @ basis
        scale = projected.square().sum(dim=1).mean().sqrt()
        self.mean, self.basis, self.scale = mean.float(), basis.float(), scale.float()
        self.spread = (projected / scale).std(dim=0).float()
        return self

    def forward(
        self, tokens: Float[Tensor, "B N D"], grid: tuple[int, int]
    ) -> Float[Tensor, "B components"]:
        if not self.basis.numel():
            raise RuntimeError("SpatialPCA is not fitted: call fit(tokens, grid) first")
        return (self._flatten(tokens, grid) - self.mean) @ self.basis / self.scale

    def _flatten(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid[0] % self.pool or grid[1] % self.pool:
            raise ValueError(f"pool {self.pool} does not divide the patch grid {grid}")
        image = tokens.float().transpose(1, 2).unflatten(2, grid)
        return F.avg_pool2d(image, self.pool).flatten(1)


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
        self, *, encoder: FrozenEncoder, projection: SpatialPCA, dynamics: nn.Module
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

    def rollout(self, state: TensorDict, actions: Float[Tensor, "B H A"]) -> TensorDict:
        """The states [B, H] after each action."""
        return unroll(self.step, state, actions)


@torch.no_grad()
def encode_frames(
    model: LatentWorldModel, frames: UInt8[Tensor, "S H W C"], batch: int = 512
) -> Float[Tensor, "S D"]:
    """Latents of many frames, a batch at a time."""
    return torch.cat([model.encode(some)["latent"] for some in frames.split(batch)])


@torch.no_grad()
def fit_projection(
    encoder: FrozenEncoder,
    frames: UInt8[Tensor, "S H W C"],
    *,
    components: int = 32,
    pool: int = 1,
    samples: int = 2000,
    batch: int = 512,
) -> SpatialPCA:
    """A `SpatialPCA` fitted on at most `samples` frames, evenly spaced over those given."""
    chosen = torch.linspace(0, len(frames) - 1, min(samples, len(frames))).long()
    images = frames[chosen].permute(0, 3, 1, 2)
    tokens = torch.cat([encoder(some) for some in images.split(batch)])
    return SpatialPCA(components=components, pool=pool).fit(tokens, encoder.grid(images))


def world_model(
    encoder: FrozenEncoder,
    projection: SpatialPCA,
    action_scale: Float[Tensor, " A"],
    *,
    hidden: int = 256,
) -> LatentWorldModel:
    """An untrained world model whose dynamics know the scales of latents and actions."""
    size = projection.components
    dynamics = ResidualMLP(size=size, actions=len(action_scale), hidden=hidden)
    dynamics.spread, dynamics.action_scale = projection.spread.clone(), action_scale.clone()
    return LatentWorldModel(encoder=encoder, projection=projection, dynamics=dynamics)
