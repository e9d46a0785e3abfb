"""Planning with discrete actions by the cross-entropy method, on probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F

from .planner import Best, Candidates, Clock, first_candidates, first_mean, score, uniform
from .protocols import ActionSpace, Energy, Generators, Plan, WarmStart, WorldModel
from .sampling import Elite, as_candidates, as_rows, best_of, shares


@dataclass(frozen=True, kw_only=True)
class CategoricalCEM:
    """Cross-entropy method (Rubinstein 1999) on sequences of one of A actions, as one-hot vectors.

    The probabilities of each step are refitted to how often the elite takes each action. The most
    probable plan is a candidate of every iteration.

    Args:
        horizon: actions per plan, H.
        samples: candidates per iteration, S.
        iterations: refits.
        elites: candidates that the probabilities are refitted to.
        inertia: share of the old probabilities in the new ones.
        floor: smallest probability of an action, times A.
        seconds: begin no further iteration after this time; None: all iterations.
        chunk: rollouts in memory at once; None: all.
    """

    horizon: int = 12
    samples: int = 128
    iterations: int = 4
    elites: int = 12
    inertia: float = 0.1
    floor: float = 0.05
    seconds: float | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.samples or min(self.horizon, self.iterations) < 1:
            raise ValueError(
                "need 1 <= elites <= samples and horizon, iterations of at least 1; got "
                f"{self.elites}, {self.samples}, {self.horizon} and {self.iterations}"
            )
        if not (0 <= self.inertia < 1 and 0 <= self.floor <= 1):
            raise ValueError(
                f"need 0 <= inertia < 1 and 0 <= floor <= 1; got {self.inertia}, {self.floor}"
            )

    @torch.no_grad()
    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`; actions are one-hot. A warm start counts half of the first probabilities.

        Diagnostics: `energy` [I, B] best so far, `entropy` [I] nats per step.
        """
        if not action_space.discrete:
            raise ValueError(
                "CategoricalCEM plans with discrete actions; for a box take CEM or ICEM"
            )
        size = len(action_space.low)
        start = first_mean(warm_start, len(state), self.horizon, action_space)
        start = one_hot(start)
        chances = start.new_full(start.shape, 1 / size)
        given = start[None]
        if warm_start is not None:
            chances = (chances + start) / 2
            given = torch.cat([given, one_hot(first_candidates(warm_start, start, action_space))])
        best, clock, trace, entropy = Best.of(start), Clock(self.seconds), [], []
        elite = Elite(as_rows(start[None]), best.energy[:, None])
        for _ in range(self.iterations):
            if trace and clock.over():
                break
            given = given[: self.samples]
            drawn = sampled(chances, self.samples - len(given), generator)
            actions = torch.cat([given, drawn])
            energies = best.update(actions, score(world_model, state, energy, actions, self.chunk))
            elite = best_of(as_rows(actions), energies.T, self.elites)
            share = shares(elite, torch.ones_like(elite.energy))[..., None]
            taken = torch.bmm(elite.actions, share).view_as(chances)
            fresh = torch.where(taken.sum(dim=(1, 2), keepdim=True) > 0, taken, chances)
            fresh = (1 - self.floor) * fresh + self.floor / size
            chances = fresh.lerp(chances, self.inertia)
            given = one_hot(chances)[None]
            trace.append(best.energy)
            entropy.append(-(chances * chances.clamp(min=1e-12).log()).sum(dim=-1).mean())
        return Plan(
            best.actions,
            best.energy,
            candidates=as_candidates(elite.actions, (self.horizon, size)),
            diagnostics={"energy": torch.stack(trace), "entropy": torch.stack(entropy)},
        )


def one_hot(chances: Float[Tensor, "*S H A"]) -> Float[Tensor, "*S H A"]:
    """The most probable action of each step."""
    return F.one_hot(chances.argmax(dim=-1), chances.shape[-1]).to(chances.dtype)


def sampled(chances: Float[Tensor, "B H A"], count: int, generator: Generators) -> Candidates:
    """Actions with these probabilities, by inversion of their sums."""
    batch, horizon, size = chances.shape
    u = uniform(count, batch, horizon, 1, generator)
    action = (u >= chances.cumsum(dim=-1)).sum(dim=-1).clamp(max=size - 1)
    return F.one_hot(action, size).to(chances.dtype)
