"""Planning by the cross-entropy method: sample, imagine, keep the elite, refit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .planner import Best, first_mean, noise, score
from .protocols import ActionSpace, Energy, Generators, Plan, WorldModel


@dataclass(frozen=True, kw_only=True)
class CEM:
    """Cross-entropy method (Rubinstein 1999; for control Chua et al. 2018) on action sequences.

    A Gaussian over sequences, independent per action component; samples are clipped to the
    bounds, and the mean is always one of them. With `correlation` c the noise of steps i and j
    correlates by c^|i-j| (coloured noise, Pinneri et al. 2020), which reaches further than
    white noise at the same variance.

    Args:
        horizon: actions per plan, H.
        samples: candidates per iteration, S, the mean included.
        iterations: refits of the Gaussian.
        elites: candidates that it is refitted to.
        std: first standard deviation, in half sides of the action box.
        min_std: smallest standard deviation, in the same unit.
        correlation: of the noise of neighbouring steps, in [0, 1).
        chunk: rollouts in memory at once; None: all.
    """

    horizon: int = 12
    samples: int = 128
    iterations: int = 4
    elites: int = 12
    std: float = 1.0
    min_std: float = 0.05
    correlation: float = 0.0
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.samples:
            raise ValueError(
                f"elites must be between 1 and samples ({self.samples}); got {self.elites}"
            )
        if min(self.horizon, self.iterations) < 1 or not 0 <= self.correlation < 1:
            raise ValueError(
                f"need horizon >= 1, iterations >= 1 and 0 <= correlation < 1; got {self}"
            )

    @torch.no_grad()
    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: Float[Tensor, "B H A"] | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Diagnostics: `energy` [I, B] best so far, `std` [I] mean deviation."""
        batch, low, high = len(state), action_space.low, action_space.high
        mean = first_mean(warm_start, batch, self.horizon, action_space)
        std = (self.std * action_space.radius).expand_as(mean)
        floor = self.min_std * action_space.radius
        best, trace, spread = Best.of(mean), [], []
        for _ in range(self.iterations):
            draws = noise(self.samples, batch, self.horizon, len(low), generator)
            draws = torch.einsum("ij,sbja->sbia", self._colour(mean), draws)
            actions = (mean + std * draws).clamp(low, high)
            actions[0] = mean
            energies = best.update(actions, score(world_model, state, energy, actions, self.chunk))
            mean, std = self._refit(mean, std, actions, energies)
            std = std.maximum(floor)
            trace.append(best.energy)
            spread.append(std.mean())
        return Plan(
            best.actions,
            best.energy,
            {"energy": torch.stack(trace), "std": torch.stack(spread)},
        )

    def _colour(self, like: Tensor) -> Float[Tensor, "H H"]:
        """Square root of the correlation matrix c^|i-j|."""
        steps = torch.arange(self.horizon, device=like.device)
        gap = (steps[:, None] - steps).abs()
        return torch.linalg.cholesky(self.correlation ** gap.to(like.dtype))

    def _refit(
        self, mean: Tensor, std: Tensor, actions: Tensor, energies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the finite elites; unchanged where there are none."""
        least, which = energies.topk(self.elites, dim=0, largest=False)
        elite = actions.gather(0, which[:, :, None, None].expand(-1, -1, *actions.shape[2:]))
        weight = least.isfinite().to(actions.dtype)[:, :, None, None]
        count = weight.sum(dim=0)
        centre = (weight * elite).sum(dim=0) / count.clamp(min=1)
        variance = (weight * (elite - centre) ** 2).sum(dim=0) / count.clamp(min=1)
        return torch.where(count > 0, centre, mean), torch.where(count > 0, variance.sqrt(), std)
