"""Adaptation: the world changes, new experience updates the dynamics; is the old one lost?"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from jepa import seeds

from ..datasets.trajectories import EpisodeArrays, Trajectories
from ..datasets.windows import Windows, window_loader
from ..planning.agent import PlanningAgent, RandomAgent, action_space_of
from ..planning.changed_rooms import ChangedRooms
from ..planning.dynamics import Dynamics as LatentDynamics
from ..planning.dynamics import LatentWorldModel
from ..planning.evaluation import Evaluation, evaluate
from ..planning.icem import ICEM
from ..planning.identified import Identified
from ..planning.readout import LinearReadout
from ..planning.training import DynamicsTraining
from ..planning.two_rooms import TwoRooms
from ..planning.two_rooms_env import Rooms
from .control import share
from .embedding import Latent
from .hardware import Hardware
from .latent import Dynamics, Joint, check_windows, latents_seen, learn_world, learnt, trainer
from .probe import print_rows
from .results import Measured, exactly, rows_of, write_result
from .rooms import approach
from .world import Experience, Game, gather, stacked, walks_in

HISTORY, AHEAD = 4, 8  # decisions that are known, and foreseen, where errors are measured


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happens to the world; see `ChangedRooms`.

    Args:
        door: how far the door moves, px.
        gain: factor of all actions.
        drift: what is added to every step, (x, y), px.
    """

    door: float = 0.0
    gain: float = 1.0
    drift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """How dynamics adapt.

    Args:
        episodes: new ones, of a random policy in the changed world.
        replayed: old ones among them, in training with replay.
        steps: optimiser steps.
        batch_size: windows per step.
        learning_rate: highest.
        forget: of `Identified`.
    """

    episodes: int = 200
    replayed: int = 200
    steps: int = 600
    batch_size: int = 128
    learning_rate: float = 1e-3
    forget: float = 0.8


@dataclass(frozen=True)
class Lived:
    """Episodes of a world: latents [E, T + 1, D], actions [E, T, A], true positions, px."""

    latents: Tensor
    actions: Tensor
    positions: Tensor

    def first(self, count: int) -> Lived:
        """So many of the episodes."""
        return Lived(self.latents[:count], self.actions[:count], self.positions[:count])

    def together(self, other: Lived) -> Lived:
        """These and others."""
        parts = zip(vars(self).values(), vars(other).values(), strict=True)
        return Lived(*(torch.cat(pair) for pair in parts))

    def windows(self, length: int) -> Windows:
        """To train on."""
        count, steps, _ = self.actions.shape
        fields = {"observations": self.latents, "actions": self.actions}
        arrays = {name: field.flatten(0, 1).numpy() for name, field in fields.items()}
        return Windows(EpisodeArrays(torch.full((count,), steps).numpy(), arrays), length=length)


def adapt(
    *,
    out: Path,
    rooms: TwoRooms = TwoRooms(),  # noqa: B008
    changes: dict[str, Change],
    experience: Experience = Experience(),  # noqa: B008
    latent: Latent = Latent(),  # noqa: B008
    joint: Joint = Joint(),  # noqa: B008
    dynamics: Dynamics = Dynamics(),  # noqa: B008
    relearning: Relearning = Relearning(),
    planner: ICEM = ICEM(horizon=12, samples=64, iterations=3, std=2.0),  # noqa: B008
    play: Game = Game(),  # noqa: B008
    hardware: Hardware = Hardware(),  # noqa: B008
    name: str = "adaptation",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Adapt dynamics to a changed world, with and without replay of the old one; play in both.

    Args:
        out: folder of the run; must be empty unless resuming.
        rooms: the world before.
        changes: what happens to it, each by itself, by name.
        experience: what is collected before.
        latent: size of the embedding, which does not adapt.
        joint: training of the embedding together with dynamics.
        dynamics: training of the dynamics on the final latents.
        relearning: how they adapt.
        planner: for all agents.
        play: the comparison.
        hardware: device, precision and threads of all trainings.
        name: of the recipe, in results.
        seed: of everything but the start-goal pairs.
        resume: go on with the run in `out`; finished parts are kept.
    """
    began = time.monotonic()
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    check_windows(experience, joint, dynamics)
    experience.check_windows("errors", HISTORY + 1, 1)
    some = replace(experience, episodes=relearning.episodes)
    some.check_windows("relearning", dynamics.window, relearning.batch_size)
    data, held_out = gather(out / "episodes", experience, walks_in(rooms, experience), seed)
    model, latents = learn_world(out, data, None, latent, joint, dynamics, hardware, name, seed)
    old = Lived(latents, stacked(data, "actions"), stacked(data, "infos.position"))
    old_test = lived(model, held_out)
    read = readout_of(old)
    space = action_space_of(play.in_world(rooms).single_action_space)
    parts = {"action_space": space, "repeat": experience.repeat, "seed": seed}
    metrics: dict[str, Measured] = {}

    def played(now: LatentDynamics, world: Rooms, what: str) -> None:
        there = LatentWorldModel(embedding=model.embedding, dynamics=now)
        energy = partial(approach, haste=play.haste)
        agent = PlanningAgent(world_model=there, planner=planner, energy=energy, **parts)
        found = in_game(agent, world, play)
        metrics[f"{what}success"] = share(found)
        metrics[f"{what}steps"] = exactly(float(found.steps[found.counted].mean()))
        print(f"Adaptation: {what} {found.rate:.2f}", flush=True)

    played(model.dynamics, rooms, "before/")
    metrics["before/error_px"] = exactly(position_error(model.dynamics, old_test, read))
    for which, change in changes.items():
        world = ChangedRooms(rooms=rooms, **vars(change))
        draws = seeds.derive(seed, which)  # not those of the old world, nor of another change
        episodes = gather(out / which, some, walks_in(world, some), draws)
        new, new_test = (lived(model, episodes_of) for episodes_of in episodes)
        read_new = readout_of(new)
        kinds = relearn(out, which, model.dynamics, old, new, dynamics, relearning, hardware, seed)
        for who, now in kinds.items():
            played(now, world, f"{which}/{who}/")
            metrics[f"{which}/{who}/error_px"] = exactly(position_error(now, new_test, read_new))
            if who == "unchanged":
                continue
            played(now, rooms, f"{which}/{who}/old_")
            metrics[f"{which}/{who}/old_error_px"] = exactly(position_error(now, old_test, read))
    chance = RandomAgent(**parts, correlation=experience.correlation)
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics,
        baselines={"random_policy/before/success": share(in_game(chance, rooms, play))},
    )
    print_rows(rows_of(result))


def in_game(agent: PlanningAgent | RandomAgent, world: Rooms, play: Game) -> Evaluation:
    """All episodes of the game in a world."""
    return evaluate(
        agent, play.in_world(world), max_steps=play.max_steps, seed=play.seed, progress=True
    )


def relearn(
    out: Path,
    which: str,
    before: LatentDynamics,
    old: Lived,
    new: Lived,
    dynamics: Dynamics,
    relearning: Relearning,
    hardware: Hardware,
    seed: int,
) -> dict[str, LatentDynamics]:
    """Dynamics after a change, by how they have learnt of it:

    "unchanged" they have not; "tuned" from new episodes alone; "replay" from as many old ones as
    well; "identified" the first and the second, whichever explains the last decisions.
    """
    kinds = {"unchanged": before}
    diet = {"tuned": new, "replay": new.together(old.first(relearning.replayed))}
    for who, lived_through in diet.items():
        now = copy.deepcopy(before)

        learn = partial(
            go_on, now, lived_through.windows(dynamics.window), relearning, hardware,
            f"{which}: {who}", seed,
        )  # fmt: skip
        kinds[who] = learnt(now, out / f"{which}_{who}.safetensors", learn).eval()
    return kinds | {"identified": Identified([before, kinds["tuned"]], forget=relearning.forget)}


def go_on(
    dynamics: LatentDynamics,
    windows: Windows,
    relearning: Relearning,
    hardware: Hardware,
    title: str,
    seed: int,
) -> None:
    """Trains what has learnt before."""
    loader = window_loader(windows, batch_size=relearning.batch_size, seed=seed)
    training = DynamicsTraining(
        dynamics.train(),
        history=dynamics.told_first,
        learning_rate=relearning.learning_rate,
    )
    trainer(relearning.steps, hardware, title).fit(training, loader)


def lived(model: LatentWorldModel, episodes: Trajectories) -> Lived:
    """Episodes as the embedding sees them."""
    latents = latents_seen(model.embedding, episodes)
    return Lived(latents, stacked(episodes, "actions"), stacked(episodes, "infos.position"))


def readout_of(episodes: Lived) -> LinearReadout:
    """From latents to positions, px; for measurements only."""
    return LinearReadout.fit(episodes.latents.flatten(0, 1), episodes.positions.flatten(0, 1))


@torch.no_grad()
def position_error(dynamics: LatentDynamics, episodes: Lived, readout: LinearReadout) -> float:
    """Mean error of the position, px, over decisions that are foreseen after some known ones."""
    history, ahead = HISTORY, min(AHEAD, episodes.actions.shape[1] - HISTORY)
    if ahead < 1:
        raise ValueError(f"errors are measured after {HISTORY} decisions: make episodes longer")
    actions: Float[Tensor, "E T A"] = episodes.actions[:, : history + ahead]
    state = dynamics.remember(episodes.latents[:, : history + 1], actions[:, :history])
    foreseen = readout(dynamics.rollout(state, actions[:, history:])["latent"])
    truth = episodes.positions[:, history + 1 : history + ahead + 1]
    return float((foreseen - truth).norm(dim=-1).mean())
