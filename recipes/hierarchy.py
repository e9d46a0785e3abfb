"""A maze whose far goals a flat planner does not reach: levels learnt, planned with, compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds

from ..datasets.trajectories import Trajectories
from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.dynamics import LatentWorldModel
from ..planning.embedding import latents_of
from ..planning.energies import ComposableEnergy
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.hierarchy import HierarchicalAgent, Level, SeenFromAbove
from ..planning.icem import ICEM
from ..planning.levels import macro_space
from ..planning.maze import Maze
from ..planning.oracle import MazeWay, TrueDynamics
from ..planning.readout import NearestReadout
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from ..probes.intervals import wilson
from .control import share
from .embedding import GivenEncoder, Latent, sight
from .frame_pretraining import FramePretraining
from .hardware import Hardware
from .hierarchy_pictures import save_episode
from .latent import Dynamics, Joint, check_windows, learn_world, with_observations
from .levels import Upper, check_levels, learn_level, risen
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rooms import approach
from .world import Experience, gather, horizon_errors, stacked, walks_in

OURS = "levels"


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How the agents are compared.

    Args:
        ways: limits of the lengths of ways from start to goal, px, in rising order.
        far: from this length on a pair is far; one of the limits.
        episodes: start-goal pairs between each two limits, the same for all agents.
        max_steps: environment steps per episode.
        radius: distance from the goal that counts as success, px.
        haste: weight of the mean distance beside the closest approach, for the lowest level.
        seed: of the start-goal pairs; settings were chosen on those of seed 0.
    """

    ways: Sequence[float] = (5, 30, 60, 90, 120, 150)
    far: float = 60
    episodes: int = 20
    max_steps: int = 480
    radius: float = 1.5
    haste: float = 0.05
    seed: int = 1000

    def __post_init__(self) -> None:
        if list(self.ways) != sorted(set(self.ways)) or self.far not in self.ways[:-1]:
            raise ValueError(
                "expected ways that rise, and `far` one of them but the last; got "
                f"{list(self.ways)} and {self.far}"
            )

    @property
    def limits(self) -> list[tuple[float, float]]:
        """Each shortest and longest way."""
        return list(zip(self.ways[:-1], self.ways[1:], strict=True))

    @property
    def far_alone(self) -> Distances:
        """The same far pairs, and no others."""
        return replace(self, ways=[way for way in self.ways if way >= self.far])


@dataclass(frozen=True)
class Played:
    """Evaluations of an agent by the length of the way, and which of them are of far pairs."""

    parts: list[Evaluation]
    first_far: int

    def success(self) -> Measured:
        """Share of far goals that were reached, with Wilson's interval."""
        far = self.parts[self.first_far :]
        reached, episodes = sum(p.successes for p in far), sum(p.episodes for p in far)
        return Measured(**wilson(reached, episodes)._asdict())

    def calls(self) -> float:
        """States foreseen by dynamics of any level, per decision, of far pairs."""
        far = self.parts[self.first_far :]
        return sum(p.cost.transitions for p in far) / max(1, sum(p.cost.plans for p in far))

    def numbers(self, who: str, play: Distances) -> Iterator[tuple[str, Measured]]:
        """All that is told of the agent."""
        yield f"{who}/success", self.success()
        yield f"{who}/model_calls", exactly(self.calls())
        for (least, most), part in zip(play.limits, self.parts, strict=True):
            yield f"{who}/success_{least:g}_{most:g}", share(part)


@dataclass(frozen=True, kw_only=True)
class Opponents:
    """Agents to compare the hierarchy with, and how often.

    Args:
        flat: planner of actions alone, on the lowest world model.
        budgets: factors of the samples of both, for success of far pairs against compute.
        upper_distance: also play the flat planner with distances as the highest level sees them.
    """

    flat: ICEM = field(default_factory=lambda: ICEM(horizon=32, samples=128, iterations=3, std=2.0))
    budgets: Sequence[float] = ()
    upper_distance: bool = True


def hierarchy(
    *,
    out: Path,
    maze: Maze = Maze(),  # noqa: B008
    pretraining: FramePretraining | None = None,
    encoder: GivenEncoder | None = None,
    experience: Experience = Experience(),  # noqa: B008
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    levels: Sequence[Upper] = (Upper(),),
    planner: ICEM = ICEM(horizon=16, samples=64, iterations=2, std=2.0),  # noqa: B008
    others: Opponents = Opponents(),
    play: Distances = Distances(),
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "hierarchy",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Plan in a maze on several levels, beside a flat planner with the same world model.

    Args:
        out: folder of the run; must be empty unless resuming.
        maze: the world.
        pretraining: as in `rooms`: of a frozen encoder; null: the latent is learnt from pixels.
        encoder: as in `rooms`.
        experience: what is collected.
        latent: of the lowest level.
        joint: training of the lowest level's embedding together with dynamics.
        dynamics: training of its dynamics on the final latents.
        levels: those above it, from low to high.
        planner: of actions, under the other levels.
        others: what the levels are compared with.
        play: the comparison.
        hardware: device, precision and threads of all trainings.
        name: of the recipe, in results.
        seed: of everything but the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    check_windows(experience, joint, dynamics)
    check_levels(experience, levels)
    seen_by = sight(pretraining, encoder, latent, size=maze.size, frames=experience.frames)
    data, held_out = gather(out / "episodes", experience, walks_in(maze, experience), seed)
    model, latents = learn_world(out, data, seen_by, latent, joint, dynamics, hardware, name, seed)
    uppers = learn_levels(out, with_observations(data, latents), levels, hardware, seed)
    space = action_space_of(TwoRoomsVectorEnv(1, rooms=maze).single_action_space)
    parts = {"action_space": space, "repeat": experience.repeat, "seed": seed}
    agents = contestants(model, uppers, levels, planner, others, play, parts)
    found: dict[str, Played] = {}
    pairs = {who: play.far_alone if "_x" in who else play for who in agents}  # _x: a budget
    for who, agent in agents.items():
        found[who] = played(agent, maze, pairs[who])
        words = f"{found[who].success()['value']:.2f}, {found[who].calls():,.0f} calls a decision"
        print(f"Hierarchy: {who} {words}", flush=True)
    chance = RandomAgent(**parts, correlation=experience.correlation)
    true = TrueDynamics(rooms=maze, repeat=experience.repeat)
    short = ICEM(horizon=6, samples=32, iterations=2)  # the length of the way has no valleys
    best = PlanningAgent(world_model=true, planner=short, energy=partial(MazeWay, maze), **parts)
    readouts = readouts_of(data, latents, uppers)
    save_pictures(out, readouts, agents, found[OURS], maze, play)
    errors = horizon_errors(model, held_out, readouts[0])
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics={
            key: number
            for who, agent in found.items()
            for key, number in agent.numbers(who, pairs[who])
        }
        | {"position_error_px": exactly(errors[-1])},
        baselines={
            f"{who}/{OURS}/success": played(agent, maze, play, truth=truth).success()
            for who, agent, truth in (("random_policy", chance, False), ("oracle", best, True))
        },
    )
    print_rows(rows_of(result))


def contestants(
    model: LatentWorldModel,
    uppers: Sequence[LatentWorldModel],
    levels: Sequence[Upper],
    planner: ICEM,
    others: Opponents,
    play: Distances,
    parts: Mapping[str, Any],
) -> dict[str, Agent]:
    """The agents by name; `parts` are what every one of them is told."""
    near, far = (partial(approach, haste=haste) for haste in (play.haste, levels[-1].haste))
    space = parts["action_space"]

    def alone(factor: float = 1.0) -> PlanningAgent:
        flat = fewer(others.flat, factor)
        return PlanningAgent(world_model=model, planner=flat, energy=near, **parts)

    def together(factor: float = 1.0) -> HierarchicalAgent:
        lowest = Level(
            world_model=model, planner=fewer(planner, factor), action_space=space, energy=near
        )
        above = [
            Level(
                world_model=world,
                planner=fewer(upper.planner, factor),
                action_space=macro_space(upper.macro, upper.most),
                energy=partial(approach, haste=upper.haste),
                rhythm=upper.rhythm,
            )
            for upper, world in zip(levels, uppers, strict=True)
        ]
        return HierarchicalAgent([lowest, *above], repeat=parts["repeat"], seed=parts["seed"])

    agents: dict[str, Agent] = {OURS: together(), "flat": alone()}
    for factor in others.budgets:
        agents |= {f"{OURS}_x{factor:g}": together(factor), f"flat_x{factor:g}": alone(factor)}
    if others.upper_distance:
        agents["flat_upper_distance"] = PlanningAgent(
            world_model=model, planner=others.flat, energy=partial(seen_from, uppers, far), **parts
        )
    return agents


def learn_levels(
    out: Path, below: Trajectories, levels: Sequence[Upper], hardware: Hardware, seed: int
) -> list[LatentWorldModel]:
    """The world models above the lowest one, whose latents are the observations of `below`."""
    models = []
    for number, upper in enumerate(levels, start=2):
        model, macro = learn_level(out, number, below, upper, hardware, seed)
        models.append(model)
        if number <= len(levels):  # there is one more to learn
            below = risen(below, model, macro, upper.stride)
    return models


def fewer(planner: ICEM, factor: float) -> ICEM:
    """The planner with another number of samples."""
    samples = max(planner.elites, round(factor * planner.samples))
    return replace(planner, samples=samples)


def seen_from(
    uppers: Sequence[LatentWorldModel],
    energy: Callable[[TensorDict], ComposableEnergy],
    goal: TensorDict,
) -> ComposableEnergy:
    """The energy of a goal as the highest level sees it, for states of the lowest."""
    first, *higher = uppers
    above = first.encode(goal["latent"])
    inner = seen_from(higher, energy, above) if higher else energy(above)
    return SeenFromAbove(first, inner)


def played(agent: Agent, maze: Maze, play: Distances, *, truth: bool = False) -> Played:
    """Episodes of all lengths of ways."""
    parts = []
    for least, most in play.limits:
        env: VectorEnv = arena(maze, play, least, most)
        env = TrueState(env) if truth else env
        parts.append(evaluate(agent, env, max_steps=play.max_steps, seed=play.seed, progress=True))
    return Played(parts, [least for least, _ in play.limits].index(play.far))


def arena(maze: Maze, play: Distances, least: float, most: float) -> TwoRoomsVectorEnv:
    """Pairs whose way is so long; a goal is reached as near as half the corridor is wide."""
    return TwoRoomsVectorEnv(
        play.episodes,
        rooms=replace(maze, least=least, most=most),
        radius=play.radius,
        max_steps=play.max_steps,
    )


def readouts_of(
    data: Trajectories, latents: Float[Tensor, "E T D"], uppers: Sequence[LatentWorldModel]
) -> list[NearestReadout]:
    """From the latents of each level to positions, px; for measurements and pictures only."""
    truth, each = stacked(data, "infos.position").flatten(0, 1), [latents.flatten(0, 1)]
    for upper in uppers:
        each.append(latents_of(upper.embedding, each[-1], batch=8192))
    return [NearestReadout.of(level, truth, seeds.generator(0, "readout")) for level in each]


def save_pictures(
    out: Path,
    readouts: Sequence[NearestReadout],
    agents: Mapping[str, Agent],
    ours: Played,
    maze: Maze,
    play: Distances,
) -> None:
    """Of the longest episode that ours succeeded in, among the pairs with the longest ways."""
    number = max(i for i, part in enumerate(ours.parts) if part.successes or i == 0)
    episode = int((ours.parts[number].steps * ours.parts[number].success).argmax())
    levels, flat = agents[OURS], agents["flat"]
    assert isinstance(levels, HierarchicalAgent)
    env = arena(maze, play, *play.limits[number])
    save_episode(out, levels, flat, env, readouts, episode, play.max_steps, play.seed)
