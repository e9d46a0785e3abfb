"""What classifiers of pooled features that are trained by gradient descent share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn
from torch.nn import functional as F

from .attentive_fit import Fitting, Optimiser, seeded
from .grid_fit import accuracy, chosen_head, codes_of, rates_of


class GradientProbe(ClassifierMixin, BaseEstimator):
    """A head on features [n, D]: fit, choose rates on held-out rows, predict in float64.

    Subclasses have the parameters below, and say what the head and the optimiser are.
    """

    learning_rates: Sequence[float]
    weight_decays: Sequence[float]
    epochs: int
    batch_size: int
    device: str
    random_state: int | np.random.RandomState | None

    @abstractmethod
    def _new_head(self, X: Float[np.ndarray, "n D"], classes: int) -> nn.Module:
        """From features [B, 1, D] to logits [B, classes]; X are all training rows."""

    @abstractmethod
    def _optimiser(self) -> Optimiser:
        """The optimiser of the heads."""

    def fit(self, X, y, groups=None):
        """X [n, D], y [n] of at least two classes; groups [n]: which rows show the same thing."""
        rows, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        X = np.asarray(rows)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes; got 1 class: {self.classes_}")
        if min(self.epochs, self.batch_size) < 1:
            raise ValueError(
                "expected epochs and batch_size of at least 1; "
                f"got {self.epochs} and {self.batch_size}"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = torch.device(self.device)
        fitting = Fitting(
            self.epochs, self.batch_size, "float32", device, seed, optimiser=self._optimiser()
        )
        head, best, self.held_out_ = chosen_head(
            lambda: seeded(lambda: self._new_head(X, len(self.classes_)), fitting),
            rates_of(self.learning_rates, self.weight_decays),
            X[:, None, None],
            torch.from_numpy(codes),
            (codes, codes_of(groups)),
            loss=F.cross_entropy,
            score=accuracy,
            fitting=fitting,
        )
        self.head_ = head.cpu().double()
        self.learning_rate_, self.weight_decay_ = best
        return self

    @torch.no_grad()
    def predict_proba(self, X) -> Float64[np.ndarray, "n c"]:
        """Probability of each class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        features = torch.from_numpy(np.asarray(X, dtype=np.float32))  # as they were learnt from
        return self.head_(features[:, None].double()).softmax(dim=1).numpy()

    def predict(self, X) -> np.ndarray:
        """The most probable class."""
        winner = self.predict_proba(X).argmax(axis=1)
        return self.classes_[winner]
