"""The whole agent: configurator, perception, world model, cost, memory and actor, in one loop.

LeCun 2022, "A Path Towards Autonomous Machine Intelligence", figure 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tensordict import TensorDict
from torch import Tensor

from .actor import Choice, Scene
from .agent import Counted, Replanning, batch_size
from .configurator import Configurator, Settings, Task
from .intrinsic import CostModule
from .memory import ShortTermMemory
from .protocols import Plan


class AutonomousAgent(Replanning):
    """Does one task after another with the same weights; `configure` says which.

    Perception is the world model's `encode`. Rows of memory have `latent`, `goal` [B, D], `action`
    [B, A] (what was decided), `cost` [B] (the intrinsic cost of being here and doing that),
    `planned` [B] (by mode 2), `episode` and `time` (the decision); and `place` [B, P], what
    `placed` reads off the latent, if it is given.

    Args:
        configurator: sets the others up.
        cost: the intrinsic cost and the critic.
        memory: is written at every decision.
        task: to begin with.
        placed: latents [B, D] to places [B, P], for goals that are given as numbers; None: goals
            are images.
        others: see `Replanning`: world model, action space, repeat, seed.
    """

    def __init__(
        self,
        *,
        configurator: Configurator,
        cost: CostModule,
        memory: ShortTermMemory,
        task: Task,
        placed: Callable[[Tensor], Tensor] | None = None,
        **others: Any,
    ) -> None:
        self.configurator, self.cost_module, self.memory = configurator, cost, memory
        self.placed, self._episodes = placed, 0
        self.configure(task)
        super().__init__(**others)

    def configure(self, task: Task) -> None:
        """From the next decision on, which starts from no plan; episodes may go on."""
        settings = self.configurator(task)
        if settings.place is not None and self.placed is None:
            raise ValueError(
                "a goal that is a place needs `placed`, which reads places off latents"
            )
        self.settings: Settings = settings
        self.choice: Choice | None = None
        self._goal = None

    def reset(self) -> None:
        """As `Replanning`; new episodes begin. What is in memory stays."""
        super().reset()
        self.settings.actor.reset()
        self.choice = None
        self.planned = 0  # decisions of mode 2, all environments together
        self._decisions = 0
        self._going_on: Tensor | None = None
        if self.memory.written:
            self._episodes = int(self.memory.rows["episode"].max()) + 1

    def keep(self, which: Bool[np.ndarray, " B"]) -> None:
        """See `Narrowing`. Episodes keep their numbers in memory, and their places of a task."""
        rows = torch.as_tensor(which, device=self.action_space.low.device)
        self._keep(rows)
        self.settings.actor.keep(rows)
        self.choice = None if self.choice is None else self.choice.of(rows)
        self._going_on = None if self._going_on is None else self._going_on[rows]

    def _decide(
        self, observation: Mapping[str, Any], last: tuple[TensorDict, Plan] | None
    ) -> tuple[TensorDict, Plan]:
        settings = self.settings
        state, goal = self._perceive(observation, last)
        scene = Scene(
            state=state,
            goal=goal,
            world_model=Counted(self.world_model, self.cost),
            energy=partial(self.cost_module, weights=settings.weights, trust=settings.trust),
            cost=partial(self.cost_module.intrinsic, weights=settings.weights),
            action_space=self.action_space,
            generator=self._generator,
            spent=self.cost,
            last=self.choice,
        )
        self.choice = settings.actor.choose(scene)
        self.planned += int(self.choice.planned.sum())
        self._remember(scene, self.choice)
        return state, self.choice.plan

    @torch.no_grad()
    def _encoded_goal(self, wanted: Any) -> TensorDict:
        place, count = self.settings.place, batch_size(wanted)
        if place is None:
            goal = super()._encoded_goal(wanted)
        else:
            own = place if place.ndim == 1 else place[self._numbers(count)]
            goal = self._recalled(own.expand(count, -1))
        if self.settings.attention is not None:
            attention = self.settings.attention.expand(count, -1)
            goal = goal.copy().update({"attention": attention})
        return goal

    def _numbers(self, count: int) -> Int[Tensor, " B"]:
        """Of the environments that go on, among all that began."""
        if self._going_on is None:
            self._going_on = torch.arange(count, device=self.action_space.low.device)
        return self._going_on

    def _recalled(self, place: Float[Tensor, "B P"]) -> TensorDict:
        """What it looked like, when it was nearest to these places."""
        found = self.memory.read(place, width=1.0, count=1, key="place")
        return TensorDict({"latent": found.rows["latent"][:, 0]}, batch_size=[len(place)])

    @torch.no_grad()
    def _remember(self, scene: Scene, choice: Choice) -> None:
        latent, action = scene.state["latent"], choice.plan.actions[:, 0]
        cost = scene.cost(scene.goal).steps(scene.state.unsqueeze(1), action.unsqueeze(1))
        count = len(latent)
        rows = {
            "latent": latent,
            "goal": scene.goal["latent"],
            "action": action,
            "cost": cost[:, 0],
            "planned": choice.planned,
            "episode": self._episodes + self._numbers(count).to(latent.device),
            "time": torch.full((count,), self._decisions, device=latent.device),
        }
        if self.placed is not None:
            rows["place"] = self.placed(latent)
        self.memory.write(TensorDict(rows, batch_size=[count]))
        self._decisions += 1
