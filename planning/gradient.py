"""Planning by gradient descent through the world model, from several starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .planner import Best, Clock, box_mean, first_candidates, noise, score
from .protocols import ActionSpace, Energy, Generators, Plan, WarmStart, WorldModel


@dataclass(frozen=True, kw_only=True)
class GradientPlanner:
    """Adam (Kingma & Ba 2015) on the actions, projected onto the bounds after every step.

    The first of the `restarts` starts is the warm start (or the middle of the box), then come the
    candidates that it brings, and the others are Gaussian around it. Actions are optimised in half
    sides of the action box, so that `learning_rate` means the same for every environment; it falls
    to a tenth along half a cosine. A candidate whose gradient is not finite stays where it is.

    Args:
        horizon: actions per plan, H.
        restarts: starts per environment.
        iterations: steps of Adam.
        learning_rate: in half sides of the action box per step.
        std: deviation of the random starts, in half sides of the action box.
        patience: stop when the best energies of all environments have not fallen by a share of
            `tolerance` for so many steps; None: never.
        tolerance: see patience.
        seconds: begin no further step after this time; None: all steps.
    """

    horizon: int = 12
    restarts: int = 8
    iterations: int = 30
    learning_rate: float = 0.1
    std: float = 0.7
    patience: int | None = None
    tolerance: float = 1e-4
    seconds: float | None = None

    def __post_init__(self) -> None:
        if min(self.horizon, self.restarts, self.iterations) < 1 or self.learning_rate <= 0:
            raise ValueError(
                "need horizon, restarts and iterations of at least 1 and a positive "
                f"learning_rate; got {self}"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience counts steps, from 1; got {self.patience}")

    @torch.enable_grad()
    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: WarmStart | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Diagnostics: `energy` [steps + 1, B], best so far."""
        centre, radius = action_space.centre, action_space.radius
        mean = box_mean(warm_start, len(state), self.horizon, action_space)
        given = torch.cat([mean[None], first_candidates(warm_start, mean, action_space)])
        starts = self._starts((given - centre) / radius, generator)
        unit = starts.clamp(-1, 1).detach().requires_grad_()
        adam = torch.optim.Adam([unit], lr=self.learning_rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(
            adam, self.iterations, self.learning_rate / 10
        )
        best, clock, trace = Best.of(mean), Clock(self.seconds), []
        for iteration in range(self.iterations + 1):
            actions = (centre + radius * unit).clamp(action_space.low, action_space.high)
            energies = score(world_model, state, energy, actions)
            best.update(actions, energies)
            trace.append(best.energy)
            if iteration == self.iterations or clock.over() or self._settled(trace):
                break
            (slope,) = torch.autograd.grad(energies.sum(), unit)
            finite = slope.isfinite().all(dim=(2, 3), keepdim=True)
            unit.grad, before = torch.where(finite, slope, 0.0), unit.detach().clone()
            adam.step()
            falling.step()
            unit.data = torch.where(finite, unit.detach().clamp(-1, 1), before)
        return Plan(best.actions, best.energy, diagnostics={"energy": torch.stack(trace)})

    def _starts(
        self, given: Float[Tensor, "K B H A"], generator: Generators
    ) -> Float[Tensor, "R B H A"]:
        """The given ones, and Gaussian ones around the first."""
        given = given[: self.restarts]
        _, batch, horizon, size = given.shape
        draws = noise(self.restarts, batch, horizon, size, generator)[len(given) :]
        return torch.cat([given, given[:1] + self.std * draws])

    def _settled(self, trace: list[Float[Tensor, " B"]]) -> bool:
        """Whether nothing has been gained for `patience` steps. Waits for the device."""
        if self.patience is None or len(trace) <= self.patience:
            return False
        before, now = trace[-1 - self.patience], trace[-1]
        return bool((before - now <= self.tolerance * before.abs()).all())
