"""The linear probe for numbers: ridge regression, and how sure its R2 is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Float64, Int64, Num
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .intervals import Interval, bootstrap
from .splits import split

PENALTIES = tuple(10.0**k for k in range(-2, 6))


class RidgeProbe(RegressorMixin, BaseEstimator):
    """Least squares with an L2 penalty on standardised features: scikit-learn's Ridge.

    Minimises sum_i |y_i - W x_i - b|^2 + alpha |W|^2. Unless there is one alpha only, a fifth of
    the rows is held out (whole groups, if `fit` is given groups), and the alpha with the best R2
    there is fitted again on everything. With fewer than five rows the middle of the grid is used.

    Args:
        alphas: the candidates.
        random_state: of the split.

    Attributes:
        alpha_: the penalty used.
        held_out_: {alpha: held-out R2}; empty if nothing was held out.
        coef_, intercept_: for features as given, not standardised: [D] and a number, or [k, D]
            and [k] for targets [n, k].
    """

    @no_type_check  # scikit-learn's rule: the constructor takes anything, `fit` refuses
    def __init__(
        self,
        alphas: Sequence[float] = PENALTIES,
        *,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.alphas = alphas
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, groups=None) -> RidgeProbe:
        """X [n, D], y [n] or [n, k]; groups [n]: which rows show the same thing."""
        X, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if groups is not None:
            groups = np.unique(groups, return_inverse=True)[1]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        alphas = sorted(float(alpha) for alpha in self.alphas)
        fitted, held_out = split(np.zeros(len(X), dtype=np.int64), len(X), seed, groups)
        self.alpha_, self.held_out_ = alphas[len(alphas) // 2], {}
        if len(alphas) > 1 and len(held_out) > 1:
            model = make_pipeline(StandardScaler(), Ridge())
            search = GridSearchCV(
                model, {"ridge__alpha": alphas}, cv=[(fitted, held_out)], refit=False
            ).fit(X, y)
            scores = search.cv_results_["mean_test_score"].tolist()
            self.held_out_ = dict(zip(alphas, scores, strict=True))
            self.alpha_ = search.best_params_["ridge__alpha"]
        scaler, ridge = StandardScaler(), Ridge(alpha=self.alpha_)
        ridge.fit(scaler.fit_transform(X), y)
        targets = y.shape[1:]  # which Ridge forgets of a single one
        self.coef_ = ridge.coef_.reshape(*targets, -1) / scaler.scale_
        self.intercept_ = np.reshape(ridge.intercept_, targets) - self.coef_ @ scaler.mean_
        return self

    def predict(self, X) -> Float64[np.ndarray, "n"] | Float64[np.ndarray, "n k"]:
        """The expected numbers."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.asarray(X, dtype=np.float64) @ self.coef_.T + self.intercept_


def r2_interval(
    truth: Num[np.ndarray, "n"],
    predicted: Float[np.ndarray, "n"],
    *,
    groups: Int64[np.ndarray, "_"] | None = None,
    seed: int,
) -> Interval:
    """R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2 with its 95 % bootstrap interval over rows, or
    whole groups of them."""
    pairs = np.stack([truth, predicted], axis=1).astype(np.float64)
    return bootstrap(pairs, r2, groups=groups, seed=seed)


def r2(pairs: Float64[np.ndarray, "n 2"]) -> float:
    """Of (truth, prediction), as scikit-learn's r2_score has it, whose checks of what it is given
    take ten times as long. Where truth does not vary: 1 if it is foretold, else 0."""
    truth, predicted = pairs.T
    missed = np.square(truth - predicted).sum()
    spread = np.square(truth - truth.mean()).sum()
    return float(1 - missed / spread) if spread else float(missed == 0)
