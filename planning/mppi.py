"""Planning by model predictive path integral control: every sample counts by its energy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .sampling import Elite, Gaussian, Sampling, Way, power_law, shares, weighted


@dataclass(frozen=True, kw_only=True)
class MPPI(Sampling):
    """Model predictive path integral control (Williams et al. 2017, IEEE Trans. Robotics 34).

    The mean of the samples, weighted by exp(-(energy - least) / temperature). As in the paper all
    samples count and the deviation stays; with `elites` and `adapt` 1 it is the planner of TD-MPC
    (Hansen et al. 2022, arXiv:2203.04955). What is carried out is the best of the samples and the
    mean.

    Args:
        temperature: in the unit of the energy.
        elites: the best samples, which alone count; None: all.
        beta: exponent of the noise's power over frequency; 0 is white.
        adapt: share of the samples' weighted deviation in the new one; 0 keeps the first.
    """

    temperature: float = 0.5
    elites: int | None = None
    beta: float = 0.0
    adapt: float = 0.0

    def __post_init__(self) -> None:
        self.check(self.samples if self.elites is None else self.elites)
        if self.temperature <= 0 or self.beta < 0 or not 0 <= self.adapt <= 1:
            raise ValueError(
                "need temperature > 0, beta >= 0 and 0 <= adapt <= 1; got "
                f"{self.temperature}, {self.beta} and {self.adapt}"
            )

    def way(self) -> Way:
        """See `Sampling`."""
        return Way(
            root=power_law(self.horizon, self.beta) if self.beta else None,
            counts=[self.samples] * self.iterations,
            elites=self.samples if self.elites is None else self.elites,
            kept=0,
            refit=self._refit,
        )

    def _refit(self, old: Gaussian, elite: Elite) -> Gaussian:
        weight = torch.exp((elite.energy[:, :1] - elite.energy) / self.temperature)
        new = weighted(old, elite, shares(elite, weight))
        return new._replace(std=old.std.lerp(new.std, self.adapt))
