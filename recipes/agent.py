"""The whole agent in a maze: critic, reactive policy and three tasks with one set of weights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from jepa import seeds

from ..planning.actor import Setback
from ..planning.agent import PlanningAgent, RandomAgent, Replanning, action_space_of
from ..planning.autonomous import AutonomousAgent
from ..planning.configurator import Configurator, Task
from ..planning.evaluation import Agent, Evaluation, evaluate
from ..planning.icem import ICEM
from ..planning.intrinsic import CostModule
from ..planning.judged import Disc
from ..planning.maze import Maze
from ..planning.memory import ShortTermMemory
from ..planning.oracle import TrueDynamics
from ..planning.policy import GoalPolicy
from ..planning.readout import LinearReadout
from ..planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from ..probes.intervals import wilson
from .agent_learning import Criticism, Learning, Reacting, remembered
from .agent_pictures import save_pictures
from .agent_tasks import USUAL, Chores, largest, terms
from .embedding import Latent
from .hardware import Hardware
from .latent import Dynamics, Joint, check_windows, learn_world
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rooms import approach
from .world import Experience, Game, gather, horizon_errors, position_readout, walks_in


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
    doubt: float = 0.4


MODES = {
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
    chores: Chores = Chores(),  # noqa: B008
    play: Game = Game(episodes=120, max_steps=160),  # noqa: B008
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
    check_windows(experience, joint, dynamics)
    data, held_out = gather(out / "episodes", experience, walks_in(maze, experience), seed)
    model, latents = learn_world(out, data, None, latent, joint, dynamics, hardware, name, seed)
    model.requires_grad_(False)
    readout = position_readout(latents, data)
    env = play.in_world(maze)
    parts = {"action_space": action_space_of(env.single_action_space)}
    learning = Learning(
        out=out,
        model=model,
        space=parts["action_space"],
        scale=latents.flatten(0, 1).std(dim=0),
        memory=remembered(latents, data, criticism.episodes, seed),
        hardware=hardware,
        seed=seed,
    )
    near = costs.width * float((latents[:, 1:] - latents[:, :-1]).norm(dim=-1).mean())
    shared = Shared(
        learning=learning,
        bare=CostModule(terms=terms(near, chores, readout), discount=costs.discount),
        readout=readout,
        env=env,
        planner=planner,
        chores=chores,
        play=play,
        criticism=criticism,
        doubt=costs.doubt,
        parts=parts | {"repeat": experience.repeat, "seed": seed},
    )
    cost = shared.cost("reach")
    novice, *_, policy = learning.policies(
        partial(cost, weights=USUAL), planner, partial(practise, shared, cost), reacting
    )
    ours, young = (shared.agent(cost, Task(), reacts) for reacts in (policy, novice))
    metrics = dict(compared_plans(shared, cost, replace(planner, horizon=long)))
    metrics |= dict(compared_modes(shared, ours, young))
    chance = RandomAgent(**shared.parts, correlation=experience.correlation)
    told, baselines = compared_tasks(shared, cost, ours, chance, maze)
    few = replace(play, episodes=8).in_world(maze)
    assert cost.critic is not None
    save_pictures(out, ours, cost.critic, maze, chores, few, play.seed)
    errors = horizon_errors(model, held_out, readout)
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics | told | {"position_error_px": exactly(errors[-1])},
        baselines=baselines,
    )
    print_rows(rows_of(result))


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all agents of a run share; fields as in `agent`.

    bare: the cost without a critic.
    env: the world, `play.episodes` copies.
    doubt: see `Costs`.
    parts: of every agent: action space, repeat and seed.
    """

    learning: Learning
    bare: CostModule
    readout: LinearReadout
    env: TwoRoomsVectorEnv
    planner: ICEM
    chores: Chores
    play: Game
    criticism: Criticism
    doubt: float
    parts: dict[str, Any]

    def cost(self, task: str) -> CostModule:
        """With the critic that is made for a task."""
        weights = USUAL | dict(self.chores.tasks(dedicated=True)[task].weights)
        bounds = largest(self.learning.space, self.chores)
        most = sum(weights[term] * bound for term, bound in bounds.items())
        cost = partial(self.bare.intrinsic, weights=weights)
        critic = self.learning.critic(f"critic_{task}", cost, most, self.criticism)
        return replace(self.bare, critic=critic)

    def agent(self, cost: CostModule, task: Task, policy: GoalPolicy | None) -> AutonomousAgent:
        """With a memory for some thousand decisions."""
        doubts = [] if cost.critic is None else [Setback(cost.critic, limit=self.doubt)]
        return AutonomousAgent(
            configurator=Configurator(
                weights=USUAL, planner=self.planner, policy=policy, doubts=doubts
            ),
            cost=cost,
            memory=ShortTermMemory(20_000),
            task=task,
            placed=self.readout,
            world_model=self.learning.model,
            **self.parts,
        )

    def tried(
        self, who: str, agent: Agent, env: VectorEnv | None = None, clear_of: Sequence[Disc] = ()
    ) -> Tried:
        """Plays in the world, or in this one, and says so."""
        shown, play = self.env if env is None else env, self.play
        found = evaluate(agent, shown, max_steps=play.max_steps, seed=play.seed, progress=True)
        ends = [found.first[key] for key in ("position", "goal_position")]
        shut = [disc.depth(end) > 0 for disc in clear_of for end in ends]
        counts = found.counted & ~np.any(shut, axis=0)
        autonomous = isinstance(agent, AutonomousAgent)
        one = Tried(found, counts, agent.planned / found.cost.plans if autonomous else None)
        print(f"Agent: {who} {one.success()['value']:.2f} of {counts.sum()}", flush=True)
        return one


def practise(
    shared: Shared, cost: CostModule, policy: GoalPolicy, count: int, steps: int, seed: int
) -> ShortTermMemory:
    """What is remembered after mode 1 has played so many episodes of so many steps."""
    playing, env = shared.agent(cost, Task(mode="react"), policy), shared.env
    arena = TwoRoomsVectorEnv(count, rooms=env.rooms, radius=env.radius, max_steps=steps)
    evaluate(playing, arena, max_steps=steps, seed=seed, progress=True)
    return playing.memory


def compared_plans(shared: Shared, cost: CostModule, long: ICEM) -> Iterator[tuple[str, Measured]]:
    """A short plan with the critic; long and short ones without; all without mode 1."""
    energy, parts = partial(approach, haste=shared.play.haste), shared.parts
    model = shared.learning.model
    agents: dict[str, Replanning] = {
        f"{who}_blind": PlanningAgent(world_model=model, planner=planner, energy=energy, **parts)
        for who, planner in (("long", long), ("short", shared.planner))
    }
    agents["short_blind_intrinsic"] = shared.agent(cost, Task(trust=0.0), None)
    agents["short_critic"] = shared.agent(cost, Task(), None)
    for who, agent in agents.items():
        yield from shared.tried(who, agent).numbers(who)
    yield from speeds({"long_blind": agents["long_blind"]}, shared.env)


def compared_modes(
    shared: Shared, ours: AutonomousAgent, young: AutonomousAgent
) -> Iterator[tuple[str, Measured]]:
    """Planning, reacting, and the switch between both; ours, and one that is little practised."""
    for who, agent, modes in (("", ours, MODES), ("novice_", young, ("mode_1", "switch"))):
        for mode in modes:
            agent.configure(MODES[mode])
            yield from shared.tried(who + mode, agent).numbers(who + mode)
    for mode in ("mode_1", "mode_2"):
        ours.configure(MODES[mode])
        yield from speeds({mode: ours}, shared.env)


def compared_tasks(
    shared: Shared, cost: CostModule, ours: AutonomousAgent, chance: Agent, maze: Maze
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Ours with one set of weights, and for each task an agent that was made for it alone, one that
    was not told, a random policy and an oracle."""
    chores, found, baselines = shared.chores, {}, {}
    true = TrueDynamics(rooms=maze, repeat=shared.parts["repeat"])
    for which, task in chores.tasks().items():
        clear_of = chores.places if which == "clear" else ()
        judged, own = chores.judged(shared.env, which), chores.tasks(dedicated=True)[which]
        best = PlanningAgent(
            world_model=true,
            planner=ICEM(horizon=6, samples=64, iterations=3),
            energy=partial(chores.oracle, which, maze),
            **shared.parts,
        )
        ours.configure(task)
        found[f"{which}/success"] = shared.tried(f"{which}: ours", ours, judged, clear_of).success()
        for who, agent, env in (
            ("dedicated", shared.agent(shared.cost(which), own, None), judged),
            ("not_told", shared.agent(cost, Task(), None), judged),
            ("random_policy", chance, judged),
            ("oracle", best, chores.judged(TrueState(shared.env), which)),
        ):
            one = shared.tried(f"{which}: {who}", agent, env, clear_of)
            baselines[f"{who}/{which}/success"] = one.success()
    ours.configure(Task(place=goals(shared.env, shared.play)))
    found["place/success"] = shared.tried("place: ours", ours).success()
    return found, baselines


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


def speeds(agents: Mapping[str, Replanning], env: VectorEnv) -> Iterator[tuple[str, Measured]]:
    """Milliseconds of one decision for one of all copies at once, and of these of seeing: the
    fastest of seven, since others may use the machine."""
    observation, _ = env.reset(seed=0)
    images = torch.as_tensor(observation["observation"])
    for who, agent in agents.items():
        deciding, seeing = [], []
        for _ in range(7):
            agent.reset()
            for _ in range(agent.repeat):  # one decision, which sees the goal, too
                agent.act(observation)
            spent = agent.cost.seconds
            agent.act(observation)
            deciding.append(agent.cost.seconds - spent)
            began = time.perf_counter()
            agent.world_model.encode(images)
            seeing.append(time.perf_counter() - began)
        for what, times in (("decision", deciding), ("perception", seeing)):
            yield f"{who}/{what}_milliseconds", exactly(1000 * min(times) / env.num_envs)


def goals(env: TwoRoomsVectorEnv, play: Game) -> Float[Tensor, "B 2"]:
    """Where the goals of the comparison lie, px."""
    _, info = env.reset(seed=seeds.derive(play.seed, "evaluation"))
    return torch.from_numpy(info["goal_position"])
