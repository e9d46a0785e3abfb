"""Learning of critic and policy, each from what is remembered: of a latent world that is learnt."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor
from torch.utils.data import DataLoader

from jepa import seeds

from ..datasets.trajectories import Trajectories
from ..planning.critic import CriticTraining, GoalCritic
from ..planning.dynamics import LatentWorldModel
from ..planning.intrinsic import IntrinsicCost
from ..planning.memory import RememberedWindows, ShortTermMemory
from ..planning.policy import GoalPolicy, Imitation, planned_actions
from ..planning.protocols import ActionSpace, Energy, Planner
from .hardware import Hardware
from .latent import learnt, trainer
from .world import stacked


@dataclass(frozen=True, kw_only=True)
class Criticism:
    """The critic and its training; see `CriticTraining`.

    Args:
        episodes: of the experience that are in memory.
        hidden: width of the layers.
        window: decisions within which goals are taken in hindsight.
        candidates: actions that are tried for each pair.
        hindsight: share of goals in hindsight; the others are places of other episodes.
        momentum: of the slow copy.
        steps: optimiser steps.
        batch_size: pairs per step.
        learning_rate: highest.
    """

    episodes: int = 1000
    hidden: int = 128
    window: int = 16
    candidates: int = 12
    hindsight: float = 0.5
    momentum: float = 0.98
    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Reacting:
    """The policy and its lessons, of which the first are of remembered places and goals.

    Args:
        hidden: width of the layers.
        rounds: times that the policy plays, and is told what mode 2 would have done.
        episodes: per round.
        max_steps: environment steps of these.
        first: plans before the first round.
        plans: per round.
        steps: optimiser steps before the first round and after each.
        batch_size: plans per step.
        learning_rate: highest.
    """

    hidden: int = 256
    rounds: int = 2
    episodes: int = 100
    max_steps: int = 120
    first: int = 500
    plans: int = 2500
    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 1e-3


def remembered(
    latents: Float[Tensor, "E T D"], data: Trajectories, episodes: int, seed: int
) -> ShortTermMemory:
    """Experience of one world as memory: each row wants a place out of any other episode."""
    actions = stacked(data, "actions")[:episodes]
    count, decisions = actions.shape[:2]
    memory, draw = ShortTermMemory(count * decisions), seeds.generator(seed, "wanted")
    for time in range(decisions):
        other = torch.randint(len(latents), (count,), generator=draw)
        moment = torch.randint(decisions + 1, (count,), generator=draw)
        rows = {
            "latent": latents[:count, time],
            "goal": latents[other, moment],
            "action": actions[:, time],
            "episode": torch.arange(count),
            "time": torch.full((count,), time),
        }
        memory.write(TensorDict(rows, batch_size=[count]))
    return memory


def batches(memory: ShortTermMemory, batch_size: int, length: int, seed: int) -> DataLoader:
    """Windows of a memory, for Lightning."""
    windows = RememberedWindows(memory, batch_size=batch_size, length=length, seed=seed)
    return DataLoader(windows, batch_size=None)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What critic and policy learn from; what is learnt is kept in `out`, and not learnt again.

    Args:
        out: folder.
        model: the world model; fixed.
        space: of actions.
        scale: deviation of the latents.
        memory: rows with `latent`, `goal` and `action`.
        hardware: of all trainings.
        seed: of everything.
    """

    out: Path
    model: LatentWorldModel
    space: ActionSpace
    scale: Float[Tensor, " D"]
    memory: ShortTermMemory
    hardware: Hardware
    seed: int

    def critic(
        self,
        name: str,
        cost: Callable[[TensorDict], IntrinsicCost],
        most: float,
        criticism: Criticism,
    ) -> GoalCritic:
        """Of a cost whose steps cost at most `most`."""
        with seeds.weights(self.seed, "critic"):
            critic = GoalCritic(self.scale, hidden=criticism.hidden)

        def learn() -> None:
            training = CriticTraining(
                critic,
                self.model.dynamics,
                cost,
                self.space,
                most=most,
                candidates=criticism.candidates,
                hindsight=criticism.hindsight,
                momentum=criticism.momentum,
                learning_rate=criticism.learning_rate,
                seed=self.seed,
            )
            windows = batches(self.memory, criticism.batch_size, criticism.window, self.seed)
            trainer(criticism.steps, self.hardware, name).fit(training, windows)

        return learnt(critic, self.out / f"{name}.safetensors", learn).requires_grad_(False)

    def policies(
        self,
        energy: Callable[[TensorDict], Energy],
        planner: Planner,
        practise: Callable[[GoalPolicy, int, int, int], ShortTermMemory],
        reacting: Reacting,
    ) -> list[GoalPolicy]:
        """Mode 1 out of mode 2's plans: for what is in memory, and then where mode 1 itself goes.
        As it was before the first round, and after each.

        practise: the policy plays so many episodes of so many steps; what is remembered of it.
            The last argument is the seed of the episodes.
        """
        with seeds.weights(self.seed, "policy"):
            policy = GoalPolicy(self.scale, self.space, hidden=reacting.hidden)
        lessons = ShortTermMemory(reacting.first + reacting.rounds * reacting.plans)
        found = []
        for turn in range(reacting.rounds + 1):
            file = self.out / f"lessons_{turn}.safetensors"
            if not file.is_file():
                seen, count = self.memory, reacting.first
                if turn:
                    played = seeds.derive(self.seed, "lessons", turn)
                    seen = practise(policy, reacting.episodes, reacting.max_steps, played)
                    count = reacting.plans
                lessons.write(self._planned(seen, count, energy, planner, turn))
                lessons.save(file)
            lessons = ShortTermMemory.load(file)
            learn = partial(self._imitate, policy, lessons, reacting, turn)
            learnt(policy, self.out / f"policy_{turn}.safetensors", learn).requires_grad_(False)
            found.append(copy.deepcopy(policy))
        return found

    def _planned(
        self,
        seen: ShortTermMemory,
        count: int,
        energy: Callable[[TensorDict], Energy],
        planner: Planner,
        turn: int,
    ) -> TensorDict:
        """Some of what was seen, with what mode 2 would have done there."""
        draw = seeds.generator(self.seed, "lessons", turn)
        rows = seen.windows(count, 1, draw)[:, 0].select("latent", "goal")
        start = self.model.dynamics.start
        actions = planned_actions(planner, self.model, start, energy, self.space, rows, draw)
        number = {"episode": torch.full((count,), turn), "time": torch.arange(count)}
        return rows.clone().update({"planned": actions, **number})

    def _imitate(
        self, policy: GoalPolicy, lessons: ShortTermMemory, reacting: Reacting, turn: int
    ) -> None:
        """Trains the policy on all lessons so far."""
        training = Imitation(policy.requires_grad_(True), learning_rate=reacting.learning_rate)
        draws = seeds.derive(self.seed, "imitation", turn)
        windows = batches(lessons, reacting.batch_size, 1, draws)
        trainer(reacting.steps, self.hardware, f"policy, round {turn}").fit(training, windows)
