"""The linear probe as papers train it: SGD or LARS, a falling rate, features batch-normalised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from timm.optim.lars import Lars
from torch import Tensor, nn

from .attentive_fit import Optimiser
from .gradient_probe import GradientProbe


class LinearSGDProbe(GradientProbe):
    """A linear layer trained by gradient descent with momentum: numbers comparable with papers.

    The protocol of linear probing in He et al. 2022 (MAE, arXiv:2111.06377, appendix A.1), which
    I-JEPA follows: LARS or SGD with momentum 0.9, the rate falling to 0 along half a cosine, no
    weight decay, features batch-normalised without gain and bias. `LinearProbe` fits the same
    layer to its penalised optimum, without a schedule to choose.

    All rates are tried in one pass over the data. A stratified fifth is held out (whole groups,
    if `fit` is given groups); the rate with the best held-out accuracy (of equals, the smaller
    cross entropy) trains again on everything.

    Args:
        optimiser: `sgd`, or `lars` (You et al. 2017, arXiv:1708.03888) for very large batches;
            the bias has no trust ratio.
        learning_rates: the grid, as they are: not scaled with the batch. LARS needs far larger
            ones than SGD: MAE's 0.1 for 256 rows is 6.4 for its batch of 16,384.
        weight_decays: the grid's other side; biases do not decay.
        batch_norm: normalise each feature over the batch, over the training rows when predicting.
        epochs, batch_size: of training.
        device: where heads and batches live; X stays where it is.
        random_state: of the split, the initial weights and the order.

    Attributes:
        head_: the fitted module, float64.
        learning_rate_, weight_decay_: the pair used.
        held_out_: {(learning_rate, weight_decay): held-out accuracy}; empty for a single pair.
        classes_: sorted labels.
    """

    @no_type_check  # scikit-learn's rule: the constructor takes anything, `fit` refuses
    def __init__(
        self,
        *,
        optimiser: str = "sgd",
        learning_rates: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
        weight_decays: Sequence[float] = (0.0,),
        batch_norm: bool = True,
        epochs: int = 90,
        batch_size: int = 256,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.optimiser = optimiser
        self.learning_rates = learning_rates
        self.weight_decays = weight_decays
        self.batch_norm = batch_norm
        self.epochs = epochs
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def _new_head(self, X: Float[np.ndarray, "n D"], classes: int) -> nn.Module:
        linear = nn.Linear(X.shape[1], classes)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        norm = [_BatchNorm(X.shape[1])] if self.batch_norm else []
        return nn.Sequential(nn.Flatten(), *norm, linear)

    def _optimiser(self) -> Optimiser:
        if self.optimiser == "lars":
            return _lars
        if self.optimiser == "sgd":
            return partial(torch.optim.SGD, momentum=0.9)
        raise ValueError(f"optimiser is 'sgd' or 'lars'; got {self.optimiser!r}")


class _BatchNorm(nn.BatchNorm1d):
    """Without gain and bias; what it remembers is the plain average over all batches."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6, momentum=None, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:  # a batch of one row has no variance
            assert self.running_mean is not None
            assert self.running_var is not None
            return (input - self.running_mean) * (self.running_var + self.eps).rsqrt()
        return super().forward(input)


def _lars(groups: list[dict]) -> torch.optim.Optimizer:
    """Matrices get the trust ratio, with or without weight decay; vectors are plain SGD's."""
    adapted = [group | {"always_adapt": group["params"][0].ndim > 1} for group in groups]
    return Lars(adapted, momentum=0.9)  # pyright: ignore[reportArgumentType]: timm says int
