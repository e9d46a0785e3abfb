"""Does the agent reach its goals? Episodes of a vector environment, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds
from jepa.progress import bar

from .agent import Cost, Narrowing, Replanning, each_array
from .planner import score
from .protocols import ActionSpace, Energy, WorldModel


@runtime_checkable
class Agent(Protocol):
    """Acts on a batch of observations."""

    def reset(self) -> None:
        """Before the first step of a batch of episodes."""
        ...

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Actions [B, A]."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What came of one batch of episodes.

    An episode is a success when `info` says so at its end: in TwoRooms, when the dot was within
    the environment's `radius` of the goal at any step of the budget, which ends it.

    episodes: counted episodes, without those that started at the goal.
    successes: of these.
    excluded: episodes that started at the goal.
    steps: [B] environment steps taken, the whole budget for a failure.
    success: [B].
    returns: [B] rewards, summed until the episode ended.
    cost: of planning; 0 for agents that do not plan. Finished episodes cost nothing where the
        agent is `Narrowing`.
    first, last: `info` at the start and at the end, [B, ...]: the start-goal pairs are in it.
    """

    episodes: int
    successes: int
    excluded: int
    steps: np.ndarray
    success: np.ndarray
    returns: np.ndarray
    cost: Cost
    first: dict[str, np.ndarray] = field(repr=False)
    last: dict[str, np.ndarray] = field(repr=False)

    @property
    def rate(self) -> float:
        """Share of successes; not a number without episodes."""
        return self.successes / self.episodes if self.episodes else float("nan")

    @property
    def counted(self) -> np.ndarray:
        """[B] which episodes did not start at the goal."""
        return ~np.asarray(self.first["success"], dtype=bool)


def evaluate(
    agent: Agent, env: VectorEnv, *, max_steps: int, seed: int, progress: bool = False
) -> Evaluation:
    """Plays one episode in each copy; starts and goals are fixed by the named seed.

    `info` must hold `success` [B]; what it says of an episode counts until that has ended. The
    project's environments let finished copies stand still (`AutoresetMode.DISABLED`); gymnasium's
    own, such as `SyncVectorEnv`, refuse to step them in that mode, so that they are to be in
    `NEXT_STEP`, their default, in which finished copies play on, unseen. `SAME_STEP` raises
    ValueError. An agent that is `Narrowing` decides for the episodes that go on; the others'
    copies are given their last action again. `progress` shows steps done, episodes that go on,
    and the time left if they go on to the end.
    """
    if env.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP:
        raise ValueError(
            "an environment in AutoresetMode.SAME_STEP tells of the next episode when one ends: "
            "make it with autoreset_mode=AutoresetMode.NEXT_STEP"
        )
    observation, first = env.reset(seed=seeds.derive(seed, "evaluation"))
    agent.reset()
    done = excluded = np.asarray(first["success"], dtype=bool)
    steps, returns = np.zeros(env.num_envs, dtype=np.int64), np.zeros(env.num_envs)
    asking, last = Asking(agent, env.num_envs), dict(first)
    with bar(max_steps, f"{env.num_envs} episodes", "step", shown=progress) as shown:
        for _ in range(max_steps):
            if done.all():
                shown.total = shown.n
                break
            steps += ~done
            actions = asking.act(observation, done)
            observation, rewards, terminated, truncated, info = env.step(actions)
            returns += np.where(done, 0.0, rewards)
            last |= {name: chosen(done, last.get(name), told) for name, told in info.items()}
            done = done | terminated | truncated
            shown.set_postfix(going_on=int((~done).sum()), refresh=False)
            shown.update()
    success = np.asarray(last["success"], dtype=bool)
    return Evaluation(
        episodes=int((~excluded).sum()),
        successes=int((success & ~excluded).sum()),
        excluded=int(excluded.sum()),
        steps=steps,
        success=success,
        returns=returns,
        cost=agent.cost if isinstance(agent, Replanning) else Cost(),
        first=first,
        last=last,
    )


def chosen(done: Bool[np.ndarray, " B"], before: Any, told: Any) -> Any:
    """Of an entry of `info`: what was told before of episodes that had ended, and now of others."""
    if not isinstance(before, np.ndarray) or before.shape != np.shape(told):
        return told
    return np.where(done.reshape(-1, *[1] * (before.ndim - 1)), before, told)


class Asking:
    """Asks an agent for the actions of a batch; a `Narrowing` one only where episodes go on."""

    def __init__(self, agent: Agent, num_envs: int) -> None:
        self.agent, self.asked = agent, np.ones(num_envs, dtype=bool)
        self.actions: np.ndarray | None = None

    def act(self, observation: Mapping[str, Any], done: Bool[np.ndarray, " B"]) -> np.ndarray:
        """Actions [B, A]; those of episodes that are done are their last ones."""
        if self.actions is None or not isinstance(self.agent, Narrowing):
            self.actions = self.agent.act(observation)
            return self.actions
        if (self.asked & done).any():
            self.agent.keep(~done[self.asked])
            self.asked = ~done
        actions = self.actions.copy()
        actions[self.asked] = self.agent.act(each_array(observation, itemgetter(self.asked)))
        self.actions = actions
        return actions

    def row(self, episode: int) -> int:
        """Where an episode is among those that the agent was asked about last."""
        return int(self.asked[:episode].sum())


@dataclass(frozen=True)
class Recording:
    """One decision of one episode after another, for the report.

    frames: [T, H, W, 3] uint8, what was seen at each decision.
    goal: [H, W, 3] uint8.
    imagined: [T, H] states that the plan of each decision was expected to go through.
    positions: [T, 2] px, the truth.
    """

    frames: np.ndarray
    goal: np.ndarray
    imagined: TensorDict
    positions: np.ndarray


def played_steps(
    agent: Agent, env: VectorEnv, *, max_steps: int, seed: int, episode: int
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any], int | None]]:
    """Plays as `evaluate` does until one copy's episode ends: what is seen at each step, with
    `info`, when the agent has acted on it, which row of what it decided is this episode's; and
    once more at the end, when it does not act (None)."""
    observation, info = env.reset(seed=seeds.derive(seed, "evaluation"))
    agent.reset()
    asking, done = Asking(agent, env.num_envs), np.asarray(info["success"], dtype=bool)
    for _ in range(max_steps):
        actions = asking.act(observation, done)
        yield observation, info, asking.row(episode)
        observation, _, terminated, truncated, info = env.step(actions)
        done = done | terminated | truncated
        if done[episode]:
            break
    yield observation, info, None


@torch.no_grad()
def record(
    agent: Replanning, env: VectorEnv, *, max_steps: int, seed: int, episode: int = 0
) -> Recording:
    """Plays one copy's episode until it ends, with the plans: as `evaluate` plays the batch."""
    frames, imagined, positions, goal = [], [], [], None
    played = played_steps(agent, env, max_steps=max_steps, seed=seed, episode=episode)
    for step, (observation, info, row) in enumerate(played):
        if row is not None and step % agent.repeat:
            continue
        frames.append(observation["observation"][episode])
        positions.append(info["position"][episode])
        goal = observation["desired_goal"][episode]
        if row is not None:
            imagined.append(agent.imagined()[row])
    assert goal is not None  # the last step is always there
    return Recording(
        frames=np.stack(frames),
        goal=goal,
        imagined=torch.stack(imagined),
        positions=np.stack(positions),
    )


@torch.no_grad()
def energy_landscape(
    world_model: WorldModel,
    state: TensorDict,
    energy: Energy,
    actions: Float[Tensor, "B H A"],
    space: ActionSpace,
    resolution: int = 21,
    *,
    across: tuple[int, int] = (0, 0),
    up: tuple[int, int] = (0, 1),
) -> Float[Tensor, "B R R"]:
    """Energy of plans in which two numbers are replaced by each point of a grid over the box.

    Indexed [episode, `up`, `across`], both from low to high: as an image with y down, the first
    action of a dot is drawn as it would move the dot.

    Args:
        actions: the plans.
        across, up: which numbers: (step, component) each.
    """
    if across == up:
        raise ValueError(f"a landscape needs two different numbers of a plan; got {across} twice")
    ticks = torch.linspace(-1, 1, resolution, device=actions.device)
    plans = actions.repeat(resolution, resolution, 1, 1, 1)
    for (step, component), shape in ((up, (-1, 1, 1)), (across, (1, -1, 1))):
        values = space.centre[component] + space.radius[component] * ticks
        plans[..., step, component] = values.view(shape)
    energies = score(world_model, state, energy, plans.flatten(0, 1))
    return energies.T.unflatten(1, (resolution, resolution))
