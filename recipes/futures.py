"""What cannot be known: a door that opens and shuts at random, foreseen with and without z."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds

from ..datasets.trajectories import Trajectories
from ..datasets.windows import Windows, window_loader
from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.calibration import particle_scores
from ..planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from ..planning.energies import ComposableEnergy
from ..planning.ensemble import Ensemble
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.heads import GaussianHead, OutcomesHead
from ..planning.icem import ICEM
from ..planning.latent_variable import by_free_energy, measure_noise, told
from ..planning.oracle import TrueDynamics, WayToGoal
from ..planning.readout import NearestReadout
from ..planning.stochastic_door import StochasticDoor
from ..planning.training import DynamicsTraining, negative_log_likelihood
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from ..planning.uncertain import Expected
from .control import share
from .door_trials import (
    DoorExperience,
    DoorTrials,
    door_accuracy,
    foreseen,
    imagined,
    misread,
    simulate,
)
from .embedding import Latent
from .futures_pictures import save_futures
from .hardware import Hardware
from .latent import (
    Dynamics,
    Joint,
    Unknown,
    check_windows,
    latents_seen,
    learn_world,
    learnt,
    trainer,
    with_observations,
)
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rooms import approach
from .world import Game, gather, stacked, walks_in


def futures(
    *,
    out: Path,
    world: StochasticDoor = StochasticDoor(),  # noqa: B008
    experience: DoorExperience = DoorExperience(),  # noqa: B008
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(unknown=Unknown()),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    unknown: Unknown = Unknown(),  # noqa: B008
    trials: DoorTrials = DoorTrials(),  # noqa: B008
    planner: ICEM = ICEM(horizon=12, samples=64, iterations=3, std=2.0),  # noqa: B008
    play: Game = Game(),  # noqa: B008
    particles: int = 4,
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "futures",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Foresee what cannot be known with a latent variable, beside a point and a Gaussian.

    Args:
        out: folder of the run; must be empty unless resuming.
        world: two rooms, and a door that opens and shuts at random.
        experience: what is collected.
        latent: size of the embedding.
        joint: training of the embedding together with dynamics.
        dynamics: training of each of the three kinds of dynamics on the final latents.
        unknown: the latent variable of the dynamics; that of the latent's training is `joint`'s.
        trials: dots sent through the door, whose futures are simulated and foreseen.
        planner: for all agents.
        play: the comparison.
        particles: futures of each plan, over which its energy is expected.
        hardware: device, precision and threads of all trainings.
        name: of the recipe, in results.
        seed: of everything but the trials and the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    if dynamics.kind != "mlp":
        raise ValueError(
            f"futures are foreseen by --dynamics.kind=mlp, with three heads; got {dynamics.kind}"
        )
    check_windows(experience, joint, dynamics)
    wish = partial(world.across, repeat=experience.repeat)
    walks_of = walks_in(world, experience, wish, experience.crossing)
    data, held_out = gather(out / "episodes", experience, walks_of, seed)
    point, latents = learn_world(out, data, None, latent, joint, dynamics, hardware, name, seed)
    walks = latents_seen(point.embedding, held_out)
    actions = stacked(held_out, "actions")
    kinds = learn_kinds(out, point, latents, data, dynamics, unknown, hardware, seed)
    positions = stacked(data, "infos.position").flatten(0, 1)
    draws = seeds.generator(0, "readout")
    readout = NearestReadout.of(latents.flatten(0, 1), positions, draws)
    truth = simulate(world, trials, experience.repeat)
    metrics = {f"true/{score}": value for score, value in foreseen(truth.best, truth).items()}
    dreams: dict[str, Tensor] = {}
    for who, kind in kinds.items():
        model = cloud(point, kind, 1 if who == "point" else trials.particles)
        dreams[who] = imagined(model, readout, truth)
        scores = on_walks(model, walks, actions) | foreseen(dreams[who], truth)
        metrics |= {f"{who}/{score}": value for score, value in scores.items()}
    metrics["outcomes/nats"] = exactly(nats(kinds["outcomes"], walks, actions, unknown.information))
    metrics["misread_px"] = exactly(misread(point, readout, truth))
    metrics["door_accuracy"] = exactly(door_accuracy(world, point))
    save_futures(out, truth, dreams)

    env = play.in_world(world)
    space = action_space_of(env.single_action_space)
    parts = {"action_space": space, "repeat": experience.repeat, "seed": seed}

    def played(who: str, agent: Agent, shown: TwoRoomsVectorEnv | TrueState = env) -> Evaluation:
        found = evaluate(agent, shown, max_steps=play.max_steps, seed=play.seed, progress=True)
        print(f"Futures: {who} {found.rate:.2f}", flush=True)
        return found

    near = partial(approach, haste=play.haste)
    models = {who: cloud(point, kind, particles) for who, kind in kinds.items()}
    agents = {
        "point": (point, near),
        "gaussian": (models["gaussian"], partial(expected, near)),
        "outcomes": (models["outcomes"], partial(expected, near)),
        "outcomes_mean": (models["outcomes"], near),  # the distance of the mean of all futures
    }
    for who, (model, energy) in agents.items():
        agent = PlanningAgent(world_model=model, planner=planner, energy=energy, **parts)
        found = played(who, agent)
        metrics[f"{who}/success"] = share(found)
        metrics[f"{who}/steps"] = exactly(found.steps[found.counted].mean())
    true = TrueDynamics(rooms=world, repeat=experience.repeat)
    oracle = PlanningAgent(world_model=true, planner=planner, energy=WayToGoal, **parts)
    chance = RandomAgent(**parts, correlation=experience.correlation)
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics,
        baselines={
            "random_policy/outcomes/success": share(played("random policy", chance)),
            "oracle/outcomes/success": share(played("oracle", oracle, TrueState(env))),
        },
    )
    print_rows(rows_of(result))


def learn_kinds(
    out: Path,
    point: LatentWorldModel,
    latents: Float[Tensor, "E T D"],
    data: Trajectories,
    dynamics: Dynamics,
    unknown: Unknown,
    hardware: Hardware,
    seed: int,
) -> dict[str, ResidualMLP]:
    """Three dynamics of the same size, latents, windows and steps: "point", "gaussian", "outcomes";
    those that are new are kept in `out`."""
    plain = point.dynamics
    assert isinstance(plain, ResidualMLP)
    heads = {"gaussian": GaussianHead, "outcomes": partial(OutcomesHead, values=unknown.values)}
    kinds = {"point": plain}
    windows = Windows(with_observations(data, latents), length=dynamics.window)
    walks = (latents, stacked(data, "actions"))
    for who, head in heads.items():
        with seeds.weights(seed, who):
            scales = Scales(plain.scales.latent, plain.scales.action)
            made = ResidualMLP(scales, **dynamics.size, head=head)

        learn = partial(learn_kind, who, made, windows, walks, dynamics, unknown, hardware, seed)
        kinds[who] = learnt(made, out / f"{who}.safetensors", learn).eval()
    return kinds


def learn_kind(
    who: str,
    made: ResidualMLP,
    windows: Windows,
    walks: tuple[Float[Tensor, "E T D"], Float[Tensor, "E T1 A"]],
    dynamics: Dynamics,
    unknown: Unknown,
    hardware: Hardware,
    seed: int,
) -> None:
    """A Gaussian by its likelihood, outcomes by their free energy."""
    if who == "gaussian":
        way = {"dynamics": made, "error": negative_log_likelihood}
        way |= {"rollout": 0.0, "teacher_forced": 1.0}
    else:
        way = by_free_energy(made, unknown.information)
    loader = window_loader(windows, batch_size=dynamics.batch_size, seed=seed)
    training = DynamicsTraining(**way, learning_rate=dynamics.learning_rate)
    trainer(dynamics.steps, hardware, f"dynamics: {who}").fit(training, loader)
    if who == "outcomes":
        measure_noise(made, *walks, unknown.information)


def cloud(model: LatentWorldModel, dynamics: ResidualMLP, particles: int) -> LatentWorldModel:
    """A world model of so many futures."""
    ensemble = Ensemble([dynamics], particles=particles)
    return LatentWorldModel(embedding=model.embedding, dynamics=ensemble)


def expected(energy: Callable[[TensorDict], ComposableEnergy], goal: TensorDict) -> Expected:
    """The energy of a goal, expected over all futures."""
    return Expected(energy(goal))


@torch.no_grad()
def on_walks(
    model: LatentWorldModel, walks: Float[Tensor, "E T D"], actions: Float[Tensor, "E T1 A"]
) -> dict[str, Measured]:
    """Scores of all numbers of the latent, of held-out walks, after 1, 2, 4 ... decisions."""
    states = model.rollout(model.dynamics.start(walks[:, 0]), actions)
    crps, coverage = particle_scores(states["particles"], walks[:, 1:])
    found = {}
    for h in (2**k for k in range(len(crps).bit_length())):
        found[f"walk_crps_{h}"] = exactly(float(crps[h - 1]))
        found[f"walk_coverage_{h}"] = exactly(float(coverage[h - 1]))
    return found


@torch.no_grad()
def nats(
    dynamics: ResidualMLP,
    walks: Float[Tensor, "E T D"],
    actions: Float[Tensor, "E T1 A"],
    information: float,
) -> float:
    """What z tells of a decision, in the mean."""
    states = dynamics.follow(walks[:, :-1], actions)
    return float(told(states, walks[:, 1:], information).mean())
