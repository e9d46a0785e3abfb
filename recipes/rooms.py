"""TwoRooms with its wall and door elsewhere in every episode: a world model, learnt and played."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict

from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.bfloat16 import Bfloat16
from ..planning.cem import CEM
from ..planning.energies import ComposableEnergy, GoalDistance
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.icem import ICEM
from ..planning.mppi import MPPI
from ..planning.oracle import TrueDynamics, WayToGoal
from ..planning.two_rooms import TwoRooms
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from .control import share
from .embedding import GivenEncoder, Latent, sight
from .frame_pretraining import FramePretraining
from .hardware import Hardware
from .latent import Dynamics, Joint, check_windows, learn_world
from .probe import print_rows
from .results import exactly, rows_of, write_result
from .strips import SHOWN, save_strips
from .world import Experience, gather, horizon_errors, position_readout, walks_in


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How the agents are compared.

    Args:
        episodes: start-goal pairs in different rooms, the same for all agents.
        max_steps: environment steps per episode.
        energies: by which plans are judged, each for all episodes: "approach" how near a plan comes
            to the goal; the distance at "all" steps, in the mean, or at the "last" one.
        haste: weight of the mean distance beside the closest approach.
        seed: of the layouts and start-goal pairs; settings were chosen on those of seed 0.
    """

    episodes: int = 100
    max_steps: int = 200
    energies: Sequence[Literal["approach", "all", "last"]] = ("approach",)
    haste: float = 0.05
    seed: int = 1000


def rooms(
    *,
    out: Path,
    pretraining: FramePretraining | None = None,
    encoder: GivenEncoder | None = None,
    experience: Experience = Experience(),  # noqa: B008
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    planner: CEM | ICEM | MPPI = CEM(),  # noqa: B008
    play: Rounds = Rounds(),
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "rooms",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Plan in TwoRooms with random walls and doors: a frozen encoder, or all learnt end to end.

    Args:
        out: folder of the run; must be empty unless resuming.
        pretraining: of the encoder that is then frozen, on single frames, without actions; null:
            no encoder, the latent is learnt from pixels together with the dynamics.
        encoder: a frozen encoder that there is already, instead of `pretraining`.
        experience: what is collected.
        latent: size of the embedding.
        joint: training of the embedding together with dynamics.
        dynamics: training of the dynamics on the final latents.
        planner: for the world model and for the oracle.
        play: the comparison.
        hardware: device, precision and threads of both trainings.
        name: of the recipe, in results.
        seed: of everything but the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    world = TwoRooms(random_layout=True)
    check_windows(experience, joint, dynamics)
    seen_by = sight(pretraining, encoder, latent, size=world.size, frames=experience.frames)
    data, held_out = gather(out / "episodes", experience, walks_in(world, experience), seed)
    model, latents = learn_world(out, data, seen_by, latent, joint, dynamics, hardware, name, seed)
    env = TwoRoomsVectorEnv(play.episodes, rooms=world, max_steps=play.max_steps)
    device, space = hardware.device(), action_space_of(env.single_action_space)
    parts = {"planner": planner, "repeat": experience.repeat, "seed": seed}

    def played(agent: Agent, shown: VectorEnv = env) -> Evaluation:
        return evaluate(agent, shown, max_steps=play.max_steps, seed=play.seed, progress=True)

    fast = hardware.lightning_precision() == "bf16-mixed"
    planned = Bfloat16(model.to(device)) if fast else model.to(device)
    energies = {
        "approach": partial(approach, haste=play.haste),
        "all": partial(GoalDistance, steps="all"),
        "last": partial(GoalDistance, steps="last"),
    }
    agents = {
        which: PlanningAgent(
            world_model=planned, energy=energies[which], action_space=space.to(device), **parts
        )
        for which in play.energies
    }
    found = {}
    for which, agent in agents.items():
        print(f"Rooms: {play.episodes} episodes, energy: {which}", flush=True)
        found["success" if which == "approach" else f"success_{which}"] = played(agent)
    shown = TwoRoomsVectorEnv(SHOWN, rooms=world, max_steps=play.max_steps)
    first = next(iter(agents.values()))
    save_strips(out, first, shown, max_steps=play.max_steps, seed=play.seed)
    oracle = TrueDynamics(rooms=world, repeat=experience.repeat)
    baselines = {
        "random_policy/success": played(
            RandomAgent(action_space=space, repeat=experience.repeat, seed=seed)
        ),
        "oracle/success": played(
            PlanningAgent(world_model=oracle, energy=WayToGoal, action_space=space, **parts),
            TrueState(env),
        ),
    }
    errors = horizon_errors(model.cpu(), held_out, position_readout(latents, data))
    (excluded,) = {evaluation.excluded for evaluation in found.values()}
    metrics = {metric: share(evaluation) for metric, evaluation in found.items()} | {
        "position_error_px": exactly(errors[-1]),
        "excluded": exactly(excluded),
    }
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics,
        baselines={who: share(rate) for who, rate in baselines.items()},
    )
    print_rows(rows_of(result))


def approach(goal: TensorDict, *, haste: float) -> ComposableEnergy:
    """How near the plan comes to the goal, and a little of how long it stays away."""
    return GoalDistance(goal, steps="closest") + haste * GoalDistance(goal, steps="all")
