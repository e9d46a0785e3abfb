"""The configurator: from a task to the settings of all other modules, without learning anything.

LeCun 2022, "A Path Towards Autonomous Machine Intelligence", figure 2: it takes all other modules'
parameters in hand for the task; here weights of the cost, what perception attends to, what the
goal is, how the actor decides and how much it may think.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from .actor import Actor, Doubt, ModeOne, ModeTwo, ModeTwoOnLevels, Switch
from .hierarchy import Level
from .intrinsic import check_weights
from .policy import GoalPolicy
from .sampling import Sampling

Mode = Literal["plan", "react", "switch"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is wanted of the agent.

    Args:
        place: the goal as numbers [P], or [B, P] for the B environments that begin, which the
            memory is asked for; None: the goal is the image that comes with every observation.
        weights: of terms of the intrinsic cost, where they are other than usual.
        attention: how much each number of the latent matters in the distance from the goal, [D];
            None: all alike.
        mode: plan at every decision, react, or switch between both.
        horizon: of plans; None: the planner's.
        samples: factor of the planner's samples.
        levels: on which mode 2 plans; with more than one, mode 1 does not start its search.
        trust: weight of the critic after a plan; 0: it is not asked.
        seconds: of planning for each decision of the batch; None: as long as it takes.
    """

    place: Tensor | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    attention: Float[Tensor, " D"] | None = None
    mode: Mode = "plan"
    horizon: int | None = None
    levels: int = 1
    samples: float = 1.0
    trust: float = 1.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        least = min(self.levels, 1 if self.horizon is None else self.horizon)
        if self.samples <= 0 or self.trust < 0 or least < 1:
            raise ValueError(
                "need samples > 0, trust >= 0, horizon >= 1 and levels >= 1; got "
                f"{self.samples}, {self.trust}, {self.horizon} and {self.levels}"
            )
        if self.attention is not None and not (self.attention >= 0).all():
            raise ValueError(f"attention must be at least 0; got {self.attention.tolist()}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the modules are told for a task.

    weights: of all terms that count.
    trust: weight of the critic.
    actor: decides.
    place, attention: see `Task`.
    """

    weights: Mapping[str, float]
    trust: float
    actor: Actor
    place: Tensor | None
    attention: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Configurator:
    """Knows the modules as they usually are, and sets them up for a task.

    Args:
        weights: usual weights of the terms of the intrinsic cost; a task may change these.
        planner: of mode 2, as it usually plans.
        policy: mode 1; None: the agent has none, and tasks can only be planned.
        doubts: of the switch.
        above: levels above the world model's own, from low to high; a task says how many are used.
    """

    weights: Mapping[str, float]
    planner: Sampling
    policy: GoalPolicy | None = None
    doubts: Sequence[Doubt] = ()
    above: Sequence[Level] = ()

    def __call__(self, task: Task) -> Settings:
        """Raises ValueError for what this agent cannot do."""
        check_weights(task.weights, self.weights)
        return Settings(
            weights={**self.weights, **task.weights},
            trust=task.trust,
            actor=self._actor(task),
            place=task.place,
            attention=task.attention,
        )

    def _actor(self, task: Task) -> Actor:
        samples = max(2, round(task.samples * self.planner.samples))
        planner = replace(
            self.planner,
            samples=samples,
            horizon=task.horizon or self.planner.horizon,
            seconds=task.seconds if task.mode == "plan" else self.planner.seconds,
        )
        if task.levels > 1 + len(self.above):
            raise ValueError(
                f"the task asks for {task.levels} levels; this agent has {1 + len(self.above)}"
            )
        two = ModeTwo(planner=planner, policy=self.policy)
        if task.levels > 1:
            two = ModeTwoOnLevels(planner=planner, above=self.above[: task.levels - 1])
        if task.mode == "plan":
            return two
        if self.policy is None:
            raise ValueError(f'mode "{task.mode}" needs a policy: learn one, or use mode "plan"')
        one = ModeOne(policy=self.policy)
        if task.mode == "react":
            return one
        return Switch(one, two, self.doubts, seconds=task.seconds)
