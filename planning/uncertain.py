"""Energies of uncertain futures: keep to what the model knows, and judge all that may happen."""

from __future__ import annotations

from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .energies import ComposableEnergy


class Uncertainty(ComposableEnergy):
    """Mean over the plan of what the model says of its own uncertainty.

    Args:
        key: the entry of the state, [B] or [B, ...], whose numbers are summed: `disagreement` of
            an `Ensemble`, or the predicted `variance`.
    """

    def __init__(self, key: str = "disagreement") -> None:
        self.key = key

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return states[self.key].unsqueeze(-1).flatten(states.batch_dims).sum(dim=-1).mean(dim=-1)


class Expected(ComposableEnergy):
    """Mean of an energy over the particles of an `Ensemble`, each of which is a whole future.

    `GoalDistance(goal)` alone measures the particles' mean, which may be at the goal when none of
    them is. (Chua et al. 2018, arXiv:1805.12114, algorithm 1.)

    Args:
        energy: of states with `latent`.
    """

    def __init__(self, energy: ComposableEnergy) -> None:
        self.energy = energy

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        particles = states["particles"].movedim(-2, 0)
        futures = TensorDict({"latent": particles}, batch_size=particles.shape[:-1])
        return self.energy(futures, actions.expand(len(particles), *actions.shape)).mean(dim=0)
