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

from .planner import Best, Candidates, Clock, first_candidates, first_mean, noise, score
from .protocols import ActionSpace, Energy, Generators, Plan, WarmStart, WorldModel


class Gaussian(NamedTuple):
    """Over action sequences: mean + std * (root @ white noise), alike for all action components.

    root: R of the correlation R R^T of the steps; None: steps are independent.
    """

    mean: Float[Tensor, "B H A"]
    std: Float[Tensor, "B H A"]
    root: Float[Tensor, "*B H H"] | None = None

    def draw(self, white: Candidates) -> Candidates:
        """Sequences from noise of variance 1."""
        if self.root is not None:
            rows = white.permute(1, 2, 0, 3).flatten(2)  # [B, H, S A], as it lies in memory
            white = (self.root @ rows).unflatten(2, (len(white), -1)).permute(2, 0, 1, 3)
        return torch.addcmul(self.mean, self.std, white)


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

    Samples are clipped to the bounds. The mean is always one of them, and so are `first` in the
    first iteration and the `kept` best of the last one afterwards, whose energies are known. The
    last mean is a candidate as well.

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
    best = Best.of(gaussian.mean)
    elite = Elite(gaussian.mean[None], best.energy[None])
    trace, spread, clock = [], [], Clock(seconds)
    for count in counts:
        if trace and clock.over():
            break
        given = torch.cat([gaussian.mean[None], first[: count - 1]])
        actions = gaussian.draw(white(count)).clamp_(space.low, space.high)
        actions[: len(given)] = given
        energies = best.update(actions, energy_of(actions))
        if trace and kept:
            actions = torch.cat([elite.actions[:kept], actions])
            energies = torch.cat([elite.energy[:kept], energies])
        elite = best_of(actions, energies, elites)
        gaussian = refit(gaussian, elite)
        gaussian = gaussian._replace(std=gaussian.std.maximum(floor))
        first = first[:0]
        trace.append(best.energy)
        spread.append(gaussian.std.mean())
    best.update(gaussian.mean[None], energy_of(gaussian.mean[None]))
    return Plan(
        best.actions,
        best.energy,
        std=gaussian.std,
        candidates=elite.actions,
        diagnostics={"energy": torch.stack([*trace, best.energy]), "std": torch.stack(spread)},
    )


def best_of(actions: Candidates, energy: Float[Tensor, "S B"], count: int) -> Elite:
    """The `count` candidates of least energy for each environment."""
    least, which = energy.topk(min(count, len(energy)), dim=0, largest=False)
    which = which[:, :, None, None].expand(-1, -1, *actions.shape[2:])
    return Elite(actions.gather(0, which), least)


def weighted(old: Gaussian, elite: Elite, weight: Float[Tensor, "K B"]) -> Gaussian:
    """Weighted mean and deviation of what is finite of the elite; the old ones where nothing is."""
    share = shares(elite, weight)[:, :, None, None]
    mean = (share * elite.actions).sum(dim=0)
    std = (share * (elite.actions - mean) ** 2).sum(dim=0).sqrt()
    found = share.sum(dim=0) > 0
    return Gaussian(torch.where(found, mean, old.mean), torch.where(found, std, old.std), old.root)


def shares(elite: Elite, weight: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """Weights over their sum; 0 for what is not finite."""
    weight = torch.where(elite.energy.isfinite(), weight, 0.0)
    return weight / weight.sum(dim=0).clamp(min=torch.finfo(weight.dtype).tiny)


def log_ranks(elite: Elite) -> Float[Tensor, "K B"]:
    """Weights that fall with the logarithm of the rank (Hansen 2016, arXiv:1604.00772, eq. 49)."""
    rank = torch.arange(1, len(elite.energy) + 1, device=elite.energy.device)
    weight = math.log(len(rank) + 0.5) - rank.to(elite.energy.dtype).log()
    return weight[:, None].expand_as(elite.energy)


def geometric(horizon: int, correlation: float) -> Float[Tensor, "H H"]:
    """Root of the correlation c^|i-j| of steps i and j."""
    steps = torch.arange(horizon, dtype=torch.float64)
    return torch.linalg.cholesky(correlation ** (steps[:, None] - steps).abs()).float()


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
