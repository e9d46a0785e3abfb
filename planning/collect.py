"""Collecting: episodes of any policy in any gymnasium vector environment, whole ones only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from .evaluation import Agent

Policy: TypeAlias = Agent | Callable[[Any], Any]
Row: TypeAlias = dict[str, np.ndarray]


def play(
    env: VectorEnv,
    policy: Policy,
    *,
    seed: int,
    rounds: int = 1,
    infos: Sequence[str] = (),
) -> list[dict[str, np.ndarray]]:
    """`rounds` whole episodes of every copy, first the first ones of all; a function of the seed.

    Every copy plays as many, however long they last: taking those that end first would prefer
    short ones. Whichever way the environment resets itself, an episode's last observation is its
    own, and the step with which a copy is only reset is no part of any.

    Args:
        env: with any of gymnasium's autoreset modes.
        policy: an agent, or what takes a batch of observations to actions. An agent is reset once,
            before the first step; one that remembers its episode is right with one round only.
        seed: of the environment's first reset.
        rounds: episodes per copy.
        infos: entries of `info` to be kept, which every reset and step must give.

    Returns:
        `observations` [T + 1, ...] and `actions` [T, ...], of dictionaries and tuples each part
        by itself (`observations.pixels`); `rewards`, `terminations`, `truncations` [T]; and
        `infos.NAME` [T + 1, ...].
    """
    check_space("observations", getattr(env, "single_observation_space", None))
    mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    act = policy.act if isinstance(policy, Agent) else policy
    if isinstance(policy, Agent):
        policy.reset()
    observation, info = env.reset(seed=seed)
    copies = range(env.num_envs)
    tapes = [Tape(seen(observation, info, infos, i)) for i in copies]
    finished: list[list[dict[str, np.ndarray]]] = [[] for _ in copies]
    resetting = np.zeros(env.num_envs, dtype=bool)
    while min(map(len, finished)) < rounds:
        actions = act(observation)
        observation, rewards, terminations, truncations, info = env.step(actions)
        ended = (terminations | truncations) & ~resetting
        for i in copies:
            if len(finished[i]) == rounds:
                continue
            if resetting[i]:
                tapes[i] = Tape(seen(observation, info, infos, i))
                continue
            hidden = ended[i] and mode == AutoresetMode.SAME_STEP
            after = final(info, infos, i) if hidden else seen(observation, info, infos, i)
            done = {"terminations": terminations[i], "truncations": truncations[i]}
            tapes[i].add(row("actions", actions, i) | {"rewards": rewards[i]} | done, after)
            if ended[i]:
                finished[i].append(tapes[i].episode())
            if hidden:
                tapes[i] = Tape(seen(observation, info, infos, i))
        resetting = ended if mode == AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        if mode == AutoresetMode.DISABLED and ended.any():
            observation, info = env.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended).tolist():
                tapes[i] = Tape(seen(observation, info, infos, i))
    return [episodes[turn] for turn in range(rounds) for episodes in finished]


class Tape:
    """One copy's episode so far."""

    def __init__(self, start: Row) -> None:
        self.seen, self.done = [start], []

    def add(self, done: Row, after: Row) -> None:
        """One step, and what was seen after it."""
        self.done.append(done)
        self.seen.append(after)

    def episode(self) -> dict[str, np.ndarray]:
        """All rows, by field."""
        return {
            name: np.stack([step[name] for step in steps])
            for steps in (self.seen, self.done)
            for name in steps[0]
        }


def seen(observation: Any, info: Mapping[str, Any], names: Sequence[str], copy: int) -> Row:
    """What one copy shows at one moment."""
    return row("observations", observation, copy) | told(info, names, copy)


def final(info: Mapping[str, Any], names: Sequence[str], copy: int) -> Row:
    """What one copy showed at the end of an episode, where the reset is in the same step."""
    last = info["final_obs"]
    shown = (
        row("observations", last, copy)
        if isinstance(last, Mapping)
        else dict(leaves("observations", last[copy]))
    )
    return shown | told(info.get("final_info", {}), names, copy)


def told(info: Mapping[str, Any], names: Sequence[str], copy: int) -> Row:
    """The wanted entries of `info`. Raises ValueError for one that is not given."""
    for name in names:
        if name not in info or not info.get(f"_{name}", np.ones(copy + 1, dtype=bool))[copy]:
            given = sorted(key for key in info if not key.startswith("_"))
            raise ValueError(
                f"info has no {name!r} for copy {copy} at a reset or a step; it has: "
                f"{', '.join(given) or 'nothing'}"
            )
    return {f"infos.{name}": np.array(info[name][copy]) for name in names}


def row(name: str, batch: Any, copy: int) -> Row:
    """One copy's part of a batch, copied: an environment may use its arrays again."""
    return {key: np.array(array[copy]) for key, array in leaves(name, batch)}


def leaves(name: str, values: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in nested dictionaries and tuples, by dotted name. ValueError for other things."""
    if isinstance(values, Mapping | tuple):
        pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in pairs:
            yield from leaves(f"{name}.{key}", value)
        return
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` is made of no arrays of numbers of one shape, so it cannot be stored"
        )
    yield name, array


def check_space(name: str, space: Any) -> None:
    """Raises ValueError for observations of which no two need have the same shape."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            check_space(f"{name}.{key}", part)
    elif isinstance(space, spaces.Tuple):
        for number, part in enumerate(space):
            check_space(f"{name}.{number}", part)
    elif isinstance(space, spaces.Text | spaces.Sequence | spaces.Graph | spaces.OneOf):
        raise ValueError(
            f"`{name}` is {space}, not an array of numbers of one shape, so it cannot be stored: "
            "leave it out, e.g. by gymnasium.wrappers.FilterObservation"
        )
