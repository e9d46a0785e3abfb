"""The latent world model: an embedding of what is seen, and learned dynamics on its latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from tensordict import TensorDict
from torch import Tensor, nn

from .embedding import Embedding
from .heads import PointHead
from .planner import unroll


class Dynamics(nn.Module):
    """What decisions do to latents: everything of a latent world model but its encoder.

    States have the entry `latent` [B, D]; a `variance` [B, D] around it if the dynamics foresee
    one; and `memory`, what only the dynamics need to go on, which rollouts drop.

    told_first: decisions whose outcome they are told, in training, before they foresee: one where
        they have a memory, since what moves does not show in a single latent.
    """

    told_first = 0

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """The state of environments of which only the present latent is known."""
        return TensorDict({"latent": latent}, batch_size=[len(latent)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        raise NotImplementedError("dynamics are stepped as step(state, action)")

    def observe(self, state: TensorDict, latent: Float[Tensor, "B D"]) -> TensorDict:
        """The state when the latent that came is known; the memory stays."""
        return state.copy().update({"latent": latent})

    def remember(
        self, latents: Float[Tensor, "B T1 D"], actions: Float[Tensor, "B T A"]
    ) -> TensorDict:
        """The state at the last latent, after a history of T decisions."""
        state = self.start(latents[:, 0])
        for latent, action in zip(latents[:, 1:].unbind(1), actions.unbind(1), strict=True):
            state = self.observe(self.step(state, action), latent)
        return state

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action, each foreseen from the last."""
        return unroll(self.step, state, actions)

    def follow(
        self, latents: Float[Tensor, "B T D"], actions: Float[Tensor, "B T A"]
    ) -> TensorDict:
        """The states [B, T] after each action, each foreseen from the latents that came before
        it (teacher forcing)."""
        state, states = self.start(latents[:, 0]), []
        for latent, action in zip(latents.unbind(dim=1), actions.unbind(dim=1), strict=True):
            state = self.step(self.observe(state, latent), action)
            states.append(state.exclude("memory"))
        return TensorDict.stack(states, dim=1)

    def learn(self, loss: Callable[..., Tensor], *windows: Tensor) -> Float[Tensor, ""]:
        """loss(dynamics, *windows) of what is to be trained: these dynamics, or their parts."""
        return loss(self, *windows)


class Scales(nn.Module):
    """Deviations of the latents [D] and the actions [A]: the units in which dynamics work."""

    latent: Tensor
    action: Tensor

    def __init__(self, latent: Float[Tensor, " D"], action: Float[Tensor, " A"]) -> None:
        super().__init__()
        self.register_buffer("latent", latent.clone())
        self.register_buffer("action", action.clone())

    def forward(
        self, latent: Float[Tensor, "*B D"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B DA"]:
        """Both in these units, side by side."""
        return torch.cat([latent / self.latent, action / self.action], dim=-1)


class ResidualMLP(Dynamics):
    """Next latent = latent + MLP(latent, action), all components on their own scales.

    Args:
        scales: of latents and actions.
        hidden: width of the hidden layers.
        layers: how many hidden layers.
        head: makes the head, see `heads`.
    """

    def __init__(
        self,
        scales: Scales,
        *,
        hidden: int = 256,
        layers: int = 2,
        head: Callable[[int, int], nn.Module] = PointHead,
    ) -> None:
        super().__init__()
        self.scales, size = scales, len(scales.latent)
        self.layers = mlp(size + len(scales.action), hidden, layers)
        self.head = head(hidden, size)

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        latent = state["latent"]
        features = self.layers(self.scales(latent, action))
        entries = self.head(latent, features, self.scales.latent)
        return TensorDict(entries, batch_size=state.batch_size)


def mlp(inputs: int, hidden: int, layers: int = 2) -> nn.Sequential:
    """From inputs to features, `hidden` of them, normalised in the last of the layers."""
    if layers < 1:
        raise ValueError(f"expected at least one hidden layer; got {layers}")
    widths = [inputs] + [hidden] * (layers - 1)
    before = [part for width in widths[:-1] for part in (nn.Linear(width, hidden), nn.SiLU())]
    last = nn.Linear(widths[-1], hidden)
    return nn.Sequential(*before, last, nn.LayerNorm(hidden), nn.SiLU())


class LatentWorldModel(nn.Module):
    """Foresees in the space of an embedding. States are those of its dynamics.

    Args:
        embedding: observations to latents; not trained here.
        dynamics: of the latents.
    """

    def __init__(self, *, embedding: Embedding, dynamics: Dynamics) -> None:
        super().__init__()
        self.embedding, self.dynamics = embedding, dynamics

    @torch.no_grad()
    def encode(self, observation: Shaped[Tensor, "B *O"]) -> TensorDict:
        """Images as environments give them, channels last; or whatever the embedding takes."""
        return self.dynamics.start(self._latent(observation))

    @torch.no_grad()
    def observe(
        self,
        state: TensorDict,
        action: Float[Tensor, "B A"],
        observation: Shaped[Tensor, "B *O"],
    ) -> TensorDict:
        """The state after an action, when what came of it is seen: see `Dynamics.observe`."""
        return self.dynamics.observe(self.dynamics.step(state, action), self._latent(observation))

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        return self.dynamics.step(state, action)

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action."""
        return self.dynamics.rollout(state, actions)

    def _latent(self, observation: Shaped[Tensor, "B *O"]) -> Float[Tensor, "B D"]:
        return self.embedding(self.embedding.features(observation))
