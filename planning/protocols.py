"""The seams of control: world model, energy, planner. Each is one small Protocol.

A latent state is a TensorDict of batch size [B]; only the world model knows what is in it, so
vectors, token grids, recurrent states with a stochastic part, caches and ensembles all fit.
Candidate plans are one more dimension in front: S samples of B environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from tensordict import TensorDict
from torch import Tensor

Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]
"""One generator for the batch, whose environments then share noise, turned by a random number of
places for each (`planner.drawn`); or one for each environment: then a batch plans exactly what its
environments would plan one by one, and copies of one state vary as they do."""


@runtime_checkable
class WorldModel(Protocol):
    """Foresees what actions do, in its own latent space."""

    def encode(self, observation: Any) -> TensorDict:
        """A batch of the environment's observations to states [B]."""
        ...

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The states [B] after one action."""
        ...

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action of S sequences for every environment.

        All of an environment's sequences start from its one state, so that what they share is
        computed once; only the model knows what that is. What only the model needs to go on, such
        as a recurrent state, is the entry `memory`, which these states need not have. See
        `planner.unroll`.
        """
        ...


@runtime_checkable
class Remembering(WorldModel, Protocol):
    """A world model whose states know more of the past than one observation shows."""

    def observe(
        self, state: TensorDict, action: Float[Tensor, "B A"], observation: Any
    ) -> TensorDict:
        """The states [B] after an action was carried out and this observation came of it."""
        ...


@runtime_checkable
class Energy(Protocol):
    """How bad an imagined future is; what a planner minimises."""

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        """States [*S, B, H] and the actions that led there to one number each."""
        ...


@dataclass(frozen=True)
class ActionSpace:
    """A box of continuous actions, or A discrete ones, which are planned as one-hot vectors."""

    low: Float[Tensor, " A"]
    high: Float[Tensor, " A"]
    discrete: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high).all() or not (self.high - self.low).isfinite().all():
            raise ValueError(
                f"an action space needs finite low < high; got {self.low.tolist()} and "
                f"{self.high.tolist()}"
            )

    @classmethod
    def one_of(cls, count: int) -> ActionSpace:
        """One of so many discrete actions."""
        return cls(torch.zeros(count), torch.ones(count), discrete=True)

    def to(self, device: torch.device) -> ActionSpace:
        """On the device where one plans."""
        return ActionSpace(self.low.to(device), self.high.to(device), self.discrete)

    @property
    def centre(self) -> Float[Tensor, " A"]:
        """The middle of the box."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Float[Tensor, " A"]:
        """Half the side of the box."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class WarmStart:
    """What is known before planning, usually of the last plan: see `Plan.later`.

    actions: the plan to start from; it is put inside the bounds.
    std: how unsure of each action, in the action's units; None: the planner's own first deviation.
    candidates: further plans to try, such as the elite of the last search; None: none.
    """

    actions: Float[Tensor, "B H A"]
    std: Float[Tensor, "B H A"] | None = None
    candidates: Float[Tensor, "K B H A"] | None = None


@dataclass(frozen=True)
class Plan:
    """The best plan found for each environment.

    actions: inside the bounds.
    energy: its energy; infinite where no candidate had a finite one.
    std: the deviation of the last Gaussian, in the action's units; None: the planner has none.
    candidates: the best of the last iteration, best first; None: the planner keeps none.
    diagnostics: named, [I] or [I, B] over the planner's iterations.
    """

    actions: Float[Tensor, "B H A"]
    energy: Float[Tensor, " B"]
    std: Float[Tensor, "B H A"] | None = None
    candidates: Float[Tensor, "K B H A"] | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)

    def later(self, *, keep_std: bool = False) -> WarmStart:
        """Where to start one decision later: the first actions dropped, the last ones held.

        keep_std: start from the last deviation too, instead of the planner's first one.
        """

        def shifted(sequences: Tensor) -> Tensor:
            return torch.cat([sequences[..., 1:, :], sequences[..., -1:, :]], dim=-2)

        return WarmStart(
            actions=shifted(self.actions),
            std=shifted(self.std) if keep_std and self.std is not None else None,
            candidates=None if self.candidates is None else shifted(self.candidates),
        )

    def of(self, which: Bool[Tensor, " B"]) -> Plan:
        """The plan of some of the environments."""
        return Plan(
            self.actions[which],
            self.energy[which],
            std=None if self.std is None else self.std[which],
            candidates=None if self.candidates is None else self.candidates[:, which],
            diagnostics={
                name: numbers[:, which] if numbers.ndim > 1 else numbers
                for name, numbers in self.diagnostics.items()
            },
        )


@runtime_checkable
class Planner(Protocol):
    """Looks for the action sequence of least energy."""

    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """Plans for every state [B], starting from `warm_start` or from the middle of the box."""
        ...
