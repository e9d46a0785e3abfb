"""Planning by the cross-entropy method: sample, imagine, keep the elite, refit."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .sampling import Elite, Gaussian, Sampling, Way, geometric, shares, weighted


@dataclass(frozen=True, kw_only=True)
class CEM(Sampling):
    """Cross-entropy method (Rubinstein 1999; for control Chua et al. 2018) on action sequences.

    A Gaussian over sequences, independent per action component, is refitted to the best samples.
    With `correlation` c the noise of steps i and j correlates by c^|i-j|, which reaches further
    than white noise at the same variance.

    Args:
        elites: candidates that the Gaussian is refitted to.
        correlation: of the noise of neighbouring steps, in [0, 1).
    """

    elites: int = 12
    correlation: float = 0.0

    def __post_init__(self) -> None:
        self.check(self.elites)
        if not 0 <= self.correlation < 1:
            raise ValueError(f"need 0 <= correlation < 1; got {self.correlation}")

    def way(self) -> Way:
        """See `Sampling`."""
        return Way(
            root=geometric(self.horizon, self.correlation) if self.correlation else None,
            counts=[self.samples] * self.iterations,
            elites=self.elites,
            kept=0,
            refit=refit,
        )


def refit(old: Gaussian, elite: Elite) -> Gaussian:
    """Mean and deviation of the elite, all of them alike."""
    return weighted(old, elite, shares(elite, torch.ones_like(elite.energy)))
