"""Dots sent through a door that opens and shuts at random: true futures, and foreseen ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from jepa import seeds

from ..planning.calibration import particle_scores
from ..planning.dynamics import LatentWorldModel
from ..planning.embedding import latents_of
from ..planning.stochastic_door import DoorLayout, StochasticDoor
from ..planning.two_rooms import Positions
from ..planning.two_rooms_env import next_layout
from .results import Measured, exactly
from .world import Experience

CERTAIN = 0.1  # an outcome less likely than this is none


@dataclass(frozen=True, kw_only=True)
class DoorExperience(Experience):
    """As `Experience`; in some episodes the dot wants to be in the other room.

    Args:
        crossing: share of these episodes; how much the wish counts is different in each.
    """

    crossing: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.crossing <= 1:
            raise ValueError(f"crossing is a share of the episodes; got {self.crossing}")


@dataclass(frozen=True, kw_only=True)
class DoorTrials:
    """Dots beside the door, moving straight through it, as long as it takes.

    Args:
        count: starts, N; half of the doors are open then.
        futures: simulated for each start, M.
        decisions: each the fastest motion to the other room, H.
        particles: foreseen for each start, P; as many more are simulated, as the best forecast.
        far: greatest distance of a start from the wall, in decisions.
        seed: of starts and futures.
    """

    count: int = 200
    futures: int = 100
    particles: int = 64
    decisions: int = 8
    far: float = 2.0
    seed: int = 1000


@dataclass(frozen=True)
class Simulated:
    """Trials, and what truly may come of them.

    starts [N, 2] px, in the `layout`; `actions` [N, H, 2]; `futures` [N, H, M, 2] px; `best`
    [N, H, P, 2] px, more of them: what a model would foresee that knows the world.
    """

    world: StochasticDoor
    starts: Positions
    layout: DoorLayout
    actions: Float[Tensor, "N H 2"]
    futures: Float[Tensor, "N H M 2"]
    best: Float[Tensor, "N H P 2"]

    def crossed(self, positions: Float[Tensor, "N H P 2"]) -> Float[Tensor, "N H"]:
        """Share of the futures in which the dot is in the other room."""
        wall = self.layout.wall[:, None, None]
        left = (self.starts[:, 0] < self.layout.wall)[:, None, None]
        return ((positions[..., 0] < wall) != left).double().mean(dim=-1)


def simulate(world: StochasticDoor, trials: DoorTrials, repeat: int) -> Simulated:
    """Starts on both sides, at heights of the opening, and their futures."""
    generator, rooms = seeds.generator(trials.seed, "door_trials"), world.rooms
    layout = world.layouts(trials.count, generator)
    u, v, w = torch.rand(3, trials.count, generator=generator)
    left = u < 0.5
    reach = trials.far * repeat * world.max_action
    x = layout.wall + torch.where(left, -1, 1) * (rooms.wall_width / 2 + v * reach)
    y = layout.door + (w - 0.5) * 0.8 * rooms.door_width
    starts = torch.stack([x, y], dim=1).clamp(rooms.border, rooms.size - rooms.border)
    action = world.max_action * torch.stack([torch.where(left, 1.0, -1.0), torch.zeros(len(x))], 1)

    each = trials.futures + trials.particles

    def many(values: Tensor) -> Tensor:
        return values.repeat_interleave(each, dim=0)

    here, moves = many(starts), many(action)
    now = DoorLayout(**{name: many(value) for name, value in vars(layout).items()})
    futures = []
    for _ in range(trials.decisions):
        for _ in range(repeat):
            now = next_layout(world, now, here, generator)
            here = world.step(here, moves, now)
        futures.append(here.unflatten(0, (trials.count, each)))
    actions = action[:, None].expand(-1, trials.decisions, -1)
    came, best = torch.stack(futures, dim=1).split([trials.futures, trials.particles], dim=2)
    return Simulated(world, starts, layout, actions, came, best)


@torch.no_grad()
def imagined(
    model: LatentWorldModel, readout: Callable[[Tensor], Tensor], trials: Simulated
) -> Float[Tensor, "N H P 2"]:
    """Positions of all particles, px."""
    pictures = trials.world.render(trials.starts, trials.layout)
    return readout(model.rollout(model.encode(pictures), trials.actions)["particles"])


@torch.no_grad()
def misread(
    model: LatentWorldModel, readout: Callable[[Tensor], Tensor], trials: Simulated
) -> float:
    """Mean distance, px, of the starts from what is read of their own latents: what the scores
    of foreseen positions owe to the readout."""
    latents = model.encode(trials.world.render(trials.starts, trials.layout))["latent"]
    return float((readout(latents) - trials.starts).norm(dim=-1).mean())


def foreseen(particles: Float[Tensor, "N H P 2"], trials: Simulated) -> dict[str, Measured]:
    """How well the distribution of the dot's x, px, is foreseen, after 1, 2, 4 ... decisions:

    door_crps_H, door_coverage_H: against each of the true futures, see `particle_scores`.
    both_H: of the starts from which the dot may truly be in either room, the share of which the
        model says so too.
    crossing_error_H: mean error of the probability to be in the other room.
    open_crossing_H, shut_crossing_H: mean of this probability, as foreseen, where the door is open
        or shut at first.
    stray_H: mean distance of what is foreseen from the nearest true future, px.
    """
    futures = trials.futures
    x = particles[:, None, ..., :1].expand(-1, futures.shape[2], -1, -1, -1).flatten(0, 1)
    came = futures[..., :1].transpose(1, 2).flatten(0, 1)
    crps, coverage = particle_scores(x, came)
    true, said = trials.crossed(futures), trials.crossed(particles)
    unsure, both = ((p >= CERTAIN) & (p <= 1 - CERTAIN) for p in (true, said))
    opened = trials.layout.open > 0.5
    apart = torch.cdist(particles, futures, compute_mode="donot_use_mm_for_euclid_dist")
    stray = apart.amin(dim=-1).mean(dim=(0, 2))
    found = {}
    for h in (2**k for k in range(len(crps).bit_length())):
        t = h - 1
        found |= {
            f"door_crps_{h}": crps[t],
            f"door_coverage_{h}": coverage[t],
            f"both_{h}": both[unsure[:, t], t].double().mean(),
            f"crossing_error_{h}": (true - said)[:, t].abs().mean(),
            f"open_crossing_{h}": said[opened, t].mean(),
            f"shut_crossing_{h}": said[~opened, t].mean(),
            f"stray_{h}": stray[t],
        }
    return {name: exactly(float(value)) for name, value in found.items()}


@torch.no_grad()
def door_accuracy(world: StochasticDoor, model: LatentWorldModel, count: int = 2000) -> float:
    """Share of new pictures of which a logistic regression on their latents, fitted to as many,
    tells whether the door is open."""
    generator = seeds.generator(0, "door_accuracy")
    layout = world.layouts(2 * count, generator)
    pictures = world.render(world.starts(layout, 2 * count, generator), layout)
    latents, open_ = latents_of(model.embedding, pictures).numpy(), layout.open.numpy() > 0.5
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fitted.fit(latents[:count], open_[:count])
    return float(fitted.score(latents[count:], open_[count:]))
