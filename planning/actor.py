"""The actor: mode 1 reacts, mode 2 plans, and a switch plans only where mode 1 is in doubt.

LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 3.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from tensordict import TensorDict
from torch import Tensor

from .agent import Cost
from .hierarchy import Deliberation, Level
from .intrinsic import Critic, IntrinsicCost
from .policy import GoalPolicy, imagined_actions
from .protocols import ActionSpace, Energy, Plan, WarmStart, WorldModel
from .sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What there is to decide.

    state, goal: [B].
    world_model: foresees.
    energy: of plans, for goal states [B].
    cost: the intrinsic cost, for goal states [B].
    action_space: bounds.
    generator: of the planner's draws.
    spent: on planning so far; planners add to it.
    last: the last choice in these environments; None: the first one.
    """

    state: TensorDict
    goal: TensorDict
    world_model: WorldModel
    energy: Callable[[TensorDict], Energy]
    cost: Callable[[TensorDict], IntrinsicCost]
    action_space: ActionSpace
    generator: torch.Generator
    spent: Cost
    last: Choice | None = None

    def part(self, which: Bool[Tensor, " B"]) -> Scene:
        """Some of the environments, as if there had been no choice before."""
        return replace(self, state=self.state[which], goal=self.goal[which], last=None)


@dataclass(frozen=True)
class Choice:
    """What is to be done.

    plan: of all environments; its first action is to be carried out.
    planned: [B] where mode 2 chose it; elsewhere mode 1.
    """

    plan: Plan
    planned: Bool[Tensor, " B"]

    def of(self, which: Bool[Tensor, " B"]) -> Choice:
        """For some of the environments."""
        return Choice(self.plan.of(which), self.planned[which])


@runtime_checkable
class Actor(Protocol):
    """Proposes actions."""

    def reset(self) -> None:
        """Before the first decision of a batch of episodes."""
        ...

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """From now on it decides for these environments alone."""
        ...

    def choose(self, scene: Scene) -> Choice:
        """For every environment."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModeTwo:
    """Plans at every decision, from the last plan one decision later.

    Args:
        planner: looks for the plan.
        policy: mode 1: what it would do is where the search starts, or, where there is a last
            plan, one more candidate; None: without.
    """

    planner: Sampling
    policy: GoalPolicy | None = None

    def reset(self) -> None:
        """Nothing is known of the past."""

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """Nothing is known of the past."""

    def choose(self, scene: Scene) -> Choice:
        """A plan for every environment."""
        plan = self.planner.plan(
            scene.world_model,
            scene.state,
            scene.energy(scene.goal),
            scene.action_space,
            self._start(scene),
            scene.generator,
        )
        return Choice(plan, torch.ones_like(plan.energy, dtype=torch.bool))

    def _start(self, scene: Scene) -> WarmStart | None:
        later = None if scene.last is None else scene.last.plan.later()
        if self.policy is None:
            return later
        horizon = self.planner.horizon
        seed = imagined_actions(self.policy, scene.world_model, scene.state, scene.goal, horizon)
        if later is None:
            return WarmStart(seed)
        known = [seed[None]] + ([] if later.candidates is None else [later.candidates])
        return replace(later, candidates=torch.cat(known))


class ModeTwoOnLevels:
    """Plans on several levels, the lowest of them by the scene's energy.

    Args:
        planner: of the lowest level.
        above: the levels above it, from low to high.
    """

    def __init__(self, *, planner: Sampling, above: Sequence[Level]) -> None:
        self.planner, self.above = planner, list(above)
        self.reset()

    def reset(self) -> None:
        """Forgets what was thought."""
        self._deliberation: Deliberation | None = None

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """Forgets what was thought of the other environments."""
        if self._deliberation is not None:
            self._deliberation.keep(which)

    def choose(self, scene: Scene) -> Choice:
        """A plan for every environment; without a last choice, all levels think anew."""
        lowest = Level(
            world_model=scene.world_model,
            planner=self.planner,
            action_space=scene.action_space,
            energy=scene.energy,
        )
        if self._deliberation is None or scene.last is None:
            self._deliberation = Deliberation([lowest, *self.above])
        self._deliberation.levels[0] = lowest
        plan = self._deliberation.plan(scene.state, scene.goal, scene.spent, scene.generator)
        return Choice(plan, torch.ones_like(plan.energy, dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class ModeOne:
    """The policy's action, at once.

    Args:
        policy: mode 1.
    """

    policy: GoalPolicy

    def reset(self) -> None:
        """Nothing is known of the past."""

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """Nothing is known of the past."""

    @torch.no_grad()
    def choose(self, scene: Scene) -> Choice:
        """A plan of one action, without an energy, for every environment."""
        action = self.policy(scene.state["latent"], scene.goal["latent"])
        unknown = action.new_full((len(action),), torch.nan)
        plan = Plan(action.unsqueeze(1), unknown)
        return Choice(plan, torch.zeros_like(unknown, dtype=torch.bool))


@runtime_checkable
class Doubt(Protocol):
    """Tells how unsure mode 1 should be of its actions; above 1 it is in doubt."""

    def reset(self) -> None:
        """Before the first decision of a batch of episodes."""
        ...

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """From now on it is asked about these environments alone."""
        ...

    def __call__(self, scene: Scene, actions: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """For these actions of mode 1."""
        ...


class Setback:
    """What an action costs more than the critic had promised.

    The critic says V(s) = c + discount * V(s') of good actions. Doubt is how much larger c +
    discount * V(s') is than V(s): with s' foreseen for the action, and with what has become of the
    last decision, whoever made it; the larger of both, over `limit`.

    Args:
        critic: of latents and goals.
        limit: in units of the cost.
    """

    def __init__(self, critic: Critic, *, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f"limit must be positive; got {limit}")
        self.critic, self.limit = critic, limit
        self.reset()

    def reset(self) -> None:
        """Forgets the last decision."""
        self._last: Tensor | None = None

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """Forgets what was promised in the other environments."""
        self._last = None if self._last is None else self._last[which]

    @torch.no_grad()
    def __call__(self, scene: Scene, actions: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        goal, cost = scene.goal["latent"], scene.cost(scene.goal)
        plans = actions.unsqueeze(1)
        after = scene.world_model.rollout(scene.state, plans)
        promised = self.critic(scene.state["latent"], goal)
        here = cost.steps(scene.state.unsqueeze(1), torch.zeros_like(plans))[:, 0]
        then = cost.steps(after, plans)[:, 0]
        worse = then + cost.discount * self.critic(after["latent"][:, 0], goal) - promised
        if self._last is not None:
            worse = worse.maximum(here + cost.discount * promised - self._last)
        self._last = promised
        return worse / self.limit


class Disagreement:
    """How much an ensemble disagrees about what the action leads to, over `limit`.

    Args:
        limit: in units of the entry.
        key: the entry of the foreseen states, [B] or [B, ...], whose numbers are summed.
    """

    def __init__(self, *, limit: float, key: str = "disagreement") -> None:
        self.limit, self.key = limit, key

    def reset(self) -> None:
        """Nothing is known of the past."""

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """Nothing is known of the past."""

    @torch.no_grad()
    def __call__(self, scene: Scene, actions: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        after = scene.world_model.step(scene.state, actions)
        return after[self.key].reshape(len(actions), -1).sum(dim=1) / self.limit


class Switch:
    """Mode 1, and mode 2 for the environments in which it is in doubt.

    Args:
        one: reacts.
        two: plans; it starts from what mode 1 would do, if it has the policy.
        doubts: mode 1 is in doubt where any of them is above 1.
        seconds: time budget of planning, for each decision of the whole batch: if what a plan took
            so far says that not all of the doubtful can be planned for, the most doubtful are, but
            at least one; None: all. With it, choices depend on the machine's speed.
    """

    def __init__(
        self,
        one: ModeOne,
        two: ModeTwo | ModeTwoOnLevels,
        doubts: Sequence[Doubt],
        *,
        seconds: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not doubts:
            raise ValueError("a switch needs a doubt: without one it is mode 1")
        self.one, self.two, self.doubts = one, two, list(doubts)
        self.seconds, self.clock = seconds, clock
        self.reset()

    def reset(self) -> None:
        """Before the first decision of a batch of episodes."""
        self._spent, self._plans = 0.0, 0
        for doubt in self.doubts:
            doubt.reset()

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """As the doubts; mode 2 begins anew each time."""
        for doubt in self.doubts:
            doubt.keep(which)

    def choose(self, scene: Scene) -> Choice:
        """Plans of one action; where mode 2 planned for all, its plans."""
        reacted = self.one.choose(scene).plan
        actions = reacted.actions[:, 0]
        doubts = torch.stack([doubt(scene, actions) for doubt in self.doubts])
        doubt = doubts.nan_to_num(nan=torch.inf).amax(dim=0)
        which = self._affordable(doubt)
        if not which.any():
            return Choice(reacted, which)
        began = self.clock()
        plan = self.two.choose(scene.part(which)).plan
        self._spent += self.clock() - began
        self._plans += int(which.sum())
        if which.all():
            return Choice(plan, which)
        chosen, energy = actions.clone(), reacted.energy.clone()
        chosen[which], energy[which] = plan.actions[:, 0], plan.energy
        return Choice(Plan(chosen.unsqueeze(1), energy), which)

    def _affordable(self, doubt: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
        doubtful = doubt > 1
        if self.seconds is None or not self._plans:
            return doubtful
        most = max(1, int(self.seconds * self._plans / max(self._spent, 1e-9)))
        if int(doubtful.sum()) <= most:
            return doubtful
        affordable = torch.zeros_like(doubtful)
        affordable[doubt.topk(most).indices] = True
        return affordable
