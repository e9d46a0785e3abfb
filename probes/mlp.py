"""The MLP probe: what one hidden layer reads out of frozen features, beyond a linear one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from .attentive_fit import ADAMW, Optimiser, spread
from .gradient_probe import GradientProbe

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class MLPProbe(GradientProbe):
    """One hidden layer on standardised features, trained with AdamW.

    The rate falls to 0 along half a cosine. All pairs of learning rate and weight decay are tried
    in one pass over the data. A stratified fifth is held out (whole groups, if `fit` is given
    groups); the pair with the best held-out accuracy (of equals, the smaller cross entropy)
    trains again on everything.

    Args:
        width: of the hidden layer.
        activation: `gelu` or `relu`.
        learning_rates, weight_decays: the grid; a single pair is used without holding out.
            Biases do not decay.
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
        width: int = 512,
        *,
        activation: str = "gelu",
        learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
        weight_decays: Sequence[float] = (0.01, 0.1, 1.0),
        epochs: int = 30,
        batch_size: int = 256,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.width = width
        self.activation = activation
        self.learning_rates = learning_rates
        self.weight_decays = weight_decays
        self.epochs = epochs
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def _new_head(self, X: Float[np.ndarray, "n D"], classes: int) -> nn.Module:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {list(ACTIVATIONS)}; got {self.activation!r}")
        if self.width < 1:
            raise ValueError(f"expected a width of at least 1; got {self.width}")
        return nn.Sequential(
            nn.Flatten(),
            _Standardised(X.mean(axis=0, dtype=np.float64), spread(X)),
            nn.Linear(X.shape[1], self.width),
            ACTIVATIONS[self.activation](),
            nn.Linear(self.width, classes),
        )

    def _optimiser(self) -> Optimiser:
        return ADAMW


class _Standardised(nn.Module):
    """Features with the mean 0 and the variance 1 of the training rows; constant ones are 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Float64[np.ndarray, "D"], std: Float64[np.ndarray, "D"]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("std", torch.from_numpy(std).float())

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return (features - self.mean) / self.std
