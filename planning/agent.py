"""The agent: observe, encode, plan, act; plan again at the next decision."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds

from .protocols import ActionSpace, Energy, Plan, Planner, Remembering, WorldModel


def action_space_of(space: gymnasium.Space) -> ActionSpace:
    """The actions of one environment, in float32, which planners use: bounds that have no such
    number are rounded into the box. Raises TypeError for what is neither Box nor Discrete."""
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return ActionSpace.one_of(int(space.n))
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise TypeError(
            f"planning needs a flat Box of continuous actions, or Discrete(n); got {space}. For a "
            "vector environment pass its `single_action_space`"
        )
    return ActionSpace(rounded(space.low, np.inf), rounded(space.high, -np.inf))


def rounded(bound: Num[np.ndarray, " A"], inwards: float) -> Float[Tensor, " A"]:
    """To float32, and towards `inwards` where the nearest such number lies beyond the bound."""
    near = bound.astype(np.float32)
    beyond = near < bound if inwards > 0 else near > bound
    return torch.from_numpy(np.where(beyond, np.nextafter(near, np.float32(inwards)), near))


@dataclass
class Cost:
    """What planning has cost, all environments together.

    plans: one for each environment and decision.
    transitions: states that the world model foresaw for the planner.
    seconds: of encoding and planning.
    """

    plans: int = 0
    transitions: int = 0
    seconds: float = 0.0


class Counted:
    """A world model for a planner; what it foresees is added to `cost.transitions`."""

    def __init__(self, world_model: WorldModel, cost: Cost) -> None:
        self.world_model, self.cost = world_model, cost

    def encode(self, observation: Any) -> TensorDict:
        """As the model."""
        return self.world_model.encode(observation)

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """As the model."""
        self.cost.transitions += len(action)
        return self.world_model.step(state, action)

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """As the model."""
        self.cost.transitions += actions[..., 0].numel()
        return self.world_model.rollout(state, actions)


def counted(world_model: WorldModel, cost: Cost) -> Counted:
    """The model, counted; as it is where it is so already."""
    if isinstance(world_model, Counted) and world_model.cost is cost:
        return world_model
    return Counted(world_model, cost)


class Replanning(ABC):
    """Receding horizon control of gymnasium vector environments; `_decide` is how it plans.

    Observations are dictionaries with `observation` and `desired_goal`, batched: arrays, or
    dictionaries or tuples of them, which the world model is given as tensors.

    Args:
        world_model: encodes observations and goals, and foresees; one action of the model is
            one decision.
        action_space: bounds of one environment's actions.
        repeat: environment steps for which a decision is held.
        seed: of the planner's draws.
    """

    def __init__(
        self, *, world_model: WorldModel, action_space: ActionSpace, repeat: int = 1, seed: int = 0
    ) -> None:
        if repeat < 1:
            raise ValueError(f"repeat must be at least 1; got {repeat}")
        self.world_model, self.action_space = world_model, action_space
        self.repeat, self.seed = repeat, seed
        self.reset()

    def reset(self) -> None:
        """Forgets the last plan and `cost`; the next `act` is the first of its episodes."""
        self._generator = seeds.generator(
            self.seed, "planning", device=self.action_space.low.device
        )
        self._decision: tuple[TensorDict, Plan] | None = None
        self._goal: tuple[list[np.ndarray], TensorDict] | None = None
        self._held, self.cost = 0, Cost()

    @property
    def decision(self) -> tuple[TensorDict, Plan]:
        """The states [B] at the last decision, and the plan that was made there."""
        if self._decision is None:
            raise RuntimeError("no plan yet: call act(observation) first")
        return self._decision

    @property
    def plan(self) -> Plan:
        """The plan whose first action is being carried out."""
        return self.decision[1]

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Actions [B, A] for a batch of observations; numbers [B] where actions are discrete."""
        if self._decision is None or self._held == self.repeat:
            began = time.perf_counter()
            self._decision = self._decide(observation, self._decision)
            self.cost.seconds += time.perf_counter() - began
            self.cost.plans += len(self.plan.actions)
            self._held = 0
        self._held += 1
        action = self.plan.actions[:, 0]
        action = action.argmax(dim=1) if self.action_space.discrete else action
        return action.numpy(force=True).copy()

    @torch.no_grad()
    def imagined(self) -> TensorDict:
        """States [B, H] that the current plan was expected to go through when it was made."""
        state, plan = self.decision
        return self.world_model.rollout(state, plan.actions)

    @abstractmethod
    def _decide(
        self, observation: Mapping[str, Any], last: tuple[TensorDict, Plan] | None
    ) -> tuple[TensorDict, Plan]:
        """See `decision`; `last` is the one before."""

    def _keep(self, which: Bool[Tensor, " B"]) -> None:
        """What this class knows of the other environments is dropped; see `Narrowing`."""
        if self._decision is not None:
            state, plan = self._decision
            self._decision = state[which], plan.of(which)
        if self._goal is not None:
            seen, goal = self._goal
            self._goal = [array[which.numpy(force=True)] for array in seen], goal[which]

    @torch.no_grad()
    def _perceive(
        self, observation: Mapping[str, Any], last: tuple[TensorDict, Plan] | None
    ) -> tuple[TensorDict, TensorDict]:
        """The states of what is seen and of what is wanted. A `Remembering` world model is told
        what was done and what came of it; any other begins anew with each observation."""
        model, seen = self.world_model, self._tensors(observation["observation"])
        if last is not None and isinstance(model, Remembering):
            state = model.observe(last[0], last[1].actions[:, 0], seen)
        else:
            state = model.encode(seen)
        return state, self._encoded_goal(observation["desired_goal"])

    @torch.no_grad()
    def _encoded_goal(self, wanted: Any) -> TensorDict:
        """Once for as long as the goals are the same."""
        seen = arrays(wanted)
        if self._goal is None or not same(self._goal[0], seen):
            goal = self.world_model.encode(self._tensors(wanted))
            self._goal = [array.copy() for array in seen], goal
        return self._goal[1]

    def _tensors(self, observation: Any) -> Any:
        """What was observed, on the device of the actions."""
        return each_array(
            observation, partial(torch.as_tensor, device=self.action_space.low.device)
        )


@runtime_checkable
class Narrowing(Protocol):
    """An agent that goes on with some of its environments, when the others have finished."""

    def keep(self, which: Bool[np.ndarray, " B"]) -> None:
        """All that is observed from now on is of these alone, in the same order."""
        ...


class PlanningAgent(Replanning):
    """One planner and one world model. Each plan starts from the last one, shifted by a decision.

    Args:
        planner: looks for the plan.
        energy: makes the energy of a batch of goal states, e.g. `GoalDistance`.
        others: see `Replanning`.
    """

    def __init__(
        self, *, planner: Planner, energy: Callable[[TensorDict], Energy], **others: Any
    ) -> None:
        self.planner, self.energy = planner, energy
        super().__init__(**others)

    def keep(self, which: Bool[np.ndarray, " B"]) -> None:
        """See `Narrowing`."""
        self._keep(torch.as_tensor(which, device=self.action_space.low.device))

    def _decide(
        self, observation: Mapping[str, Any], last: tuple[TensorDict, Plan] | None
    ) -> tuple[TensorDict, Plan]:
        state, goal = self._perceive(observation, last)
        plan = self.planner.plan(
            Counted(self.world_model, self.cost),
            state,
            self.energy(goal),
            self.action_space,
            None if last is None else last[1].later(),
            self._generator,
        )
        return state, plan


class RandomAgent:
    """Random actions, each uniform inside the bounds, or over the discrete ones.

    Args:
        action_space: of one environment.
        repeat: steps for which an action is held.
        correlation: of neighbouring decisions, in [0, 1): Gaussian noise of this autocorrelation,
            turned uniform by its distribution function.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        action_space: ActionSpace,
        repeat: int = 1,
        correlation: float = 0.0,
        seed: int = 0,
    ) -> None:
        if repeat < 1 or not 0 <= correlation < 1:
            raise ValueError(
                f"expected repeat >= 1 and 0 <= correlation < 1; got {repeat} and {correlation}"
            )
        self.action_space, self.repeat, self.correlation = action_space, repeat, correlation
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Starts the draws again."""
        self._generator = seeds.generator(self.seed, "random_policy")
        self._calls = 0

    def act(self, observation: Any) -> np.ndarray:
        """Actions [B, A] for a batch of observations; numbers [B] where actions are discrete."""
        if self._calls % self.repeat == 0:
            self._action = self._decide(batch_size(observation))
        self._calls += 1
        return self._action.copy()

    def _decide(self, batch: int) -> np.ndarray:
        space = self.action_space
        width = 1 if space.discrete else len(space.low)
        draws = 2 * torch.rand(batch, width, generator=self._generator) - 1
        fresh = torch.erfinv(draws.clamp(-1 + 1e-6, 1 - 1e-6))
        if self._calls and self.correlation:
            fresh = self.correlation * self._noise + (1 - self.correlation**2) ** 0.5 * fresh
        self._noise = fresh
        unit = torch.erf(fresh)
        if space.discrete:
            share = (unit[:, 0] + 1) / 2
            return (share * len(space.low)).long().clamp(max=len(space.low) - 1).numpy()
        return (space.centre.cpu() + space.radius.cpu() * unit).numpy()


def batch_size(observation: Any) -> int:
    """B of a batch of observations, of whatever arrays they are made."""
    return len(arrays(observation)[0])


def arrays(observation: Any) -> list[Any]:
    """All of which an observation is made, in order."""
    found: list[Any] = []
    each_array(observation, found.append)
    return found


def same(some: list[Any], others: list[Any]) -> bool:
    """Whether these are as many arrays, equal one by one."""
    return len(some) == len(others) and all(map(np.array_equal, some, others))


def each_array(observation: Any, function: Callable[[Any], Any]) -> Any:
    """The same dictionary or tuple, of what the function makes of its arrays."""
    if isinstance(observation, Mapping):
        return {name: each_array(part, function) for name, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(each_array(part, function) for part in observation)
    return function(observation)
