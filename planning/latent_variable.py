"""A latent variable z for what cannot be known: inferred by least energy, and learnt with it.

After LeCun 2022, "A Path Towards Autonomous Machine Intelligence", sections 4.3 and 4.4. What came
is explained by the z of least energy

    E(z) = error(f(latent, action, z), what came) - information * log p(z | latent, action),

found by looking at all values of z (`heads.OutcomesHead`). What is learnt is the free energy
-information * log sum_z exp(-E(z) / information), which is the least that any way of choosing z can
pay, where each nat that the choice differs from the prior costs `information`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from tensordict import TensorDict
from torch import Tensor

from .dynamics import Dynamics, ResidualMLP
from .heads import OutcomesHead, outcome


def energies(
    states: TensorDict, truth: Float[Tensor, "*B D"], information: float
) -> Float[Tensor, "*B K"]:
    """E of each z: the mean square, per number, of its outcome less what came, and what telling z
    costs."""
    error = (states["outcomes"] - truth.unsqueeze(-2)).square().mean(dim=-1)
    return error - information * states["log_prior"]


def inferred(
    states: TensorDict, truth: Float[Tensor, "*B D"], information: float
) -> Int[Tensor, "*B"]:
    """The z of least energy."""
    return energies(states, truth, information).argmin(dim=-1)


def posterior(
    states: TensorDict, truth: Float[Tensor, "*B D"], information: float
) -> Float[Tensor, "*B K"]:
    """q(z) of the least expected error + information * KL(q, prior); the gradient of the free
    energy is that of the energies, weighted by it."""
    return (-energies(states, truth, information) / information).softmax(dim=-1)


def free_energy(
    states: TensorDict, truth: Float[Tensor, "*B D"], information: float
) -> Float[Tensor, "*B"]:
    """That least, in units of the error."""
    return -information * (-energies(states, truth, information) / information).logsumexp(dim=-1)


def told(
    states: TensorDict, truth: Float[Tensor, "*B D"], information: float
) -> Float[Tensor, "*B"]:
    """Kullback-Leibler divergence of the posterior from the prior: what z tells of each step that
    latent and action do not, in nats."""
    q = posterior(states, truth, information)
    return (torch.special.xlogy(q, q) - q * states["log_prior"]).sum(dim=-1)


class Explained(Dynamics):
    """Dynamics that go on from the outcome that explains what came, not from what came.

    So whole windows are foreseen step by step, all from their first latent, with z inferred on the
    way: errors add up as they will in planning, luck does not.

    Args:
        dynamics: with an `OutcomesHead`.
        information: price of a nat, see above.
    """

    def __init__(self, dynamics: Dynamics, information: float) -> None:
        super().__init__()
        self.dynamics, self.information = dynamics, information

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """As the dynamics."""
        return self.dynamics.start(latent)

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """As the dynamics."""
        return self.dynamics.step(state, action)

    def observe(self, state: TensorDict, latent: Float[Tensor, "B D"]) -> TensorDict:
        """The state at the outcome of least energy, given the latent that came."""
        if "outcomes" in state:
            latent = outcome(state, inferred(state, latent, self.information))
        return self.dynamics.observe(state, latent)


def by_free_energy(dynamics: Dynamics, information: float) -> dict[str, Any]:
    """What `DynamicsTraining` and `JointTraining` must be told to train by the free energy, with
    windows as `Explained` goes through them."""
    return {
        "dynamics": Explained(dynamics, information),
        "error": partial(free_energy, information=information),
        "rollout": 0.0,
        "teacher_forced": 1.0,
    }


@torch.no_grad()
def measure_noise(
    dynamics: ResidualMLP,
    latents: Float[Tensor, "B L1 D"],
    actions: Float[Tensor, "B L A"],
    information: float,
) -> None:
    """Sets the noise of the head to the mean square that is left over when z is known, each step
    foreseen from the latent that came."""
    head = dynamics.head
    if not isinstance(head, OutcomesHead):
        raise ValueError(f"only an OutcomesHead has noise to measure; got {type(head).__name__}")
    states, truth = dynamics.follow(latents[:, :-1], actions), latents[:, 1:]
    weight = posterior(states, truth, information).unsqueeze(-1)
    left = (weight * (states["outcomes"] - truth.unsqueeze(-2)).square()).sum(dim=-2)
    head.noise.copy_(left.flatten(0, -2).mean(dim=0) / dynamics.scales.latent.square())
