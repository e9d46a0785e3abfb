"""The whole agent in a maze: critic, reactive policy and three tasks with one set of weights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds

from ..planning.actor import Setback
from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.autonomous import AutonomousAgent
from ..planning.configurator import Configurator, Task
from ..planning.energies import ActionEffort, ComposableEnergy
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.icem import ICEM
from ..planning.intrinsic import Away, Boundary, CostModule, Effort, IntrinsicCost, Term
from ..planning.judged import Disc, Judged
from ..planning.maze import Maze
from ..planning.memory import ShortTermMemory
from ..planning.oracle import MazeWay, TrueDynamics
from ..planning.policy import GoalPolicy
from ..planning.protocols import ActionSpace
from ..planning.readout import LinearReadout
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from ..probes.intervals import wilson
from .agent_learning import Criticism, Learning, Reacting, remembered
from .embedding import Latent
from .fit import Hardware
from .latent import Dynamics, Joint, learn_world
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rooms import approach
from .world import Experience, gather, horizon_errors, position_readout, walks_in


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The intrinsic cost of a step.

    Args:
        width: the distance from the goal that counts as near, in mean changes of the latent by one
            decision.
        discount: per decision.
        doubt: mode 1 is in doubt where its action costs so much more than the critic promised.
    """

    width: float = 0.5
    discount: float = 0.97
    doubt: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How the agents are compared.

    Args:
        episodes: start-goal pairs, the same for all agents.
        max_steps: environment steps per episode.
        radius: distance from the goal that counts as success, px.
        haste: weight of the mean distance beside the closest approach, without a critic.
        seed: of the start-goal pairs; settings were chosen on those of seed 0.
    """

    episodes: int = 150
    max_steps: int = 160
    radius: float = 1.5
    haste: float = 0.05
    seed: int = 1000


@dataclass(frozen=True, kw_only=True)
class Chores:
    """Three tasks: "reach" a goal image; "sparing", with little effort; "clear" of some places.

    Args:
        most_effort: that counts as little, px^2.
        effort: weight of the effort then.
        discs: the places.
        margin: distance from them that is cared for, px.
        wall: weight of each px inside of them and their margins.
    """

    most_effort: float = 30.0
    effort: float = 1.0
    discs: Sequence[Disc] = (Disc(x=10.5, y=14.0, radius=3.0), Disc(x=21.5, y=14.0, radius=3.0))
    margin: float = 1.5
    wall: float = 2.0

    def tasks(self) -> dict[str, Task]:
        """As the agent is told them."""
        return {
            "reach": Task(),
            "sparing": Task(weights={"effort": self.effort}),
            "clear": Task(weights={"wall": self.wall}),
        }

    def judged(self, env: VectorEnv, task: str) -> Judged:
        """The world that knows what is success."""
        return Judged(
            env,
            effort=self.most_effort if task == "sparing" else None,
            discs=self.discs if task == "clear" else (),
        )

    def depth(self, positions: Float[Tensor, "*S 2"]) -> Float[Tensor, "*S"]:
        """How deep places are in the discs and their margins, px; at most 0 outside."""
        each = [replace(disc, radius=disc.radius + self.margin) for disc in self.discs]
        return torch.stack([disc.depth(positions) for disc in each]).amax(dim=0)

    def oracle(self, task: str, maze: Maze, goal: TensorDict) -> ComposableEnergy:
        """What a planner minimises that knows the truth: the way, and what the task minds."""
        way = MazeWay(maze, goal)
        if task == "sparing":
            return way + 10.0 * ActionEffort()
        if task == "clear":
            inside = Boundary(lambda states: self.depth(states["position"]))
            return way + 10.0 * IntrinsicCost(terms={"wall": inside}, weights={"wall": 1.0})
        return way


USUAL = {"goal": 1.0, "effort": 0.0, "wall": 0.0}
MODES = {
    "short_blind_intrinsic": Task(trust=0.0),
    "mode_2": Task(),
    "mode_1": Task(mode="react"),
    "switch": Task(mode="switch"),
}


def agent(
    *,
    out: Path,
    maze: Maze = Maze(),  # noqa: B008
    experience: Experience = Experience(),  # noqa: B008
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    costs: Costs = Costs(),
    criticism: Criticism = Criticism(),  # noqa: B008
    reacting: Reacting = Reacting(),  # noqa: B008
    planner: ICEM = ICEM(horizon=5, samples=128, iterations=3, std=2.0),  # noqa: B008
    long: int = 15,
    chores: Chores = Chores(),
    play: Trials = Trials(),
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "agent",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """The architecture of LeCun 2022 in a maze: critic, memory, two modes, several tasks.

    Args:
        out: folder of the run; must be empty unless resuming.
        maze: the world.
        experience: what is collected.
        latent: size of the embedding.
        joint: training of the embedding together with dynamics.
        dynamics: training of the dynamics on the final latents.
        costs: the intrinsic cost.
        criticism: the critic.
        reacting: mode 1.
        planner: of mode 2; short, since the critic sees further.
        long: horizon of the planner that has no critic.
        chores: tasks beside the reaching of a goal image.
        play: the comparison.
        hardware: device, precision and threads of all trainings.
        name: of the recipe, in results.
        seed: of everything but the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    data, held_out = gather(out / "episodes", experience, walks_in(maze, experience), seed)
    model, latents = learn_world(out, data, None, latent, joint, dynamics, hardware, name, seed)
    model.requires_grad_(False)
    env = TwoRoomsVectorEnv(play.episodes, rooms=maze, radius=play.radius, max_steps=play.max_steps)
    space, readout = action_space_of(env.single_action_space), position_readout(latents, data)
    learning = Learning(
        out=out,
        model=model,
        space=space,
        scale=latents.flatten(0, 1).std(dim=0),
        memory=remembered(latents, data, criticism.episodes, seed),
        hardware=hardware,
        seed=seed,
    )
    near = costs.width * float((latents[:, 1:] - latents[:, :-1]).norm(dim=-1).mean())
    bare = CostModule(terms=terms(near, chores, readout), discount=costs.discount)
    tasks = chores.tasks()

    def criticised(task: str) -> CostModule:
        """The cost with the critic of a task."""
        weights = USUAL | dict(tasks[task].weights)
        most = sum(weights[term] * most for term, most in largest(space, chores).items())
        cost = partial(bare.intrinsic, weights=weights)
        return replace(bare, critic=learning.critic(f"critic_{task}", cost, most, criticism))

    def made(cost: CostModule, task: Task, policy: GoalPolicy | None, rows: int) -> AutonomousAgent:
        assert cost.critic is not None
        return AutonomousAgent(
            configurator=Configurator(
                weights=USUAL,
                planner=planner,
                policy=policy,
                doubts=[Setback(cost.critic, limit=costs.doubt)],
            ),
            cost=cost,
            memory=ShortTermMemory(rows),
            task=task,
            placed=readout,
            world_model=model,
            **parts,
        )

    parts = {"action_space": space, "repeat": experience.repeat, "seed": seed}
    cost = criticised("reach")

    def practise(policy: GoalPolicy, count: int, steps: int, seed: int) -> ShortTermMemory:
        """What is remembered after mode 1 has played."""
        playing = made(cost, Task(mode="react"), policy, count * steps)
        arena = TwoRoomsVectorEnv(count, rooms=maze, radius=play.radius, max_steps=steps)
        evaluate(playing, arena, max_steps=steps, seed=seed)
        return playing.memory

    policy = learning.policy(partial(cost, weights=USUAL), planner, practise, reacting)
    ours = made(cost, tasks["reach"], policy, play.episodes * play.max_steps)
    far = replace(planner, horizon=long)
    blind = {
        who: PlanningAgent(
            world_model=model, planner=which, energy=partial(approach, haste=play.haste), **parts
        )
        for who, which in (("long_blind", far), ("short_blind", planner))
    }
    trial = partial(tried, play=play, env=env)
    found: dict[str, Tried] = {who: trial(who, agent) for who, agent in blind.items()}
    for who, task in MODES.items():
        ours.configure(task)
        found[who] = trial(who, ours)
    metrics = {
        key: number for who, one in found.items() for key, number in one.numbers(who)
    } | speeds(ours, blind["long_blind"], env)
    chance = RandomAgent(**parts, correlation=experience.correlation)
    true = TrueDynamics(rooms=maze, repeat=experience.repeat)
    baselines = {}
    for which, task in tasks.items():
        judged = chores.judged(env, which)
        alone = made(criticised(which), task, None, play.episodes * play.max_steps)
        ours.configure(task)
        usual = made(cost, tasks["reach"], None, play.episodes * play.max_steps)
        best = PlanningAgent(
            world_model=true,
            planner=ICEM(horizon=6, samples=64, iterations=3),
            energy=partial(chores.oracle, which, maze),
            **parts,
        )
        trial = partial(tried, play=play, clear_of=chores.discs if which == "clear" else ())
        metrics[f"{which}/success"] = trial(f"{which}: ours", ours, env=judged).success()
        for who, other, shown in (
            ("dedicated", alone, judged),
            ("not_configured", usual, judged),
            ("random_policy", chance, judged),
            ("oracle", best, chores.judged(TrueState(env), which)),
        ):
            number = trial(f"{which}: {who}", other, env=shown).success()
            baselines[f"{who}/{which}/success"] = number
    ours.configure(Task(place=goals(env, play)))
    metrics["place/success"] = tried("place: ours", ours, play=play, env=env).success()
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics
        | {"position_error_px": exactly(horizon_errors(model, held_out, readout)[-1])},
        baselines=baselines,
    )
    print_rows(rows_of(result))


@dataclass(frozen=True)
class Tried:
    """An evaluation, and what of it counts.

    counts: [B] episodes that neither start at the goal nor start or end in a forbidden place.
    planned: share of the decisions that mode 2 made; None: the agent has no modes.
    """

    evaluation: Evaluation
    counts: np.ndarray
    planned: float | None

    def success(self) -> Measured:
        """With Wilson's interval."""
        reached = self.evaluation.success & self.counts
        return Measured(**wilson(int(reached.sum()), int(self.counts.sum()))._asdict())

    def numbers(self, who: str) -> Iterator[tuple[str, Measured]]:
        """All that is told."""
        cost, steps = self.evaluation.cost, self.evaluation.steps[self.counts]
        yield f"{who}/success", self.success()
        yield f"{who}/steps", exactly(float(steps.mean()))
        yield f"{who}/model_calls", exactly(cost.transitions / max(1, cost.plans))
        yield f"{who}/milliseconds", exactly(1000 * cost.seconds / max(1, cost.plans))
        if self.planned is not None:
            yield f"{who}/planned", exactly(self.planned)


def tried(
    who: str,
    agent: Agent,
    *,
    play: Trials,
    env: VectorEnv,
    clear_of: Sequence[Disc] = (),
) -> Tried:
    """Plays, and says so."""
    found = evaluate(agent, env, max_steps=play.max_steps, seed=play.seed)
    ends = [found.first[key] for key in ("position", "goal_position")]
    shut = [disc.depth(end) > 0 for disc in clear_of for end in ends]
    counts = found.counted & ~np.any([~found.counted, *shut], axis=0)
    autonomous = isinstance(agent, AutonomousAgent)
    planned = agent.planned / max(1, found.cost.plans) if autonomous else None
    one = Tried(found, counts, planned)
    print(f"Agent: {who} {one.success()['value']:.2f} of {counts.sum()}", flush=True)
    return one


def speeds(ours: AutonomousAgent, long: PlanningAgent, env: VectorEnv) -> dict[str, Measured]:
    """Milliseconds of one decision for one of all copies at once, the fastest of five, in turns:
    others may use the machine."""
    observation, _ = env.reset(seed=0)
    found: dict[str, list[float]] = {}
    for _ in range(5):
        for who, agent in (("long_blind", long), ("mode_1", ours), ("mode_2", ours)):
            if agent is ours:
                ours.configure(MODES[who])
            agent.reset()
            agent.act(observation)
            found.setdefault(who, []).append(1000 * agent.cost.seconds / env.num_envs)
    return {f"{who}/fastest_milliseconds": exactly(min(times)) for who, times in found.items()}


def goals(env: TwoRoomsVectorEnv, play: Trials) -> Float[Tensor, "B 2"]:
    """Where the goals of the comparison lie, px."""
    _, info = env.reset(seed=seeds.derive(play.seed, "evaluation"))
    return torch.from_numpy(info["goal_position"])


def terms(near: float, chores: Chores, readout: LinearReadout) -> dict[str, Term]:
    """The intrinsic cost of all tasks."""

    def deep(states: TensorDict) -> Tensor:
        return chores.depth(readout(states["latent"]))

    return {
        "goal": partial(Away, width=near),
        "effort": lambda goal: Effort(),
        "wall": lambda goal: Boundary(deep),
    }


def largest(space: ActionSpace, chores: Chores) -> dict[str, float]:
    """The most that each term can cost in one step."""
    corner = space.low.abs().maximum(space.high.abs())
    deepest = max(disc.radius for disc in chores.discs) + chores.margin
    return {"goal": 1.0, "effort": float(corner.square().sum()), "wall": deepest}
