"""The parts of the control recipe: experience, encoder of frames, dynamics, and what they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pytorch_lightning import Trainer
from torch import Tensor

from jepa import seeds
from jepa.files import write_arrays
from jepa.frozen import FrozenEncoder

from ..datasets.trajectories import EpisodeArrays, Trajectories, rows
from ..datasets.trajectory_store import StoredTrajectories, TrajectoryWriter
from ..datasets.windows import Windows, window_loader
from ..planning.agent import PlanningAgent
from ..planning.dynamics import LatentWorldModel, world_model
from ..planning.energies import GoalDistance
from ..planning.evaluation import energy_landscape, record
from ..planning.projection import SlowFeatures, fit_projection
from ..planning.readout import LinearReadout
from ..planning.training import DynamicsTraining
from ..planning.two_rooms import TwoRooms
from ..planning.two_rooms_env import TwoRoomsVectorEnv
from ..planning.two_rooms_walks import random_walks
from .progress import StepProgress


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Episodes of a random policy, without goals.

    Args:
        episodes: for training; a tenth more is collected for validation.
        decisions: actions per episode.
        repeat: environment steps for which a decision is held.
    """

    episodes: int = 500
    decisions: int = 32
    repeat: int = 4


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The latent dynamics and their training.

    Args:
        components: size of the latent.
        frequencies: spatial cosines per axis that the patch grid is pooled to.
        principal: principal components kept before the slow ones are looked for.
        hidden: width of the dynamics' layers.
        window: decisions foreseen in training.
        steps: optimiser steps.
        batch_size: windows per step.
        learning_rate: highest.
    """

    components: int = 16
    frequencies: int = 4
    principal: int = 256
    hidden: int = 256
    window: int = 8
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 2e-3


def gather(
    folder: Path, rooms: TwoRooms, experience: Experience, seed: int
) -> tuple[Trajectories, Trajectories]:
    """Training and validation episodes, on disk; made once."""
    counts = {"train": experience.episodes, "validation": max(experience.episodes // 10, 1)}
    for split, count in counts.items():
        with TrajectoryWriter(folder / split) as writer:
            for episode in random_walks(
                rooms,
                episodes=count,
                decisions=experience.decisions,
                repeat=experience.repeat,
                seed=seeds.derive(seed, "episodes", split),
                batch=writer.shard_episodes,
                first=len(writer),
            ):
                writer.append(episode)
    return StoredTrajectories(folder / "train"), StoredTrajectories(folder / "validation")


def stacked(data: Trajectories, name: str) -> Shaped[Tensor, "E T ..."]:
    """One field of all episodes, which must be equally long."""
    everyone = np.arange(len(data.lengths))
    (count,) = np.unique(rows(name, data.lengths))
    steps = np.broadcast_to(np.arange(count), (len(everyone), count))
    return torch.from_numpy(data.read(name, everyone, steps))


def learn_dynamics(
    frozen: FrozenEncoder, data: Trajectories, dynamics: Dynamics, seed: int
) -> tuple[LatentWorldModel, Float[Tensor, "E T D"]]:
    """The world model, and the latents of all frames."""
    projection = SlowFeatures(
        components=dynamics.components,
        frequencies=dynamics.frequencies,
        principal=dynamics.principal,
    )
    latents = fit_projection(projection, frozen, stacked(data, "observations"))
    actions = stacked(data, "actions")
    scale = actions.square().mean(dim=(0, 1)).sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, "dynamics"))
        model = world_model(frozen, projection, scale, hidden=dynamics.hidden)
    fields = {"observations": latents, "actions": actions}
    flat = {name: field.flatten(0, 1).numpy() for name, field in fields.items()}
    windows = Windows(EpisodeArrays(data.lengths, flat), length=dynamics.window)
    trainer = Trainer(
        max_steps=dynamics.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[StepProgress(f"dynamics on {frozen.name}")],
    )
    training = DynamicsTraining(model.dynamics, learning_rate=dynamics.learning_rate)
    trainer.fit(training, window_loader(windows, batch_size=dynamics.batch_size, seed=seed))
    return model, latents


def position_readout(latents: Float[Tensor, "E T D"], data: Trajectories) -> LinearReadout:
    """From latents to the true position, px; for pictures and measurements only."""
    truth = stacked(data, "infos.position")
    return LinearReadout.fit(latents.flatten(0, 1), truth.flatten(0, 1))


@torch.no_grad()
def horizon_errors(
    model: LatentWorldModel,
    data: Trajectories,
    readout: LinearReadout,
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
