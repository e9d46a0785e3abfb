"""Planning by the improved cross-entropy method; its noise learns the colour of good plans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .sampling import Elite, Gaussian, Sampling, Way, log_ranks, power_law, shares, weighted


@dataclass(frozen=True, kw_only=True)
class ICEM(Sampling):
    """The improved cross-entropy method (iCEM; Pinneri et al. 2020, arXiv:2008.06389), adapting.

    As published: noise whose power falls with frequency as f^-beta; the best of one iteration are
    candidates of the next, and those of the last plan, one step later, of the first; fewer samples
    in every iteration; a Gaussian with inertia. What is carried out is the best plan ever seen.

    Beyond it, as in CMA-ES (Hansen 2016, arXiv:1604.00772): better plans count more, by the
    logarithm of their rank; the deviation is stretched a little, against shrinking too soon; and
    the correlation of the steps is learnt from where the elite went, so that the search goes far
    where energy is flat and little where it is steep. One correlation serves all action
    components. `adapt` 0 and `stretch` 1 leave these two out.

    Args:
        elites: candidates that the Gaussian is refitted to.
        beta: exponent of the first noise: 0 white, 1 pink, 2 brown.
        inertia: share of the old mean and deviation in the new ones.
        keep: share of the elite that stays.
        decay: each iteration has so many times fewer samples than the one before, but at least
            twice the elite; published with 1.25.
        adapt: share of the elite's correlation in the new one.
        stretch: of the elite's deviation.
    """

    elites: int = 12
    beta: float = 2.0
    inertia: float = 0.1
    keep: float = 0.3
    decay: float = 1.0
    adapt: float = 0.5
    stretch: float = 1.2

    def __post_init__(self) -> None:
        self.check(self.elites)
        shares = {name: getattr(self, name) for name in ("inertia", "keep", "adapt")}
        if not all(0 <= share <= 1 for share in shares.values()):
            raise ValueError(f"these are shares, in [0, 1]; got {shares}")
        if self.beta < 0 or self.decay < 1 or self.stretch < 1:
            raise ValueError(
                "need beta >= 0, decay >= 1 and stretch >= 1; got "
                f"{self.beta}, {self.decay} and {self.stretch}"
            )

    def way(self) -> Way:
        """See `Sampling`."""
        fewest = min(2 * self.elites, self.samples)
        sizes = [round(self.samples * self.decay**-i) for i in range(self.iterations)]
        return Way(
            root=power_law(self.horizon, self.beta),
            counts=[max(size, fewest) for size in sizes],
            elites=self.elites,
            kept=round(self.keep * self.elites),
            refit=self._refit,
        )

    def _refit(self, old: Gaussian, elite: Elite) -> Gaussian:
        share, root = shares(elite, log_ranks(elite)), old.root
        new = weighted(old, elite, share)
        if self.adapt:
            assert root is not None
            root = adapted(root, elite.actions - old.mean, share, self.adapt)
        return Gaussian(
            new.mean.lerp(old.mean, self.inertia),
            (self.stretch * new.std).lerp(old.std, self.inertia),
            root,
        )


def adapted(
    root: Float[Tensor, "B H H"],
    moved: Float[Tensor, "B D K"],
    share: Float[Tensor, "B K"],
    adapt: float,
) -> Float[Tensor, "B H H"]:
    """Root of (1 - adapt) C + adapt E: C = root root^T, E the correlation of the elite's moves.

    Moves are measured from the old mean, as in CMA-ES's rank-mu update, so that the way the search
    went counts as well as the width of the elite; each step and component on its own scale.
    """
    rows = moved * share.sqrt()[:, None]
    scale = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    unit = rows.div_(scale.clamp_(min=torch.finfo(scale.dtype).tiny)).view(*root.shape[:2], -1)
    components = moved.shape[1] // root.shape[1]
    new = torch.baddbmm(
        torch.bmm(root, root.mT), unit, unit.mT, beta=1 - adapt, alpha=adapt / components
    )
    new.diagonal(dim1=-2, dim2=-1).fill_(1 + 1e-4)  # the elite's is 1, or 0 where nothing moved
    return torch.linalg.cholesky_ex(new).L  # without a check, which would wait for the device
