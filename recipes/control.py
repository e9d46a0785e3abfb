"""Control with a frozen encoder: collect, pretrain on frames, learn the dynamics, plan."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from gymnasium.vector import VectorEnv

from jepa import seeds

from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.cem import CEM
from ..planning.energies import GoalDistance
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.gradient import GradientPlanner
from ..planning.icem import ICEM
from ..planning.mppi import MPPI
from ..planning.oracle import TrueDynamics, WayToGoal
from ..planning.two_rooms import TwoRooms
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from ..probes.features import random_encoder
from ..probes.intervals import wilson
from .frame_pretraining import FramePretraining, pretrained_on_frames
from .hardware import Hardware
from .latent import Dynamics, Slow, learn_dynamics, new_world_model, slow_embedding
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .world import (
    Experience,
    gather,
    horizon_errors,
    position_readout,
    save_episode,
    stacked,
    walks_in,
)


@dataclass(frozen=True, kw_only=True)
class Play:
    """How the agents are compared.

    Args:
        episodes: start-goal pairs in different rooms, the same for all agents.
        max_steps: environment steps per episode.
        energy: distance to the goal at the `last` step of a plan, or the mean over `all`.
        seed: of the start-goal pairs; settings were chosen on those of seed 0.
    """

    episodes: int = 100
    max_steps: int = 200
    energy: Literal["last", "all"] = "all"
    seed: int = 1000


FLOAT32 = Hardware(accelerator="cpu", precision="float32")


def control(
    *,
    out: Path,
    pretraining: FramePretraining,
    rooms: TwoRooms = TwoRooms(),  # noqa: B008
    experience: Experience = Experience(),  # noqa: B008
    slow: Slow = Slow(),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    planner: CEM | ICEM | MPPI | GradientPlanner = CEM(),  # noqa: B008
    play: Play = Play(),
    name: str = "two_rooms",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Plan in TwoRooms with a frozen encoder, beside a random policy and an oracle.

    Args:
        out: folder of the run; must be empty unless resuming.
        pretraining: of the encoder, on single frames of many layouts, without actions.
        rooms: the world.
        experience: what is collected.
        slow: the latent, fitted on frames in their order, without actions.
        dynamics: of the latent, and their training.
        planner: for the latent models and for the oracle; another one than CEM is named by its
            class_path, e.g. --planner=ICEM.
        play: the comparison.
        name: of the recipe, in results.
        seed: of everything.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    experience.check_windows("dynamics", dynamics.window, dynamics.batch_size)
    print("Control: collecting episodes", flush=True)
    many_layouts = replace(rooms, random_layout=True)
    views, _ = gather(
        out / "views", experience, walks_in(many_layouts, experience), seeds.derive(seed, "views")
    )
    frames = stacked(views, "observations").flatten(0, 1).permute(0, 3, 1, 2)
    frozen = pretrained_on_frames(frames, out / "encoder", pretraining, f"{name} frames", seed)
    data, held_out = gather(out / "episodes", experience, walks_in(rooms, experience), seed)
    env = TwoRoomsVectorEnv(play.episodes, rooms=rooms, max_steps=play.max_steps)
    space = action_space_of(env.single_action_space)
    repeat = experience.repeat
    parts = {"planner": planner, "action_space": space, "repeat": repeat, "seed": seed}
    energy = partial(GoalDistance, steps=play.energy)

    def played(agent: Agent, world: VectorEnv = env) -> Evaluation:
        return evaluate(agent, world, max_steps=play.max_steps, seed=play.seed, progress=True)

    rates = {}
    for which, some in (("random_encoder/", random_encoder(frozen, seed)), ("", frozen)):
        print(f"Control: dynamics on {some.name}, then {play.episodes} episodes", flush=True)
        embedding, latents = slow_embedding(some, data, slow)
        model = new_world_model(embedding, latents, data, dynamics, seed)
        learn_dynamics(model, latents, data, dynamics, FLOAT32, some.name, seed)
        agent = PlanningAgent(world_model=model, energy=energy, **parts)
        ours = rates[which] = played(agent)
    readout = position_readout(latents, data)
    errors = horizon_errors(model, held_out, readout)
    longest = int((ours.steps * ours.success).argmax())
    save_episode(out, agent, env, model, energy, readout, longest, play.max_steps, play.seed)
    (out / "dynamics.json").write_text(json.dumps({"horizon_error": errors}))

    print("Control: random policy and oracle", flush=True)
    rates["random_policy/"] = played(RandomAgent(action_space=space, repeat=repeat, seed=seed))
    oracle = PlanningAgent(
        world_model=TrueDynamics(rooms=rooms, repeat=repeat),
        energy=WayToGoal,
        **parts,
    )
    rates["oracle/"] = played(oracle, TrueState(env))
    metrics = {
        "two_rooms_success": share(rates.pop("")),
        "two_rooms_position_error_px": exactly(errors[-1]),
        "two_rooms_excluded": exactly(ours.excluded),
    }
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics,
        baselines={f"{who}two_rooms_success": share(rate) for who, rate in rates.items()},
    )
    print_rows(rows_of(result))


def share(evaluation: Evaluation) -> Measured:
    """Success rate with its Wilson interval; not a number without episodes."""
    if not evaluation.episodes:
        return exactly(evaluation.rate)
    return Measured(**wilson(evaluation.successes, evaluation.episodes)._asdict())
