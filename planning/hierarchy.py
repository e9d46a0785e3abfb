"""The hierarchical agent: slow levels plan where to, fast ones how; all of them energies.

H-JEPA's planning (LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 4.7): the
top level looks for macro-actions that lead to the goal; the first latent that it foresees is a
goal of the level below, and so on down to the actions. A goal is an energy, not a command: the
level below comes as near to it as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from tensordict import TensorDict
from torch import Tensor

from .agent import Cost, Replanning, counted
from .energies import ComposableEnergy
from .protocols import ActionSpace, Energy, Plan, Planner, WarmStart, WorldModel


@dataclass(frozen=True, kw_only=True)
class Level:
    """How one level plans.

    Args:
        world_model: of this level. The lowest one encodes observations, every other one the entry
            `latent` of the states below.
        planner: looks for the plan.
        action_space: of this level's actions.
        energy: makes the energy of a batch of goal states.
        rhythm: decisions of the agent from one plan of this level to the next.
    """

    world_model: WorldModel
    planner: Planner
    action_space: ActionSpace
    energy: Callable[[TensorDict], Energy]
    rhythm: int = 1

    def __post_init__(self) -> None:
        if self.rhythm < 1:
            raise ValueError(f"rhythm must be at least 1 decision; got {self.rhythm}")


@dataclass(frozen=True)
class Thought:
    """What a level thought when it planned last.

    state: at which it planned, [B].
    plan: its actions of this level.
    imagined: the states that the plan should lead through, [B, H].
    arriving: [B] whether the plan comes as near as it ever does with its first action.
    final: [B] whether it looked for the goal itself, rather than for one from above.
    """

    state: TensorDict
    plan: Plan
    imagined: TensorDict
    arriving: Bool[Tensor, " B"]
    final: Bool[Tensor, " B"]

    def of(self, which: Bool[Tensor, " B"]) -> Thought:
        """What was thought of some of the environments."""
        return Thought(
            self.state[which],
            self.plan.of(which),
            self.imagined[which],
            self.arriving[which],
            self.final[which],
        )


class Deliberation:
    """Plans top down, each level in its own rhythm; near the goal the lowest plans alone.

    A level hands the goal itself down when its own plan comes nearest to it with the first
    macro-action; until then, the state that this macro-action leads to.

    Args:
        levels: from the lowest, which plans at every decision, to the highest.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        if not levels or levels[0].rhythm != 1:
            raise ValueError("expected one level or more, the lowest with a rhythm of 1")
        self.levels = list(levels)
        self.reset()

    def reset(self) -> None:
        """Forgets what was thought."""
        self.thoughts: list[Thought | None] = [None] * len(self.levels)
        self.transitions = [0] * len(self.levels)  # foreseen states, by level
        self._decisions = 0

    def keep(self, which: Bool[Tensor, " B"]) -> None:
        """Forgets what was thought of the other environments."""
        self.thoughts = [thought and thought.of(which) for thought in self.thoughts]

    def plan(
        self, state: TensorDict, goal: TensorDict, spent: Cost, generator: torch.Generator
    ) -> Plan:
        """The lowest level's plan at states [B] of the lowest level; adds to `spent`."""
        states, goals = self._up(state), self._up(goal)
        above: Thought | None = None
        for number in reversed(range(len(self.levels))):
            thought = self.thoughts[number]
            if thought is None or self._decisions % self.levels[number].rhythm == 0:
                before = spent.transitions
                thought = self._think(
                    number, states[number], goals[number], above, spent, generator
                )
                self.transitions[number] += spent.transitions - before
                self.thoughts[number] = thought
            above = thought
        assert above is not None
        self._decisions += 1
        return above.plan

    @torch.no_grad()
    def _up(self, state: TensorDict) -> list[TensorDict]:
        """The same state, as each level sees it."""
        states = [state]
        for level in self.levels[1:]:
            states.append(level.world_model.encode(states[-1]["latent"]))
        return states

    @torch.no_grad()
    def _think(
        self,
        number: int,
        state: TensorDict,
        goal: TensorDict,
        above: Thought | None,
        spent: Cost,
        generator: torch.Generator,
    ) -> Thought:
        level, last = self.levels[number], self.thoughts[number]
        energy = level.energy(goal)
        final = torch.ones(len(state), dtype=torch.bool, device=level.action_space.low.device)
        if above is not None:
            final = above.final & above.arriving
            upper = self.levels[number + 1]
            wanted = SeenFromAbove(upper.world_model, upper.energy(above.imagined[:, 0]))
            energy = Either(final, energy, wanted)
        model = counted(level.world_model, spent)
        plan = level.planner.plan(
            model, state, energy, level.action_space, last and again(last.plan), generator
        )
        imagined = model.rollout(state, plan.actions)
        ends = imagined.transpose(0, 1).unsqueeze(2)  # each state as if it were the end
        each = energy(ends, plan.actions.transpose(0, 1).unsqueeze(2))  # [H, B]
        return Thought(state, plan, imagined, each.argmin(dim=0) == 0, final)


class HierarchicalAgent(Replanning):
    """Plans by a `Deliberation`.

    Args:
        levels: from the lowest, which plans at every decision, to the highest.
        repeat: environment steps for which a decision is held.
        seed: of the planners' draws.
    """

    def __init__(self, levels: Sequence[Level], *, repeat: int = 1, seed: int = 0) -> None:
        self.deliberation = Deliberation(levels)
        lowest = levels[0]
        super().__init__(
            world_model=lowest.world_model,
            action_space=lowest.action_space,
            repeat=repeat,
            seed=seed,
        )

    def reset(self) -> None:
        """As `Replanning`."""
        super().reset()
        self.deliberation.reset()

    def keep(self, which: Bool[np.ndarray, " B"]) -> None:
        """See `Narrowing`."""
        rows = torch.as_tensor(which, device=self.action_space.low.device)
        self._keep(rows)
        self.deliberation.keep(rows)

    @property
    def levels(self) -> list[Level]:
        """From the lowest."""
        return self.deliberation.levels

    @property
    def thoughts(self) -> list[Thought | None]:
        """The last of each level."""
        return self.deliberation.thoughts

    @property
    def transitions(self) -> list[int]:
        """States that each level foresaw."""
        return self.deliberation.transitions

    def _decide(
        self, observation: Mapping[str, Any], last: tuple[TensorDict, Plan] | None
    ) -> tuple[TensorDict, Plan]:
        state, goal = self._perceive(observation, last)
        return state, self.deliberation.plan(state, goal, self.cost, self._generator)


def again(plan: Plan) -> WarmStart:
    """The plan one action later; and as it was, where that action is not yet done."""
    later = plan.later()
    known = [plan.actions[None]] + ([] if later.candidates is None else [later.candidates])
    return replace(later, candidates=torch.cat(known))


class SeenFromAbove(ComposableEnergy):
    """An energy of the level above, of states of the level below; for planners that sample, since
    no gradient passes `encode`.

    Args:
        world_model: of the level above.
        energy: over its states; its actions are not known, and are none.
    """

    def __init__(self, world_model: WorldModel, energy: Energy) -> None:
        self.world_model, self.energy = world_model, energy

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        latent = states["latent"]
        seen = self.world_model.encode(latent.flatten(0, states.batch_dims - 1))
        return self.energy(seen.reshape(states.batch_size), actions[..., :0])


class Either(ComposableEnergy):
    """One energy for some environments, another one for the others.

    Args:
        which: [B] where the first one counts.
        first, second: both are evaluated everywhere.
    """

    def __init__(self, which: Bool[Tensor, " B"], first: Energy, second: Energy) -> None:
        self.which, self.first, self.second = which, first, second

    def __call__(
        self, states: TensorDict, actions: Float[Tensor, "*S B H A"]
    ) -> Float[Tensor, "*S B"]:
        return torch.where(self.which, self.first(states, actions), self.second(states, actions))
