"""What planners share: scoring candidates, keeping the best, drawing noise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .protocols import ActionSpace, Energy, Generators, WarmStart, WorldModel

Candidates = Float[Tensor, "S B H A"]


def unroll(
    step: Callable[[TensorDict, Tensor], TensorDict],
    state: TensorDict,
    actions: Float[Tensor, "*S B H A"],
) -> TensorDict:
    """States [*S, B, H] by repeated steps; the rollout of any model that has no faster one.

    Their entry `memory`, if there is one, is dropped: see `WorldModel.rollout`.
    """
    *plans, horizon, _ = actions.shape
    state = state.expand(*plans).reshape(-1)
    states: list[TensorDict] = []
    for action in actions.flatten(0, -3).unbind(dim=1):
        state = step(state, action)
        states.append(state.exclude("memory"))
    return TensorDict.stack(states, dim=1).reshape(*plans, horizon)


def score(
    world_model: WorldModel,
    state: TensorDict,
    energy: Energy,
    actions: Candidates,
    chunk: int | None = None,
) -> Float[Tensor, "S B"]:
    """Energies of candidate plans; at most about `chunk` rollouts are in memory at once."""
    if chunk is None:
        energies = energy(world_model.rollout(state, actions), actions)
    else:
        samples = max(1, chunk // len(state))
        energies = torch.cat(
            [energy(world_model.rollout(state, some), some) for some in actions.split(samples)]
        )
    if energies.shape != actions.shape[:2]:
        raise ValueError(
            f"an energy is one number for each plan, [S, B] = {list(actions.shape[:2])}; got "
            f"{list(energies.shape)}"
        )
    return energies


def finite(energy: Float[Tensor, "*S B"]) -> Float[Tensor, "*S B"]:
    """What is not a finite number is infinite."""
    return energy.nan_to_num(torch.inf, torch.inf, torch.inf)


def noise(samples: int, batch: int, horizon: int, size: int, generator: Generators) -> Candidates:
    """Standard normal noise, from one generator or from one for each environment."""
    return drawn(torch.randn, (horizon, size, samples), batch, generator).permute(3, 0, 1, 2)


def uniform(samples: int, batch: int, horizon: int, size: int, generator: Generators) -> Candidates:
    """Uniform in [0, 1), as `noise`."""
    return drawn(torch.rand, (horizon, size, samples), batch, generator).permute(3, 0, 1, 2)


def drawn(
    draw: Callable[..., Tensor], shape: tuple[int, ...], batch: int, generator: Generators
) -> Float[Tensor, "B *S"]:
    """Random numbers of `shape` for each environment.

    From one generator: one row of numbers, turned by a random number of places for each
    environment. To an environment that is the same as numbers of its own, at the price of a copy.
    """
    length = math.prod(shape)
    if not isinstance(generator, torch.Generator):
        if len(generator) != batch:
            raise ValueError(
                "need one generator, or one for each of the "
                f"{batch} environments; got {len(generator)}"
            )
        rows = [draw(length, generator=one, device=one.device) for one in generator]
        return torch.stack(rows).view(batch, *shape)
    row = draw(length, generator=generator, device=generator.device)
    if batch == 1 or not length:
        return row.expand(batch, -1).view(batch, *shape)
    turns = torch.randint(length, (batch,), generator=generator, device=generator.device)
    turned = torch.cat([row, row]).unfold(0, length, 1).index_select(0, turns)
    return turned.view(batch, *shape)


def box_mean(
    warm_start: WarmStart | None, batch: int, horizon: int, space: ActionSpace
) -> Float[Tensor, "B H A"]:
    """`first_mean` of planners in a box. ValueError for discrete actions, which they would mix."""
    if space.discrete:
        raise ValueError(
            "this planner searches a box, and actions are discrete: take CategoricalCEM"
        )
    return first_mean(warm_start, batch, horizon, space)


def first_mean(
    warm_start: WarmStart | None, batch: int, horizon: int, space: ActionSpace
) -> Float[Tensor, "B H A"]:
    """The plan to start from: the warm start inside the bounds, or the middle of the box."""
    wanted = (batch, horizon, len(space.low))
    if warm_start is None:
        return space.centre.expand(wanted)
    if tuple(warm_start.actions.shape) != wanted:
        raise ValueError(
            f"warm_start must have actions [batch, horizon, action size] = {wanted}; got "
            f"{tuple(warm_start.actions.shape)}"
        )
    return warm_start.actions.nan_to_num().clamp(space.low, space.high)


def first_candidates(
    warm_start: WarmStart | None, mean: Float[Tensor, "B H A"], space: ActionSpace
) -> Candidates:
    """The plans to try beside the first mean, inside the bounds; there may be none."""
    if warm_start is None or warm_start.candidates is None:
        return mean.new_empty(0, *mean.shape)
    return warm_start.candidates.nan_to_num().clamp(space.low, space.high)


@dataclass
class Best:
    """The best candidate seen so far for each environment; NaN and infinities never win."""

    actions: Float[Tensor, "B H A"]
    energy: Float[Tensor, " B"]

    @classmethod
    def of(cls, fallback: Float[Tensor, "B H A"]) -> Best:
        """Nothing seen yet: `fallback` is the plan where every candidate fails."""
        return cls(fallback.clone(), fallback.new_full((len(fallback),), torch.inf))

    def update(self, actions: Candidates, energy: Float[Tensor, "S B"]) -> Float[Tensor, "S B"]:
        """Takes over improvements; returns the energies with non-finite ones as infinity."""
        energy = finite(energy.detach())
        least, which = energy.min(dim=0)
        better = least < self.energy
        chosen = actions.detach()[which, torch.arange(len(which), device=which.device)]
        self.actions = torch.where(better[:, None, None], chosen, self.actions)
        self.energy = torch.where(better, least, self.energy)
        return energy


@dataclass(frozen=True)
class Clock:
    """A time budget, for planners that can stop at any iteration."""

    seconds: float | None
    began: float = field(default_factory=time.perf_counter)

    def over(self) -> bool:
        """Whether the budget is used up; never without one."""
        return self.seconds is not None and time.perf_counter() - self.began >= self.seconds
