"""The loop of planners that sample: draw around a Gaussian, imagine, refit, and keep the best."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from jepa.tables import shared_table

from .planner import Candidates, Clock, box_mean, drawn, finite, first_candidates, score
from .protocols import ActionSpace, Energy, Generators, Plan, WarmStart, WorldModel

Rows = Float[Tensor, "B D S"]
"""S plans for each environment, of D = H A numbers: whatever is done to them runs along S."""


def as_rows(plans: Candidates) -> Rows:
    """Candidates as a search works on them."""
    return plans.permute(1, 2, 3, 0).flatten(1, 2)


def as_candidates(rows: Rows, shape: tuple[int, int]) -> Candidates:
    """Rows as plans of `shape` (H, A)."""
    return rows.view(len(rows), *shape, -1).permute(3, 0, 1, 2)


class Gaussian(NamedTuple):
    """Over plans: mean +- std * (root @ white noise), alike for all action components.

    root: R of the correlation R R^T of the steps; None: steps are independent.
    """

    mean: Float[Tensor, "B D 1"]
    std: Float[Tensor, "B D 1"]
    root: Float[Tensor, "B H H"] | None = None

    def draw(self, white: Rows) -> Rows:
        """Moves away from the mean, made of noise of variance 1, which is used up."""
        if self.root is not None:
            steps = white.view(len(white), self.root.shape[-1], -1)
            white = torch.bmm(self.root, steps).view_as(white)
        return white.mul_(self.std)


class Elite(NamedTuple):
    """The best candidates, best first; energies of failures are infinite."""

    actions: Float[Tensor, "B D K"]
    energy: Float[Tensor, "B K"]


Refit: TypeAlias = Callable[[Gaussian, Elite], Gaussian]


class Way(NamedTuple):
    """In what sampling planners differ.

    root: of the first Gaussian.
    counts: candidates that are imagined in each iteration, the mean and what is given included.
    elites: candidates that the Gaussian is refitted to.
    kept: of these, how many stay candidates.
    refit: the next Gaussian, of environments that have an elite.
    """

    root: Float[Tensor, "H H"] | None
    counts: Sequence[int]
    elites: int
    kept: int
    refit: Refit


@dataclass(frozen=True, kw_only=True)
class Sampling(ABC):
    """What every sampling planner is told, and its plan; `way` is what makes it this one or that.

    Args:
        horizon: actions per plan, H.
        samples: candidates per iteration, S, the mean included.
        iterations: refits of the Gaussian.
        std: first standard deviation, in half sides of the action box.
        min_std: smallest standard deviation, in the same unit.
        seconds: begin no further iteration after this time; None: all iterations.
        chunk: rollouts in memory at once; None: all.
    """

    horizon: int = 12
    samples: int = 128
    iterations: int = 4
    std: float = 1.0
    min_std: float = 0.05
    seconds: float | None = None
    chunk: int | None = None

    def check(self, elites: int) -> None:
        """Refuses numbers that make no sense."""
        if not 1 <= elites <= self.samples:
            raise ValueError(f"elites must be between 1 and samples ({self.samples}); got {elites}")
        if min(self.horizon, self.iterations) < 1 or self.std <= 0 or self.min_std < 0:
            raise ValueError(
                "need horizon >= 1, iterations >= 1, std > 0 and min_std >= 0; got "
                f"{self.horizon}, {self.iterations}, {self.std} and {self.min_std}"
            )

    @abstractmethod
    def way(self) -> Way:
        """How this planner searches."""

    @torch.no_grad()
    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Diagnostics: `energy` [I + 1, B] best so far, `std` [I] mean deviation."""
        way, batch = self.way(), len(state)
        shape = (self.horizon, len(action_space.low))
        mean = box_mean(warm_start, batch, self.horizon, action_space)
        std = None if warm_start is None else warm_start.std
        if std is None:
            std = (self.std * action_space.radius).expand_as(mean)
        given = first_candidates(warm_start, mean, action_space)

        def white(samples: int) -> Rows:
            return drawn(torch.randn, (math.prod(shape), samples), batch, generator)

        def energy_of(plans: Rows) -> Float[Tensor, "B S"]:
            actions = as_candidates(plans, shape)
            return finite(score(world_model, state, energy, actions, self.chunk)).T

        found = search(
            energy_of,
            white,
            Gaussian(
                mean.reshape(batch, -1, 1),
                std.reshape(batch, -1, 1),
                None if way.root is None else way.root.to(mean).expand(batch, -1, -1),
            ),
            way,
            low=action_space.low.repeat(self.horizon)[:, None],
            high=action_space.high.repeat(self.horizon)[:, None],
            floor=(self.min_std * action_space.radius).repeat(self.horizon)[:, None],
            first=as_rows(given),
            seconds=self.seconds,
        )
        return Plan(
            found.actions.view(batch, *shape),
            found.energy,
            std=found.gaussian.std.view(batch, *shape),
            candidates=as_candidates(found.elite.actions, shape),
            diagnostics={"energy": found.energies, "std": found.spread},
        )


class Found(NamedTuple):
    """What a search ends with: the best plan, the last Gaussian and elite, and how it went."""

    actions: Float[Tensor, "B D"]
    energy: Float[Tensor, " B"]
    gaussian: Gaussian
    elite: Elite
    energies: Float[Tensor, "I+1 B"]
    spread: Float[Tensor, " I"]


def search(
    energy_of: Callable[[Rows], Float[Tensor, "B S"]],
    white: Callable[[int], Rows],
    gaussian: Gaussian,
    way: Way,
    *,
    low: Float[Tensor, "D 1"],
    high: Float[Tensor, "D 1"],
    floor: Float[Tensor, "D 1"],
    first: Float[Tensor, "B D G"],
    seconds: float | None = None,
) -> Found:
    """Refits a Gaussian to what was best, once for each of the counts of `way`.

    Samples are drawn in pairs that are mirrored at the mean (Brockhoff et al. 2010, PPSN XI): half
    of the noise, and no accidental slope of a sample. They are clipped to the bounds. The mean is
    always one of them, and so are `first` in the first iteration and the best of the last one
    afterwards, as many as `way` keeps, whose energies are known. The last mean is a candidate too.

    Args:
        energy_of: imagines plans; never NaN.
        white: so many plans of noise of variance 1.
        gaussian: to begin with.
        low, high: the bounds.
        floor: smallest deviation.
        first: plans to try, inside the bounds.
        seconds: begin no further iteration after this time.
    """
    start, clock = gaussian.mean, Clock(seconds)
    elite = Elite(start, start.new_full((len(start), 1), torch.inf))
    best, energy, spread = [start[..., 0]], [elite.energy[:, 0]], []
    for count in way.counts:
        if spread and clock.over():
            break
        known = way.kept if spread else 0
        given = gaussian.mean
        if known:
            given = torch.cat([elite.actions[..., :known], given], dim=-1)
        elif not spread:
            given = torch.cat([given, first[..., : count - 1]], dim=-1)
        pool = candidates(gaussian, white((count + 1) // 2), given, count, known)
        pool.clamp_(min=low).clamp_(max=high)
        energies = energy_of(pool[..., known:])
        if known:
            energies = torch.cat([elite.energy[:, :known], energies], dim=-1)
        elite = best_of(pool, energies, way.elites)
        best.append(elite.actions[..., 0].clone())
        energy.append(elite.energy[:, 0])
        gaussian = refitted(gaussian, elite, way.refit, floor)
        spread.append(gaussian.std)
    last = gaussian.mean.clamp(min=low).clamp_(max=high)
    energies = torch.stack([*energy, energy_of(last)[:, 0]])
    which = energies.argmin(dim=0)
    return Found(
        torch.stack([*best, last[..., 0]])[which, torch.arange(len(which), device=which.device)],
        energies.amin(dim=0),
        gaussian,
        elite,
        energies[1:].cummin(dim=0).values,
        torch.stack(spread).flatten(1).mean(dim=1),
    )


def candidates(
    gaussian: Gaussian,
    white: Float[Tensor, "B D N"],
    given: Float[Tensor, "B D G"],
    samples: int,
    kept: int,
) -> Rows:
    """`samples` in pairs behind `kept` free places; the first ones give way to `given`."""
    mean, moves = gaussian.mean, gaussian.draw(white)
    pool = moves.new_empty(*moves.shape[:-1], kept + samples)
    middle = kept + white.shape[-1]
    torch.add(mean, moves, out=pool[..., kept:middle])
    torch.sub(mean, moves[..., : kept + samples - middle], out=pool[..., middle:])
    pool[..., : given.shape[-1]] = given
    return pool


def best_of(plans: Rows, energy: Float[Tensor, "B S"], count: int) -> Elite:
    """The `count` plans of least energy for each environment."""
    least, which = energy.topk(min(count, energy.shape[1]), dim=1, largest=False)
    return Elite(plans.gather(2, which[:, None].expand(-1, plans.shape[1], -1)), least)


def refitted(old: Gaussian, elite: Elite, refit: Refit, floor: Float[Tensor, "D 1"]) -> Gaussian:
    """The next Gaussian; the old one of environments in which no candidate has a finite energy."""
    new, found = refit(old, elite), (elite.energy[:, :1] < torch.inf)[..., None]
    root = new.root
    if root is not None and old.root is not None and root is not old.root:
        root = torch.where(found, root, old.root)
    return Gaussian(
        torch.where(found, new.mean, old.mean),
        torch.where(found, new.std, old.std).maximum(floor),
        root,
    )


def weighted(old: Gaussian, elite: Elite, share: Float[Tensor, "B K"]) -> Gaussian:
    """Mean and deviation of the elite by `shares`."""
    column = share[..., None]
    mean = torch.bmm(elite.actions, column)
    std = torch.bmm((elite.actions - mean).square_(), column).sqrt_()
    return Gaussian(mean, std, old.root)


def shares(elite: Elite, weight: Float[Tensor, "#B K"]) -> Float[Tensor, "B K"]:
    """Weights over their sum; 0 for what is not finite."""
    weight = weight.masked_fill(elite.energy == torch.inf, 0.0)
    return weight / weight.sum(dim=1, keepdim=True).clamp_(min=torch.finfo(weight.dtype).tiny)


def log_ranks(elite: Elite) -> Float[Tensor, "1 K"]:
    """Weights that fall with the logarithm of the rank (Hansen 2016, arXiv:1604.00772, eq. 49)."""
    energy = elite.energy
    return _log_ranks(energy.shape[1], energy.dtype, energy.device)


@shared_table
def _log_ranks(count: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "1 K"]:
    rank = torch.arange(1, count + 1, dtype=dtype, device=device)
    return math.log(count + 0.5) - rank.log()[None]


@shared_table
def geometric(horizon: int, correlation: float) -> Float[Tensor, "H H"]:
    """Root of the correlation c^|i-j| of steps i and j."""
    steps = torch.arange(horizon, dtype=torch.float64)
    return torch.linalg.cholesky(correlation ** (steps[:, None] - steps).abs()).float()


@shared_table
def power_law(horizon: int, beta: float) -> Float[Tensor, "H H"]:
    """Root of the correlation of noise whose power falls with frequency as f^-beta.

    Coloured noise (Timmer & Koenig 1995): 0 is white, 1 pink, 2 brown. A stretch of `horizon`
    steps of noise that repeats after twice as many, so that the ends of a plan are not made alike;
    the constant has the power of the slowest wave.
    """
    wave = torch.arange(horizon + 1, dtype=torch.float64)
    power = wave.clamp(min=1) ** -beta
    power[1:-1] *= 2  # two waves, a cosine and a sine
    steps = torch.arange(horizon, dtype=torch.float64)
    gap = (steps[:, None] - steps)[..., None]
    correlation = (power * torch.cos(math.pi / horizon * gap * wave)).sum(dim=-1) / power.sum()
    return torch.linalg.cholesky(correlation).float()
