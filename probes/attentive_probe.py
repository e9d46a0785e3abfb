"""The attentive probe: how much do frozen tokens tell a head that chooses where to look?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_array, check_random_state, check_X_y
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional as F

from .attentive_fit import Fitting, Loss, new_head, outputs_of, spread
from .grid_fit import Score, accuracy, chosen_head, codes_of, probabilities, rates_of

LEARNING_RATES = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)  # V-JEPA 2's twenty heads (arXiv:2506.09985)
WEIGHT_DECAYS = (0.01, 0.1, 0.4, 0.8)

_ROUNDING = 1e-12  # variance of standardised targets that float32 may put into a constant one

_AS_IT_IS = {  # a table of tokens may be larger than memory: neither copied nor read through here
    "dtype": [np.float16, np.float32, np.float64],
    "allow_nd": True,
    "ensure_all_finite": False,
}


class _AttentiveEstimator(BaseEstimator):
    """What classifying and regressing share: the parameters, the tables and the grid."""

    @no_type_check  # scikit-learn's rule: the constructor takes anything, `fit` refuses
    def __init__(
        self,
        *,
        depth: int = 1,
        heads: int | None = None,
        learning_rates: Sequence[float] = LEARNING_RATES,
        weight_decays: Sequence[float] = WEIGHT_DECAYS,
        halving: bool = False,
        epochs: int = 20,
        batch_size: int = 64,
        precision: str = "float32",
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.depth = depth
        self.heads = heads
        self.learning_rates = learning_rates
        self.weight_decays = weight_decays
        self.halving = halving
        self.epochs = epochs
        self.batch_size = batch_size
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def _checked(self, X, y, **kinds) -> tuple[Float[np.ndarray, "n V N D"], np.ndarray]:
        """The table to fit on, as views, and its targets."""
        if getattr(X, "ndim", 2) <= 2:
            X, y = validate_data(self, X, y, dtype=[np.float32, np.float64], **kinds)
        else:
            X, y = check_X_y(X, y, **_AS_IT_IS, **kinds)
            self.n_features_in_ = X.shape[-1]
        return as_views(np.asarray(X)), np.asarray(y)

    def _outputs(self, X) -> Float[Tensor, "n V outputs"]:
        """What the fitted head says about each view of each row."""
        check_is_fitted(self)
        if getattr(X, "ndim", 2) <= 2:
            X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        else:
            X = check_array(X, **_AS_IT_IS)
        table = as_views(np.asarray(X))
        if table.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"expected tokens of width {self.n_features_in_}, as fitted; got {table.shape[-1]}"
            )
        return outputs_of([self.head_], table, np.arange(len(table)), self._fitting(0))[0]

    def _fitting(self, seed: int) -> Fitting:
        if min(self.epochs, self.batch_size) < 1:
            raise ValueError(
                "expected epochs and batch_size of at least 1; "
                f"got {self.epochs} and {self.batch_size}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is 'float32' or 'bfloat16'; got {self.precision!r}")
        return Fitting(
            self.epochs, self.batch_size, self.precision, torch.device(self.device), seed
        )

    def _train(
        self,
        table: Float[np.ndarray, "n V N D"],
        targets: Tensor,
        outputs: int,
        strata: tuple[np.ndarray, np.ndarray | None],
        loss: Loss,
        score: Score,
    ) -> None:
        """Choose from the grid on a held-out part, then train on everything.

        strata: codes that the split keeps in proportion, and groups that it keeps together.
        """
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fitting, dim = self._fitting(seed), table.shape[-1]
        self.head_, best, self.held_out_ = chosen_head(
            lambda: new_head(dim, outputs, self.heads or heads_of(dim), self.depth, fitting),
            rates_of(self.learning_rates, self.weight_decays),
            table,
            targets,
            strata,
            loss=loss,
            score=score,
            fitting=fitting,
            halving=self.halving,
        )
        self.learning_rate_, self.weight_decay_ = best


class AttentiveProbe(ClassifierMixin, _AttentiveEstimator):
    """Classifier of frozen tokens by a learnt query: V-JEPA's and V-JEPA 2's attentive probe.

    X [n, N, D] are the tokens of each image or clip: an array, or a memory map of any size, in
    float16, float32 or float64. [n, V, N, D] are several views of each (crops, clips of a video):
    training draws one of them per epoch, and probabilities are averaged over them.
    (A table whose loader gave V clips of each video in turn has them after `reshape(n, V, N, D)`.)
    [n, V, S, N, D] are views of S segments each, whose tokens become one sequence (V-JEPA's
    `attend_across_segments`). [n, D] are rows of one token. N, V and S may differ between `fit`
    and `predict`.

    All pairs of learning rate and weight decay are tried in one pass over the data: each batch
    is read once and every head learns from it, as it would alone. Heads start from the same
    weights. A stratified fifth is held out (whole groups, if `fit` is given groups); the pair with
    the best held-out accuracy (of equals, the smaller cross entropy) trains again on everything.
    AdamW, the learning rate falling to 0 along half a cosine, biases and norms without decay.

    Args:
        depth: 1 (V-JEPA 1), or 4: three self-attention blocks over all tokens first (V-JEPA 2),
            which costs about 70 times more.
        heads: attention heads, which must divide D; None: as many as are at least 64 wide.
        learning_rates, weight_decays: the grid; a single pair is used without holding out.
        halving: after each of equal parts of the training, five for twenty heads, the half of
            them that is worse on the held-out rows leaves, until one is left (successive halving,
            Jamieson & Talwalkar 2016, arXiv:1502.07943): less than half the time. Those that stay
            learn what they would have learnt; another pair may be chosen (benchmarks/README.md).
        epochs, batch_size: of training. The published 20 epochs are of large sets; below about a
            thousand steps in all, more epochs are better.
        precision: float32, or bfloat16 for autocast.
        device: where heads and batches live; X stays where it is.
        random_state: of the split, the initial weights, the order and the views.

    Attributes:
        head_: the AttentiveHead.
        learning_rate_, weight_decay_: the pair used.
        held_out_: {(learning_rate, weight_decay): held-out accuracy}, of heads that left when
            they did; empty for a single pair.
        classes_: sorted labels.
    """

    def fit(self, X, y, groups=None) -> AttentiveProbe:
        """y [n] of at least two classes; groups [n]: which rows show the same thing."""
        table, y = self._checked(X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes; got 1 class: {self.classes_}")
        targets, strata = torch.from_numpy(codes), (codes, codes_of(groups))
        self._train(table, targets, len(self.classes_), strata, F.cross_entropy, accuracy)
        return self

    def predict_proba(self, X) -> Float64[np.ndarray, "n c"]:
        """Probability of each class, averaged over views."""
        return probabilities(self._outputs(X)).numpy()

    def predict(self, X) -> np.ndarray:
        """The most probable class."""
        winner = self.predict_proba(X).argmax(axis=1)
        return self.classes_[winner]


class AttentiveRegressor(RegressorMixin, _AttentiveEstimator):
    """AttentiveProbe for numbers: speeds, positions, angles.

    Least squares on standardised targets, y [n] or [n, k]; predictions are averaged over views,
    and the pair of rates with the best held-out R2 (mean over the k) is used.

    Args, X and attributes as AttentiveProbe; `held_out_` holds R2.
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, groups=None) -> AttentiveRegressor:
        """y [n] or [n, k]; groups [n]: which rows show the same thing."""
        table, y = self._checked(X, y, multi_output=True, y_numeric=True)
        self._one = y.ndim == 1
        wanted = y.reshape(len(y), -1).astype(np.float64)
        self._mean, self._std = wanted.mean(axis=0), spread(wanted)
        targets = torch.from_numpy((wanted - self._mean) / self._std).float()
        strata = np.zeros(len(y), dtype=np.int64), codes_of(groups)
        self._train(table, targets, targets.shape[1], strata, F.mse_loss, _r2)
        return self

    def predict(self, X) -> Float64[np.ndarray, "n"] | Float64[np.ndarray, "n k"]:
        """The expected numbers, averaged over views."""
        numbers = self._outputs(X).double().mean(dim=1).numpy() * self._std + self._mean
        return numbers[:, 0] if self._one else numbers


def as_views(X: Float[np.ndarray, "..."]) -> Float[np.ndarray, "n V N D"]:
    """Any table of AttentiveProbe as views of one sequence of tokens each."""
    if X.ndim == 2:
        return X[:, None, None]
    if X.ndim == 3:
        return X[:, None]
    if X.ndim == 5:
        n, views, segments, tokens, dim = X.shape
        return X.reshape(n, views, segments * tokens, dim)
    if X.ndim != 4:
        raise ValueError(
            "expected X [n, D], [n, N, D], [n, views, N, D] or [n, views, segments, N, D]; "
            f"got shape {X.shape}"
        )
    return X


def heads_of(dim: int) -> int:
    """The most attention heads that divide the width and are at least 64 wide; 1 if none is."""
    return max((h for h in range(1, dim // 64 + 1) if dim % h == 0), default=1)


def _r2(outputs: Float[Tensor, "n V k"], truth: Float[Tensor, "n k"]) -> tuple[float, float]:
    """R2, the mean over the k targets, twice; of a constant one 1 if it is foretold, else 0."""
    wrong = (outputs.double().mean(dim=1) - truth).square().mean(dim=0)
    if not wrong.isfinite().all():
        return -np.inf, -np.inf
    varies = truth.double().var(dim=0, correction=0)
    r2 = torch.where(varies > _ROUNDING, 1 - wrong / varies, (wrong <= _ROUNDING).double())
    return float(r2.mean()), float(r2.mean())
