"""Experience of worlds, and what their world models are shown and measured by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from jepa import seeds
from jepa.files import write_arrays
from jepa.progress import track

from ..datasets.trajectories import Episode, Trajectories, rows
from ..datasets.trajectory_store import StoredTrajectories, TrajectoryWriter
from ..planning.agent import PlanningAgent
from ..planning.dynamics import LatentWorldModel
from ..planning.energies import GoalDistance
from ..planning.evaluation import energy_landscape, record
from ..planning.readout import LinearReadout
from ..planning.two_rooms_env import Rooms, TwoRoomsVectorEnv
from ..planning.two_rooms_walks import Wish, random_walks


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Episodes of a random policy, without goals.

    Args:
        episodes: for training; a tenth more is collected for validation.
        decisions: actions per episode.
        repeat: environment steps for which a decision is held.
        correlation: of neighbouring decisions, in [0, 1).
    """

    episodes: int = 500
    decisions: int = 32
    repeat: int = 4
    correlation: float = 0.8

    @property
    def frames(self) -> int:
        """For training: one more than decisions, each."""
        return self.episodes * (self.decisions + 1)

    def check_windows(self, training: str, length: int, batch_size: int) -> None:
        """Raises ValueError where the episodes for training have too few windows for one batch."""
        count = self.episodes * max(0, self.decisions - length + 1)
        if count < batch_size:
            raise ValueError(
                f"{training}: {self.episodes} episodes of {self.decisions} decisions have {count} "
                f"windows of {length}, which do not fill one batch of {batch_size}: collect longer "
                "or more episodes, or make windows or batches smaller"
            )


@dataclass(frozen=True, kw_only=True)
class Game:
    """How agents are compared in small worlds.

    Args:
        episodes: start-goal pairs in different rooms, the same for all agents.
        max_steps: environment steps per episode.
        radius: distance from the goal that counts as success, px.
        haste: weight of the mean distance beside the closest approach.
        seed: of the world and the start-goal pairs; settings were chosen on those of seed 0.
    """

    episodes: int = 100
    max_steps: int = 120
    radius: float = 1.5
    haste: float = 0.05
    seed: int = 1000

    def in_world(self, rooms: Rooms) -> TwoRoomsVectorEnv:
        """The environment of all episodes."""
        return TwoRoomsVectorEnv(
            self.episodes, rooms=rooms, radius=self.radius, max_steps=self.max_steps
        )


Episodes: TypeAlias = Callable[[TrajectoryWriter, int, int, str], Iterator[Episode]]
"""(writer, how many in all, seed, split): those that the writer does not have yet."""


def gather(
    folder: Path, experience: Experience, episodes: Episodes, seed: int
) -> tuple[Trajectories, Trajectories]:
    """Training and validation episodes, on disk; made once."""
    counts = {"train": experience.episodes, "validation": max(experience.episodes // 10, 1)}
    for split, count in counts.items():
        with TrajectoryWriter(folder / split) as writer:
            new, done = episodes(writer, count, seed, split), len(writer)
            title, shown = f"{split} episodes", done < count
            for episode in track(new, title, "episode", total=count, done=done, shown=shown):
                writer.append(episode)
    return StoredTrajectories(folder / "train"), StoredTrajectories(folder / "validation")


def walks_in(
    rooms: Rooms, experience: Experience, wish: Wish | None = None, share: float = 0.5
) -> Episodes:
    """Random walks in a world of one dot; see `random_walks`."""

    def episodes(writer: TrajectoryWriter, count: int, seed: int, split: str) -> Iterator[Episode]:
        return random_walks(
            rooms,
            episodes=count,
            decisions=experience.decisions,
            repeat=experience.repeat,
            seed=seeds.derive(seed, "episodes", split),
            correlation=experience.correlation,
            batch=writer.shard_episodes,
            first=len(writer),
            wish=wish,
            share=share,
        )

    return episodes


def stacked(data: Trajectories, name: str) -> Shaped[Tensor, "E T ..."]:
    """One field of all episodes, which must be equally long."""
    everyone = np.arange(len(data.lengths))
    (count,) = np.unique(rows(name, data.lengths))
    steps = np.broadcast_to(np.arange(count), (len(everyone), count))
    return torch.from_numpy(data.read(name, everyone, steps))


def position_readout(latents: Float[Tensor, "E T D"], data: Trajectories) -> LinearReadout:
    """From latents to the true position, px; for pictures and measurements only."""
    truth = stacked(data, "infos.position")
    return LinearReadout.fit(latents.flatten(0, 1), truth.flatten(0, 1))


@torch.no_grad()
def horizon_errors(
    model: LatentWorldModel,
    data: Trajectories,
    readout: Callable[[Tensor], Tensor],
    most: int = 16,
) -> list[float]:
    """Error of the foreseen position, px, after 1, 2, ... decisions; on episodes not trained on."""
    actions = stacked(data, "actions")[:, :most]
    truth = stacked(data, "infos.position")[:, 1 : most + 1]
    states = model.rollout(model.encode(stacked(data, "observations")[:, 0]), actions)
    foreseen = readout(states["latent"])
    return (foreseen - truth).norm(dim=-1).mean(dim=0).tolist()


def save_episode(
    out: Path,
    agent: PlanningAgent,
    env: TwoRoomsVectorEnv,
    model: LatentWorldModel,
    energy: Callable[..., GoalDistance],
    readout: LinearReadout,
    episode: int,
    max_steps: int,
    seed: int,
) -> None:
    """One episode with its plans, and the energy over the first action, for the report."""
    observation, info = env.reset(seed=seeds.derive(seed, "evaluation"))
    agent.reset()
    agent.act(observation)
    images = {key: torch.from_numpy(value[[episode]]) for key, value in observation.items()}
    landscape = energy_landscape(
        model,
        model.encode(images["observation"]),
        energy(model.encode(images["desired_goal"])),
        agent.plan.actions[[episode]],
        agent.action_space,
    )
    chosen = agent.plan.actions[episode, 0].numpy()
    recording = record(agent, env, max_steps=max_steps, seed=seed, episode=episode)
    imagined = readout(recording.imagined["latent"])
    shown = {
        "frames": recording.frames,
        "goal": recording.goal,
        "positions": recording.positions,
        "goal_position": info["goal_position"][episode],
        "imagined": imagined.numpy(),
        "energy": landscape[0].numpy(),
        "chosen_action": chosen,
        "action_low": agent.action_space.low.numpy(),
        "action_high": agent.action_space.high.numpy(),
    }
    write_arrays(out / "episode.npz", shown)
