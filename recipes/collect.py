"""Collect episodes in any gymnasium environment, into a folder that can be read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AddRenderObservation, TransformObservation
from PIL import Image

from jepa import seeds
from jepa.progress import track

from ..datasets.trajectory_store import StoredTrajectories, TrajectoryWriter
from ..planning.agent import RandomAgent, action_space_of
from ..planning.collect import Policy, play


def collect(
    *,
    env: str,
    out: Path,
    episodes: int = 100,
    policy: Callable[[int], Any] | None = None,
    repeat: int = 1,
    correlation: float = 0.0,
    pixels: int | None = None,
    infos: Sequence[str] = (),
    max_steps: int | None = None,
    env_args: dict[str, Any] | None = None,
    copies: int = 8,
    rounds: int = 4,
    processes: bool = False,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Collect episodes of a random or any other policy in a gymnasium environment.

    Args:
        env: gymnasium's name, e.g. CartPole-v1, or MODULE:NAME to import MODULE first.
        out: folder of the episodes; must be empty unless resuming.
        episodes: how many in all; a resumed collection may be given more.
        policy: MODULE.FUNCTION that makes a policy from a seed: something with `act` and `reset`,
            or a function from a batch of observations to actions. By default actions are random.
        repeat: steps for which a random action is held.
        correlation: of neighbouring random actions, in [0, 1).
        pixels: also store rendered images with this many pixels a side, as
            `observations.pixels`; other observations are then `observations.state`.
        infos: entries of the environment's `info` to store.
        max_steps: after which an episode is truncated; by default the environment's own limit.
        env_args: further arguments of the environment.
        copies: environments that are stepped together.
        rounds: episodes of each copy in one shard: a shard has copies * rounds.
        processes: give every copy a process of its own.
        seed: of everything.
        resume: go on with the collection in `out`; complete shards are kept.
    """
    if min(episodes, copies, rounds) < 1:
        raise ValueError(
            f"episodes, copies and rounds are at least 1; got {episodes}, {copies}, {rounds}"
        )
    makers = [lambda: one_env(env, env_args or {}, max_steps, pixels)] * copies
    world = AsyncVectorEnv(makers) if processes else SyncVectorEnv(makers)

    def random_policy(seed: int) -> Policy:
        try:
            space = action_space_of(world.single_action_space)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"no random policy for {env}, give it one (--policy): {error}"
            ) from error
        return RandomAgent(action_space=space, repeat=repeat, correlation=correlation, seed=seed)

    try:
        (policy or random_policy)(seed)  # before anything is in the folder
        collect_into(
            out,
            world,
            policy or random_policy,
            episodes=episodes,
            rounds=rounds,
            seed=seed,
            infos=infos,
            about={"env": env, "policy": getattr(policy or random_policy, "__name__", str(policy))},
        )
    finally:
        world.close()
    data = StoredTrajectories(out)
    print(
        f"{len(data.lengths)} episodes of {data.lengths.mean():.1f} actions each in {out}, "
        f"with {', '.join(data.names)}"
    )


def collect_into(
    folder: str | Path,
    env: VectorEnv,
    policy_of: Callable[[int], Policy],
    *,
    episodes: int,
    rounds: int = 1,
    seed: int = 0,
    infos: Sequence[str] = (),
    about: dict[str, Any] | None = None,
) -> None:
    """Appends episodes to a folder until it has so many; killed and run again, to the same bytes.

    A shard holds `rounds` episodes of every copy, and is a function of (seed, its number).

    Args:
        folder: see `TrajectoryWriter`.
        env: see `play`.
        policy_of: makes the policy of a shard from the shard's seed.
        episodes: how many in all.
        rounds: episodes of each copy in a shard.
        seed: of everything.
        infos: see `play`.
        about: kept beside the data.
    """
    size = env.num_envs * rounds
    facts = {"seed": seed, "copies": env.num_envs, "infos": list(infos), **(about or {})}
    with TrajectoryWriter(folder, shard_episodes=size, about=facts) as writer:
        new = missing(
            writer, env, policy_of, episodes=episodes, infos=infos, draws=(seed, "collect")
        )
        for episode in track(new, str(folder), "episode", total=episodes, done=len(writer)):
            writer.append(episode)


def missing(
    writer: TrajectoryWriter,
    env: VectorEnv,
    policy_of: Callable[[int], Policy],
    *,
    episodes: int,
    infos: Sequence[str],
    draws: tuple[Any, ...],
) -> Iterator[dict[str, np.ndarray]]:
    """The episodes that the writer lacks, to be appended one by one.

    A shard holds equally many episodes of every copy, and is a function of `draws`, which begins
    with a seed, and of the shard's number.
    """
    size = writer.shard_episodes
    while len(writer) < episodes:
        seed = seeds.derive(*draws, len(writer) // size)
        shard = play(env, policy_of(seed), seed=seed, rounds=size // env.num_envs, infos=infos)
        yield from shard[len(writer) % size :][: episodes - len(writer)]


def one_env(
    name: str, arguments: dict[str, Any], max_steps: int | None, pixels: int | None
) -> gymnasium.Env:
    """One copy of an environment. Raises ValueError where gymnasium cannot make it."""
    render = {} if pixels is None else {"render_mode": "rgb_array"}
    try:
        env = gymnasium.make(name, max_episode_steps=max_steps, **render, **arguments)
        if pixels is None:
            return env
        return shrunk(AddRenderObservation(env, render_only=False), pixels)
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def shrunk(env: gymnasium.Env, side: int) -> gymnasium.Env:
    """Observations whose `pixels` are `side` pixels high and wide."""
    spaces = dict(env.observation_space.spaces)  # pyright: ignore[reportAttributeAccessIssue]
    spaces["pixels"] = gymnasium.spaces.Box(0, 255, (side, side, 3), np.uint8)

    def smaller(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = Image.fromarray(observation["pixels"])
        small = image.resize((side, side), Image.Resampling.BOX)
        return observation | {"pixels": np.asarray(small)}

    return TransformObservation(env, smaller, gymnasium.spaces.Dict(spaces))
