"""Control with a frozen encoder: collect, pretrain on frames, learn the dynamics, plan."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float, UInt8
from pytorch_lightning import Trainer
from torch import Tensor

from jepa import seeds
from jepa.checkpoint import load_frozen_encoder
from jepa.encoder import VisionTransformer
from jepa.files import atomic_path
from jepa.frozen import FrozenEncoder
from jepa.masks import MultiBlockMasks
from jepa.predictor import Predictor
from jepa.shapes import Grid
from jepa.training import Optimisation

from ..datasets.datamodule import MadeImages
from ..datasets.images import InMemoryImages
from ..datasets.trajectories import (
    Windows,
    read_trajectories,
    window_loader,
    write_trajectories,
)
from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.cem import CEM
from ..planning.collect import collect
from ..planning.dynamics import LatentWorldModel, world_model
from ..planning.energies import GoalDistance
from ..planning.evaluation import Agent, Evaluation, energy_landscape, evaluate, record
from ..planning.oracle import TrueDynamics
from ..planning.projection import SlowFeatures, fit_projection
from ..planning.readout import LinearReadout
from ..planning.training import DynamicsTraining
from ..planning.two_rooms import TwoRooms
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from ..probes.features import random_encoder
from ..probes.intervals import wilson
from .folder import finished
from .pictures import save_pictures
from .pretrain import Hardware, StepProgressBar, fit, normalisation
from .probe import print_rows
from .results import Measured, rows_of, write_result


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


@dataclass(frozen=True, kw_only=True)
class Play:
    """How the agents are compared.

    Args:
        episodes: start-goal pairs in different rooms, the same for all agents.
        max_steps: environment steps per episode.
        energy: distance to the goal at the `last` step of a plan, or the mean over `all`.
    """

    episodes: int = 100
    max_steps: int = 200
    energy: Literal["last", "all"] = "all"


def control(
    *,
    out: Path,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor],
    optimisation: Optimisation,
    masks: MultiBlockMasks = MultiBlockMasks(),  # noqa: B008
    batch_size: int = 64,
    rooms: TwoRooms = TwoRooms(),  # noqa: B008
    experience: Experience = Experience(),
    dynamics: Dynamics = Dynamics(),
    planner: CEM = CEM(),  # noqa: B008
    play: Play = Play(),
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "two_rooms",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Plan in TwoRooms with a frozen encoder, beside a random policy and an oracle.

    Args:
        out: folder of the run; must be empty unless resuming.
        encoder: pretrained on the frames by I-JEPA, without actions, then frozen.
        predictor: of the pretraining.
        optimisation: of the pretraining.
        masks: of the pretraining.
        batch_size: of the pretraining.
        rooms: the world.
        experience: what is collected.
        dynamics: the latent world model and its training.
        planner: the cross-entropy method, for the latent model and for the oracle.
        play: the comparison.
        hardware: device and precision of the pretraining.
        name: of the recipe, in results.
        seed: of everything.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    metrics, baselines = run_control(
        out=out,
        encoder=encoder,
        predictor=predictor,
        optimisation=optimisation,
        masks=masks,
        batch_size=batch_size,
        rooms=rooms,
        experience=experience,
        dynamics=dynamics,
        planner=planner,
        play=play,
        hardware=hardware,
        name=name,
        seed=seed,
    )
    seconds = time.monotonic() - began
    result = write_result(
        out, recipe=name, seed=seed, seconds=seconds, metrics=metrics, baselines=baselines
    )
    print_rows(rows_of(result))


def run_control(
    *,
    out: Path,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor],
    optimisation: Optimisation,
    masks: MultiBlockMasks,
    batch_size: int,
    rooms: TwoRooms,
    experience: Experience,
    dynamics: Dynamics,
    planner: CEM,
    play: Play,
    hardware: Hardware,
    name: str,
    seed: int,
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """The whole road; leaves its files in `out`. Metrics and baselines."""
    print("Control: collecting episodes", flush=True)
    shards, held_out = gather(out / "episodes", rooms, experience, seed)
    frozen = pretrained_on_frames(
        shards, out / "encoder", encoder, predictor, optimisation, masks, batch_size,
        hardware, name, seed,
    )  # fmt: skip
    env = TwoRoomsVectorEnv(play.episodes, rooms=rooms, max_steps=play.max_steps)
    space = action_space_of(env.single_action_space)
    repeat = experience.repeat
    parts = {"planner": planner, "action_space": space, "repeat": repeat, "seed": seed}
    energy = partial(GoalDistance, steps=play.energy)

    def played(agent: Agent, world: VectorEnv = env) -> Evaluation:
        return evaluate(agent, world, max_steps=play.max_steps, seed=seed)

    rates = {}
    for prefix, some in (("random_encoder/", random_encoder(frozen, seed)), ("", frozen)):
        print(f"Control: dynamics on {some.name}, then {play.episodes} episodes", flush=True)
        model, latents = learn_dynamics(some, shards, dynamics, seed)
        agent = PlanningAgent(world_model=model, energy=energy, **parts)
        ours = rates[prefix] = played(agent)
    readout = position_readout(latents, shards)
    errors = horizon_errors(model, held_out, readout)
    save_episode(out, agent, env, model, energy, readout, play, seed)
    (out / "dynamics.json").write_text(json.dumps({"horizon_error": errors}))

    print("Control: random policy and oracle", flush=True)
    rates["random_policy/"] = played(RandomAgent(action_space=space, repeat=repeat, seed=seed))
    oracle = PlanningAgent(
        world_model=TrueDynamics(rooms=rooms, repeat=repeat),
        energy=partial(GoalDistance, steps=play.energy, key="position"),
        **parts,
    )
    rates["oracle/"] = played(oracle, TrueState(env))
    metrics = {
        "two_rooms_success": share(rates.pop("")),
        "two_rooms_position_error_px": exactly(errors[-1]),
        "two_rooms_excluded": exactly(ours.excluded),
    }
    return metrics, {f"{name}two_rooms_success": share(rate) for name, rate in rates.items()}


def gather(
    folder: Path, rooms: TwoRooms, experience: Experience, seed: int
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Training and validation episodes, on disk; made once."""
    counts = {"train": experience.episodes, "validation": max(experience.episodes // 10, 1)}
    for split, count in counts.items():
        if not (folder / split).exists():
            episodes = collect(
                rooms,
                episodes=count,
                decisions=experience.decisions,
                repeat=experience.repeat,
                seed=seeds.derive(seed, "episodes", split),
            )
            write_trajectories(folder / split, episodes)
    return read_trajectories(folder / "train"), read_trajectories(folder / "validation")


def frames_of(shards: list[dict[str, np.ndarray]]) -> UInt8[Tensor, "E T H W C"]:
    """All observations, [E, T + 1, H, W, C]."""
    return torch.from_numpy(np.concatenate([shard["observations"] for shard in shards]))


def pretrained_on_frames(
    shards: list[dict[str, np.ndarray]],
    out: Path,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor],
    optimisation: Optimisation,
    masks: MultiBlockMasks,
    batch_size: int,
    hardware: Hardware,
    name: str,
    seed: int,
) -> FrozenEncoder:
    """I-JEPA on single frames; the training knows neither actions nor order."""
    if finished(out):
        return load_frozen_encoder(out)
    images = frames_of(shards).flatten(0, 1).permute(0, 3, 1, 2)
    labels = torch.zeros(len(images), dtype=torch.int64)
    made = InMemoryImages(images, labels, classes=["frame"], title="frames")
    data = MadeImages(
        {"train": made, "test": made}, batch_size=batch_size, seed=seed, crop_scale=None
    )
    frozen = fit(
        out=out,
        data=data,
        encoder=encoder,
        predictor=predictor,
        optimisation=optimisation,
        masks=masks,
        normalize=normalisation(data, None, None),
        name=f"{name} frames",
        seed=seed,
        hardware=hardware,
        resume=True,
    )
    save_pictures(out / "pictures.npz", frozen, data, masks, seed)
    return frozen


def learn_dynamics(
    frozen: FrozenEncoder, shards: list[dict[str, np.ndarray]], dynamics: Dynamics, seed: int
) -> tuple[LatentWorldModel, Float[Tensor, "E T D"]]:
    """The world model, and the latents of all frames."""
    projection = SlowFeatures(
        components=dynamics.components,
        frequencies=dynamics.frequencies,
        principal=dynamics.principal,
    )
    latents = fit_projection(projection, frozen, frames_of(shards))
    actions = torch.from_numpy(np.concatenate([shard["actions"] for shard in shards]))
    scale = actions.square().mean(dim=(0, 1)).sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, "dynamics"))
        model = world_model(frozen, projection, scale, hidden=dynamics.hidden)
    windows = Windows([{"observations": latents, "actions": actions}], length=dynamics.window)
    trainer = Trainer(
        max_steps=dynamics.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[StepProgressBar(refresh_rate=20)],
    )
    training = DynamicsTraining(model.dynamics, learning_rate=dynamics.learning_rate)
    trainer.fit(training, window_loader(windows, batch_size=dynamics.batch_size, seed=seed))
    return model, latents


def position_readout(
    latents: Float[Tensor, "E T D"], shards: list[dict[str, np.ndarray]]
) -> LinearReadout:
    """From latents to the true position, px; for pictures and measurements only."""
    truth = torch.from_numpy(np.concatenate([shard["positions"] for shard in shards]))
    return LinearReadout.fit(latents.flatten(0, 1), truth.flatten(0, 1))


@torch.no_grad()
def horizon_errors(
    model: LatentWorldModel,
    shards: list[dict[str, np.ndarray]],
    readout: LinearReadout,
    most: int = 16,
) -> list[float]:
    """Error of the foreseen position, px, after 1, 2, ... decisions; on episodes not trained on."""
    length = min(most, shards[0]["actions"].shape[1])
    start = torch.from_numpy(np.concatenate([s["observations"][:, 0] for s in shards]))
    actions = torch.from_numpy(np.concatenate([s["actions"][:, :length] for s in shards]))
    truth = np.concatenate([s["positions"][:, 1 : length + 1] for s in shards])
    states = model.rollout(model.encode(start), actions)
    foreseen = readout(states["latent"])
    return (foreseen - torch.from_numpy(truth)).norm(dim=-1).mean(dim=0).tolist()


def save_episode(
    out: Path,
    agent: PlanningAgent,
    env: TwoRoomsVectorEnv,
    model: LatentWorldModel,
    energy: Callable[..., GoalDistance],
    readout: LinearReadout,
    play: Play,
    seed: int,
) -> None:
    """One episode with its plans, and the energy over the first action, for the report."""
    observation, info = env.reset(seed=seeds.derive(seed, "evaluation"))
    agent.reset()
    agent.act(observation)
    images = {key: torch.from_numpy(value[:1]) for key, value in observation.items()}
    landscape = energy_landscape(
        model,
        model.encode(images["observation"]),
        energy(model.encode(images["desired_goal"])),
        agent.plan.actions[:1],
        agent.action_space,
    )
    chosen = agent.plan.actions[0, 0].numpy()
    recording = record(agent, env, max_steps=play.max_steps, seed=seed)
    imagined = readout(recording.imagined["latent"])
    with atomic_path(out / "episode.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            frames=recording.frames,
            goal=recording.goal,
            positions=recording.positions,
            goal_position=info["goal_position"][0],
            imagined=imagined.numpy(),
            energy=landscape[0].numpy(),
            chosen_action=chosen,
            action_low=agent.action_space.low.numpy(),
            action_high=agent.action_space.high.numpy(),
        )


def share(evaluation: Evaluation) -> Measured:
    """Success rate with its Wilson interval."""
    return Measured(**wilson(evaluation.successes, evaluation.episodes)._asdict())


def exactly(value: float) -> Measured:
    """A number without an interval."""
    return Measured(value=float(value), low=float(value), high=float(value))
