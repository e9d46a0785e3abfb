"""Tasks in a simulator, from pixels: collect, pretrain on frames, learn the dynamics, plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from ..datasets.trajectories import Episode
from ..datasets.trajectory_store import TrajectoryWriter
from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.cem import CEM
from ..planning.evaluation import Agent, Evaluation
from ..planning.icem import ICEM
from ..planning.mppi import MPPI
from ..planning.parts import evaluate_parts
from ..planning.pixel_tasks import Pairs, PixelTasks, SeenStates, Simulator, fixed_pairs
from ..planning.protocols import ActionSpace
from ..planning.rewards import RewardModel
from ..planning.simulated import Simulated
from ..probes.intervals import mean_interval, wilson
from .collect import missing
from .control import share
from .embedding import GivenEncoder, Latent, sight
from .frame_pretraining import FramePretraining
from .hardware import Hardware
from .latent import Dynamics, Joint, check_windows, learn_world
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rewards import Reward, check_rewards, learn_reward
from .rooms import approach
from .strips import SHOWN, save_strips
from .world import Episodes, Experience, gather, horizon_errors, position_readout


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How the agents are compared.

    Args:
        episodes: start-goal pairs, the same for all agents.
        haste: weight of the mean distance beside the closest approach.
        seed: of the start-goal pairs; settings were chosen on those of seed 0.
        oracle_episodes: the first so many pairs, for the oracle, which is slow; 0: none.
        part: episodes that are played at once, each part with draws of its own; None: all.
        workers: processes that play parts; above 1 they are Ray's. Results are the same.
        oracle: planner that is given the simulator, and the true distance or reward, with a small
            budget.
    """

    episodes: int = 100
    haste: float = 0.05
    seed: int = 1000
    oracle_episodes: int = 20
    part: int | None = None
    workers: int = 1
    oracle: CEM = CEM(horizon=6, samples=32, iterations=2, elites=6, correlation=0.5)  # noqa: RUF009


def task(
    *,
    out: Path,
    simulator: Simulator,
    pretraining: FramePretraining | None = None,
    encoder: GivenEncoder | None = None,
    experience: Experience = Experience(),  # noqa: B008
    correlation: float = 0.8,
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(kind="second_order"),  # noqa: B008
    dynamics: Dynamics = Dynamics(kind="second_order"),  # noqa: B008
    reward: Reward | None = None,
    planner: CEM | ICEM | MPPI = CEM(),  # noqa: B008
    trials: Trials = Trials(),
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "task",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Reach goal images in a simulator, or gain its rewards: a frozen encoder, or all from pixels.

    Args:
        out: folder of the run; must be empty unless resuming.
        simulator: the task, by its class_path, e.g. jepa.planning.mujoco_tasks.Reacher.
        pretraining: of the encoder that is then frozen, on single frames, without actions; null:
            no encoder, the latent is learnt from pixels together with the dynamics.
        encoder: a frozen encoder that there is already, instead of `pretraining`.
        experience: what is collected by a random policy.
        correlation: of its neighbouring decisions, in [0, 1).
        latent: size of the embedding.
        joint: training of the embedding together with dynamics.
        dynamics: training of the dynamics on the final latents.
        reward: a head that foresees rewards, by which plans are judged; null: they are judged by
            how near they come to the goal image.
        planner: for the world model.
        trials: the comparison.
        hardware: device, precision and threads of both trainings.
        name: of the recipe, in results.
        seed: of everything but the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    plays = plays_in(simulator, experience, correlation)
    check_windows(experience, joint, dynamics)
    if reward is not None:
        experience.check_windows("reward", 1, reward.batch_size)
    seen_by = sight(pretraining, encoder, latent, size=simulator.size, frames=experience.frames)
    data, held_out = gather(out / "episodes", experience, plays, seed)
    if reward is not None:
        check_rewards(data, name)
    model, latents = learn_world(out, data, seen_by, latent, joint, dynamics, hardware, name, seed)
    repeat, space = experience.repeat, action_space_of(simulator.action_space)
    max_steps = -(-simulator.max_steps // repeat)

    def pairs_of(episodes: int) -> Pairs:
        return fixed_pairs(out / f"pairs_{episodes}.npz", simulator, episodes, trials.seed)

    def world_of(pairs: Pairs) -> PixelTasks:
        return PixelTasks(len(pairs.start), simulator=simulator, pairs=pairs, repeat=repeat)

    def played(new: Callable[..., Agent], episodes: int, true: bool = False) -> Evaluation:
        pairs = pairs_of(episodes)
        size = trials.part or episodes

        def part(number: int) -> tuple[Agent, VectorEnv]:
            env = world_of(pairs[number * size : (number + 1) * size])
            agent = new(action_space=space, seed=seed + number)
            return agent, SeenStates(env) if true else env

        print(f"Task: {simulator.name}, {episodes} episodes", flush=True)
        return evaluate_parts(
            part,
            -(-episodes // size),
            max_steps=max_steps,
            seed=trials.seed,
            workers=trials.workers,
        )

    # Processes of Ray's may be where there is no such device.
    device = hardware.device() if trials.workers == 1 else torch.device("cpu")
    energy = true_energy = partial(approach, haste=trials.haste)
    if reward is not None:
        head = learn_reward(out, latents, data, reward, hardware, name, seed)
        learnt = RewardModel(head.to(device))
        true = RewardModel(lambda paid, _: paid, key="reward")
        energy, true_energy = (lambda _: learnt), (lambda _: true)
    model.to(device)

    def agent(*, action_space: ActionSpace, seed: int) -> PlanningAgent:
        return PlanningAgent(
            world_model=model,
            planner=planner,
            energy=energy,
            action_space=action_space.to(device),
            seed=seed,
        )

    ours = played(agent, trials.episodes)
    shown = world_of(pairs_of(trials.episodes)[:SHOWN])
    filmed = agent(action_space=space, seed=seed)
    save_strips(out, filmed, shown, max_steps=max_steps, seed=trials.seed)
    chance = partial(RandomAgent, correlation=correlation)
    baselines = {"random_policy": played(chance, trials.episodes)}
    if trials.oracle_episodes:
        truth = Simulated(simulator=simulator, repeat=repeat)
        oracle = partial(
            PlanningAgent, world_model=truth, planner=trials.oracle, energy=true_energy
        )
        baselines["oracle"] = played(oracle, trials.oracle_episodes, true=True)
    errors = horizon_errors(model.cpu(), held_out, position_readout(latents, data))
    told = [("success", share(ours)), ("return", mean_return(ours))]
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=dict(told if reward is None else reversed(told))
        | {
            "distance": last_distance(ours),
            "position_error": exactly(errors[-1]),
            "excluded": exactly(ours.excluded),
            "plans": exactly(ours.cost.plans),
            "foreseen_states": exactly(ours.cost.transitions),
            "seconds_per_plan": exactly(ours.cost.seconds / max(1, ours.cost.plans)),
        },
        baselines={f"{who}/success": share(found) for who, found in baselines.items()}
        | {f"{who}/return": mean_return(found) for who, found in baselines.items()}
        | {f"{who}/distance": last_distance(found) for who, found in baselines.items()},
    )
    print_rows(rows_of(result))


def plays_in(simulator: Simulator, experience: Experience, correlation: float) -> Episodes:
    """Episodes of a random policy, from random starts; goals are left out."""

    def episodes(writer: TrajectoryWriter, count: int, seed: int, split: str) -> Iterator[Episode]:
        env = PixelTasks(
            writer.shard_episodes,
            simulator=simulator,
            repeat=experience.repeat,
            max_steps=experience.decisions * experience.repeat,
            endless=True,
        )
        policy = partial(
            RandomAgent,
            action_space=action_space_of(simulator.action_space),
            correlation=correlation,
        )
        for episode in missing(
            writer,
            env,
            lambda shard: policy(seed=shard),
            episodes=count,
            infos=["position"],
            draws=(seed, "episodes", split),
        ):
            yield {
                "observations": episode["observations.observation"],
                "actions": episode["actions"],
                "rewards": episode["rewards"].astype(np.float32),
                "infos.position": episode["infos.position"],
            }

    return episodes


def mean_return(evaluation: Evaluation) -> Measured:
    """Mean sum of rewards, of episodes that did not start at their goals; where all sums are 0 or
    1 it is a share, with Wilson's interval."""
    returns = evaluation.returns[evaluation.counted]
    if len(returns) and np.isin(returns, (0, 1)).all():
        return Measured(**wilson(int(returns.sum()), len(returns))._asdict())
    return mean_of(returns)


def last_distance(evaluation: Evaluation) -> Measured:
    """Mean distance from the goal at the end, of episodes that did not start there."""
    return mean_of(evaluation.last["distance"][evaluation.counted].astype(float))


def mean_of(values: np.ndarray) -> Measured:
    """With its interval, where there are several; of none it is not a number."""
    if len(values) < 2:
        return exactly(values[0] if len(values) else np.nan)
    return Measured(**mean_interval(values)._asdict())
