"""The loop of planners that sample: draw around a Gaussian, imagine, refit, and keep the best."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from jepa.tables import shared_table

from .planner import Candidates, Clock, finite, first_candidates, first_mean, noise, score
from .protocols import ActionSpace, Energy, Generators, Plan, WarmStart, WorldModel


class Gaussian(NamedTuple):
    """Over action sequences: mean +- std * (root @ white noise), alike for all action components.

    root: R of the correlation R R^T of the steps; None: steps are independent.
    """

    mean: Float[Tensor, "B H A"]
    std: Float[Tensor, "B H A"]
    root: Float[Tensor, "*B H H"] | None = None

    def draw(self, white: Candidates) -> Candidates:
        """Moves away from the mean, made of noise of variance 1, which is used up."""
        moves = white.permute(1, 2, 3, 0)  # [B, H, A, S], as it lies in memory
        if self.root is not None:
            moves = (self.root @ moves.flatten(2)).unflatten(2, moves.shape[2:])
        return moves.mul_(self.std[..., None]).permute(3, 0, 1, 2)


class Elite(NamedTuple):
    """The best candidates, best first; energies of failures are infinite."""

    actions: Float[Tensor, "K B H A"]
    energy: Float[Tensor, "K B"]


Refit: TypeAlias = Callable[[Gaussian, Elite], Gaussian]


class Way(NamedTuple):
    """In what sampling planners differ; see `Gaussian` for the root, and `search`."""

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
        """See `Planner`, and `search` for the diagnostics."""
        way = self.way()
        mean = first_mean(warm_start, len(state), self.horizon, action_space)
        std = None if warm_start is None else warm_start.std
        if std is None:
            std = (self.std * action_space.radius).expand_as(mean)
        return search(
            partial(score, world_model, state, energy, chunk=self.chunk),
            partial(
                noise, batch=len(state), horizon=self.horizon, size=len(action_space.low),
                generator=generator,
            ),
            action_space,
            Gaussian(mean, std, None if way.root is None else way.root.to(mean)),
            first=first_candidates(warm_start, mean, action_space),
            counts=way.counts,
            elites=way.elites,
            kept=way.kept,
            refit=way.refit,
            floor=self.min_std * action_space.radius,
            seconds=self.seconds,
        )  # fmt: skip


def search(
    energy_of: Callable[[Candidates], Float[Tensor, "S B"]],
    white: Callable[[int], Candidates],
    space: ActionSpace,
    gaussian: Gaussian,
    *,
    first: Candidates,
    counts: Sequence[int],
    elites: int,
    kept: int,
    refit: Refit,
    floor: Float[Tensor, " A"],
    seconds: float | None = None,
) -> Plan:
    """Refits a Gaussian to what was best, once for each of `counts`.

    Samples are drawn in pairs that are mirrored at the mean (Brockhoff et al. 2010, PPSN XI): half
    of the noise, and no accidental slope of a sample. They are clipped to the bounds. The mean is
    always one of them, and so are `first` in the first iteration and the `kept` best of the last
    one afterwards, whose energies are known. The last mean is a candidate as well.

    Args:
        energy_of: imagines candidates.
        white: that many sequences of noise of variance 1, [S, B, H, A].
        gaussian: to begin with.
        counts: candidates that are imagined in each iteration, the mean and `first` included.
        elites: candidates that the Gaussian is refitted to.
        kept: of these, how many stay candidates.
        refit: the next Gaussian.
        floor: smallest deviation.
        seconds: begin no further iteration after this time.

    Returns:
        The plan; diagnostics: `energy` [I + 1, B] best so far, `std` [I] mean deviation.
    """
    start, clock = gaussian.mean, Clock(seconds)
    elite = Elite(start[None], start.new_full((1, len(start)), torch.inf))
    best, energy, spread = [start], [elite.energy[0]], []
    for count in counts:
        if spread and clock.over():
            break
        known = kept if spread else 0
        given = torch.cat([elite.actions[:known], gaussian.mean[None], first[: count - 1]])
        pool = candidates(gaussian, white((count + 1) // 2), space, given, count, known)
        first = first[:0]
        fresh = finite(energy_of(pool[known:]))
        energies = torch.cat([elite.energy[:known], fresh]) if known else fresh
        elite = best_of(pool, energies, elites)
        best.append(elite.actions[0].clone())
        energy.append(elite.energy[0])
        gaussian = refit(gaussian, elite)
        gaussian = gaussian._replace(std=gaussian.std.maximum(floor))
        spread.append(gaussian.std)
    last = gaussian.mean.clamp(space.low, space.high)
    energies = torch.stack([*energy, finite(energy_of(last[None]))[0]])
    which = energies.argmin(dim=0)
    batch = torch.arange(len(which), device=which.device)
    return Plan(
        torch.stack([*best, last])[which, batch],
        energies[which, batch],
        std=gaussian.std,
        candidates=elite.actions,
        diagnostics={
            "energy": energies[1:].cummin(dim=0).values,
            "std": torch.stack(spread).flatten(1).mean(dim=1),
        },
    )


def candidates(
    gaussian: Gaussian,
    white: Float[Tensor, "N B H A"],
    space: ActionSpace,
    given: Float[Tensor, "G B H A"],
    samples: int,
    kept: int,
) -> Candidates:
    """`samples` in pairs behind `kept` free places; the first ones give way to `given`.

    Inside the bounds, and in memory as [B, H, A, S]: whatever is done to them runs along S.
    """
    mean, moves = gaussian.mean[..., None], gaussian.draw(white).permute(1, 2, 3, 0)
    pool = moves.new_empty(*moves.shape[:-1], kept + samples)
    one, other = pool[..., kept:].tensor_split([len(white)], dim=-1)
    torch.add(mean, moves, out=one)
    torch.sub(mean, moves[..., : other.shape[-1]], out=other)
    pool[..., : len(given)] = given.permute(1, 2, 3, 0)
    pool.clamp_(min=space.low[:, None]).clamp_(max=space.high[:, None])
    return pool.permute(3, 0, 1, 2)


def best_of(actions: Candidates, energy: Float[Tensor, "S B"], count: int) -> Elite:
    """The `count` candidates of least energy for each environment."""
    least, which = energy.topk(min(count, len(energy)), dim=0, largest=False)
    columns = which.T[:, None, None].expand(-1, *actions.shape[2:], -1)
    return Elite(actions.permute(1, 2, 3, 0).gather(3, columns).permute(3, 0, 1, 2), least)


def weighted(old: Gaussian, elite: Elite, share: Float[Tensor, "K B"]) -> Gaussian:
    """Mean and deviation of the elite by `shares`; the old ones where nothing is finite."""
    rows, column = elite.actions.permute(1, 2, 3, 0).flatten(1, 2), share.T[..., None]
    mean = rows @ column
    std = ((rows - mean).square_() @ column).sqrt_()
    found = (elite.energy[0] < torch.inf)[:, None, None]
    return Gaussian(
        torch.where(found, mean.view(old.mean.shape), old.mean),
        torch.where(found, std.view(old.std.shape), old.std),
        old.root,
    )


def shares(elite: Elite, weight: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """Weights over their sum; 0 for what is not finite."""
    weight = torch.where(elite.energy < torch.inf, weight, 0.0)
    return weight / weight.sum(dim=0).clamp(min=torch.finfo(weight.dtype).tiny)


def log_ranks(elite: Elite) -> Float[Tensor, "K B"]:
    """Weights that fall with the logarithm of the rank (Hansen 2016, arXiv:1604.00772, eq. 49)."""
    energy = elite.energy
    return _log_ranks(len(energy), energy.dtype, energy.device).expand_as(energy)


@shared_table
def _log_ranks(count: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "K 1"]:
    rank = torch.arange(1, count + 1, dtype=dtype, device=device)
    return math.log(count + 0.5) - rank.log()[:, None]


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
