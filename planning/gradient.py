"""Planning by gradient descent through the world model, from several starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .planner import Best, first_mean, noise, score
from .protocols import ActionSpace, Energy, Generators, Plan, WorldModel


@dataclass(frozen=True, kw_only=True)
class GradientPlanner:
    """Adam (Kingma & Ba 2015) on the actions, projected onto the bounds after every step.

    The first of the `restarts` starts is the warm start (or the middle of the box), the others
    are Gaussian around it. Actions are optimised in half sides of the action box, so that
    `learning_rate` means the same for every environment. A candidate whose gradient is not
    finite stays where it is.

    Args:
        horizon: actions per plan, H.
        restarts: starts per environment.
        iterations: steps of Adam.
        learning_rate: in half sides of the action box per step.
        std: deviation of the random starts, in half sides of the action box.
    """

    horizon: int = 12
    restarts: int = 8
    iterations: int = 30
    learning_rate: float = 0.1
    std: float = 0.7

    def __post_init__(self) -> None:
        if min(self.horizon, self.restarts, self.iterations) < 1 or self.learning_rate <= 0:
            raise ValueError(
                "need horizon, restarts and iterations of at least 1 and a positive "
                f"learning_rate; got {self}"
            )

    @torch.enable_grad()
    def plan(
        self,
        world_model: WorldModel,
        state: TensorDict,
        energy: Energy,
        action_space: ActionSpace,
        warm_start: Float[Tensor, "B H A"] | None,
        generator: Generators,
    ) -> Plan:
        """See `Planner`. Diagnostics: `energy` [I + 1, B], best so far."""
        batch, centre, radius = len(state), action_space.centre, action_space.radius
        mean = first_mean(warm_start, batch, self.horizon, action_space)
        draws = noise(self.restarts, batch, self.horizon, len(centre), generator)
        draws[0] = 0
        starts = (mean - centre) / radius + self.std * draws
        unit = starts.clamp(-1, 1).detach().requires_grad_()
        adam = torch.optim.Adam([unit], lr=self.learning_rate)
        best, trace = Best.of(mean), []
        for iteration in range(self.iterations + 1):
            actions = (centre + radius * unit).clamp(action_space.low, action_space.high)
            energies = score(world_model, state, energy, actions)
            best.update(actions, energies)
            trace.append(best.energy)
            if iteration < self.iterations:
                (slope,) = torch.autograd.grad(energies.sum(), unit)
                finite = slope.isfinite().all(dim=(2, 3), keepdim=True)
                unit.grad = torch.where(finite, slope, 0.0)
                adam.step()
                unit.data.clamp_(-1, 1)
        return Plan(best.actions, best.energy, {"energy": torch.stack(trace)})
