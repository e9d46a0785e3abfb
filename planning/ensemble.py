"""Ensembles of dynamics: sampled futures, and how much the members disagree about them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds
from jepa.tables import shared_table

from .dynamics import Dynamics
from .heads import drawn

Sampled: TypeAlias = Literal["ts_inf", "ts1"]


class Ensemble(Dynamics):
    """Members that differ in their weights alone, all computed at once; futures are sampled.

    Trajectory sampling (PETS, Chua et al. 2018, arXiv:1805.12114, section 5): a state is a cloud
    of particles; each goes where a member foresees, plus noise of the variance that it foresees.
    "ts_inf": a particle keeps its member, so that its future is one that a member believes in.
    "ts1": particles are dealt anew to the members at every step.

    Noise is a function of seed, particle and step, the same for all plans and environments: plans
    are compared on the same luck, energies are functions of the plan, and gradients pass through
    (Ng & Jordan 2000, PEGASUS).

    States have

    - `latent` [B, D] and `variance` [B, D], mean and total variance of the latent: over the
      particles before the last noise, and the variance of that noise added;
    - `disagreement` [B], mean squared distance of the members' means from their mean;
    - `particles` [B, P, D], the futures: see `uncertain.Expected`;
    - `memory`: the particles' own states, and the number of steps so far.

    Args:
        members: of the same kind and size; trained or not. Copied.
        particles: for each member.
        sampling: see above; "ts1" only for members without a memory.
        seed: of the noise.
        period: steps after which the noise repeats itself.
    """

    def __init__(
        self,
        members: Sequence[Dynamics],
        *,
        particles: int = 4,
        sampling: Sampled = "ts_inf",
        seed: int = 0,
        period: int = 64,
    ) -> None:
        super().__init__()
        if not members or min(particles, period) < 1:
            raise ValueError(
                "need members, and particles and period of at least 1; got "
                f"{len(members)} members, {particles} and {period}"
            )
        self.count, self.particles, self.sampling = len(members), particles, sampling
        self.weights = TensorDict.from_modules(*members, as_module=True)
        self._empty = (copy.deepcopy(members[0]).to("meta"),)  # a tuple: no sub-module
        self.period, self._luck = period, (seed, period, len(members), particles)

    def each(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(member, *its own of the inputs) for every member at once.

        Inputs and results are tensors or TensorDicts [members, ...].
        """
        (member,) = self._empty

        def one(weights: TensorDict, *given: Any) -> Any:
            with weights.to_module(member):
                return function(member, *given)

        return torch.vmap(one)(self.weights, *inputs)

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """All particles at the latent."""
        batch, count = len(latent), self.count * self.particles
        members = self.each(
            lambda member, here: member.start(here), latent.expand(self.count, -1, -1)
        )
        if self.sampling == "ts1" and "memory" in members:
            raise ValueError(
                "with ts1 particles go from member to member, which cannot read each other's "
                'memories: use sampling="ts_inf"'
            )
        members = members.transpose(0, 1).repeat_interleave(self.particles, dim=1)
        memory = {"members": members, "steps": torch.zeros(batch, dtype=torch.int64)}
        return TensorDict(
            {
                "latent": latent,
                "variance": torch.zeros_like(latent),
                "disagreement": latent.new_zeros(batch),
                "particles": latent[:, None].expand(-1, count, -1),
                "memory": TensorDict(memory, batch_size=[batch]).to(latent.device),
            },
            batch_size=[batch],
        )

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        members, steps = state["memory", "members"], state["memory", "steps"] % self.period
        if self.sampling == "ts1":
            deal = order_table(*self._luck, action.device)[steps]
            members = members[torch.arange(len(action), device=action.device)[:, None], deal]
        members = self._stepped(members, action)
        mean = particles = members["latent"]
        noise_variance = torch.zeros_like(mean)
        if "variance" in members:
            noise_variance = members["variance"]
            normal = noise_table(*self._luck, mean.shape[2], mean.device)[steps]
            uniform = uniform_table(*self._luck, mean.device)[steps]
            particles = drawn(members, normal.to(mean), uniform.to(mean))
            members = members.exclude("outcomes", "log_prior", "noise")
        of_members = mean.unflatten(1, (self.count, -1)).mean(dim=2)
        memory = {
            "members": members.update({"latent": particles}),
            "steps": state["memory", "steps"] + 1,
        }
        return TensorDict(
            {
                "latent": mean.mean(dim=1),
                "variance": mean.var(dim=1, correction=0) + noise_variance.mean(dim=1),
                "disagreement": of_members.var(dim=1, correction=0).sum(dim=-1),
                "particles": particles,
                "memory": TensorDict(memory, batch_size=state.batch_size),
            },
            batch_size=state.batch_size,
        )

    def observe(self, state: TensorDict, latent: Float[Tensor, "B D"]) -> TensorDict:
        """All particles at the latent that came; the members remember how they got there."""
        known = self.start(latent)
        particles = known["particles"]
        memory = state["memory"].copy()
        memory["members"] = memory["members"].copy().update({"latent": particles})
        return known.update({"memory": memory})

    def learn(self, loss: Callable[..., Tensor], *windows: Tensor) -> Float[Tensor, ""]:
        """The mean over the members, each of which foresees for itself alone."""
        spread = (window.expand(self.count, *window.shape) for window in windows)
        return self.each(loss, *spread).mean()

    def _stepped(self, members: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The states [B, P] of particles after one decision, each by its member."""
        batch, _ = members.shape
        shape = (batch, self.count, self.particles)
        grouped = members.reshape(*shape).transpose(0, 1).reshape(self.count, -1)
        actions = action.repeat_interleave(self.particles, dim=0).expand(self.count, -1, -1)
        after = self.each(lambda member, *given: member.step(*given), grouped, actions)
        after = after.reshape(self.count, batch, self.particles).transpose(0, 1)
        return after.reshape(batch, -1)


@shared_table
def noise_table(
    seed: int, period: int, members: int, particles: int, size: int, device: torch.device
) -> Float[Tensor, "period P D"]:
    """Normal noise; if members have several particles, of mean 0 over each member's and variance 1
    over all, exactly: luck is not to look like disagreement. Shared by all callers: do not write.
    """
    generator = seeds.generator(seed, "trajectory_sampling")
    noise = torch.randn(period, members, particles, size, generator=generator)
    if particles > 1:
        noise = noise - noise.mean(dim=2, keepdim=True)
        noise = noise / noise.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return noise.flatten(1, 2).to(device)


@shared_table
def uniform_table(
    seed: int, period: int, members: int, particles: int, device: torch.device
) -> Float[Tensor, "period P"]:
    """Uniform numbers, one of each member's in each of equal parts of [0, 1): so that particles are
    dealt to outcomes as evenly as can be. Shared by all callers: do not write."""
    generator = seeds.generator(seed, "trajectory_outcomes")
    draws = torch.rand(2, period, members, particles, generator=generator)
    return ((draws[0].argsort(dim=-1) + draws[1]) / particles).flatten(1).to(device)


@shared_table
def order_table(
    seed: int, period: int, members: int, particles: int, device: torch.device
) -> Int[Tensor, "period P"]:
    """A random order of the particles for each step. Shared by all callers: do not write."""
    generator = seeds.generator(seed, "trajectory_dealing")
    return torch.rand(period, members * particles, generator=generator).argsort(dim=1).to(device)
