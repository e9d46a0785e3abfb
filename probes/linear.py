"""The linear probe: multinomial logistic regression, fitted to its optimum."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional as F

from jepa.linear import has_one_dnn, product

from .splits import folds

log = logging.getLogger(__name__)

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression with an L2 penalty, on standardised features.

    Minimises sum_i cross_entropy_i + |W|^2 / (2 C), W on features of mean 0 and variance 1, the
    intercept free: the optimum of scikit-learn's `StandardScaler` and `LogisticRegression(C)`
    (two classes share one weight vector, as there). L-BFGS runs in coordinates in which the
    Hessian at the start is about the identity, so that correlated features cost fewer
    iterations; the two large products are in the precision of X, everything else in float64.

    C, unless given, is chosen on training data only. A stratified fifth is held out (whole groups,
    if `fit` is given groups: near-copies of a training row would praise too weak a penalty), of
    small sets each fifth in turn (see `folds`). The grid is fitted on the rest (to ten times
    `tol`), from the strongest penalty to the weakest, each starting at the last optimum, until
    two in a row are worse than the best so far; the C with the best held-out accuracy (of equals,
    the smaller cross entropy) is refitted on everything. With more than `selection_size` rows the
    grid uses a stratified draw of that many. Where nothing can be held out (classes of fewer than
    five rows), C is 1.

    Args:
        C: inverse strength of the penalty, as in scikit-learn; None: chosen.
        grid: the candidates.
        selection_size: rows used for choosing.
        tol: converged when no entry of the gradient of the mean loss exceeds it, in those
            coordinates.
        max_iter: iterations of one fit; a ConvergenceWarning tells when they did not do.
        random_state: of the split (and draw), as in scikit-learn.

    Attributes:
        coef_, intercept_: [c, D] and [c] for features as given, not standardised; c = 1 for two
            classes.
        C_: the inverse strength used.
        held_out_: {C: held-out accuracy} of the candidates tried; empty if C was given.
        n_iter_: iterations of the final fit.
        classes_: sorted labels.
    """

    @no_type_check  # scikit-learn's rule: the constructor takes anything, `fit` refuses
    def __init__(
        self,
        C: float | None = None,
        *,
        grid: Sequence[float] = STRENGTHS,
        selection_size: int = 20_000,
        tol: float = 1e-4,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.C = C
        self.grid = grid
        self.selection_size = selection_size
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X, y, groups=None) -> LinearProbe:
        """X [n, D], y [n] of at least two classes; groups [n]: which rows show the same thing."""
        rows, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        X = np.asarray(rows)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if groups is not None:
            groups = np.unique(groups, return_inverse=True)[1]
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes; got 1 class: {self.classes_}")
        for strength in self.grid if self.C is None else (self.C,):
            if not 0 < strength < np.inf:
                raise ValueError(f"expected 0 < C < inf; got C={strength}")
        scores = {} if self.C is not None else self._try_grid(X, codes, groups)
        self.held_out_ = {c: accuracy for c, (accuracy, _) in scores.items()}
        self.C_ = self.C or max(scores, key=scores.__getitem__, default=1.0)
        problem = _Problem(X, codes, len(self.classes_))
        start = torch.zeros(problem.shape, dtype=torch.float64)
        theta, self.n_iter_ = problem.solve(start, self.C_, self.tol, self.max_iter)
        self.coef_, self.intercept_ = (part.numpy() for part in problem.unstandardised(theta))
        return self

    def _try_grid(
        self, X: np.ndarray, codes: np.ndarray, groups: np.ndarray | None
    ) -> dict[float, tuple[float, float]]:
        """Held-out accuracy, and mean log probability of the truth, for every C of the grid."""
        parts = folds(codes, self.selection_size, self.random_state, groups)
        if not parts:
            log.warning("too few rows in every class to hold some out: C = 1 is used")
            return {}
        problems = [_Problem(X[fitted], codes[fitted], len(self.classes_)) for fitted, _ in parts]
        thetas = [torch.zeros(problem.shape, dtype=torch.float64) for problem in problems]
        rows = sum(len(held_out) for _, held_out in parts)
        scores = {}
        for c in sorted(self.grid):
            right, likely = 0, 0.0
            for i, (problem, (_, held_out)) in enumerate(zip(problems, parts, strict=True)):
                thetas[i], _ = problem.solve(thetas[i], c, 10 * self.tol, self.max_iter)
                weights, intercept = (part.numpy() for part in problem.unstandardised(thetas[i]))
                logits, truth = _all_columns(X[held_out] @ weights.T + intercept), codes[held_out]
                right += int((logits.argmax(dim=1).numpy() == truth).sum())
                likely -= float(F.cross_entropy(logits, torch.from_numpy(truth), reduction="sum"))
            scores[float(c)] = (right / rows, likely / rows)
            accuracies = [accuracy for accuracy, _ in scores.values()]
            if max(accuracies[-2:]) < max(accuracies):
                break
        return scores

    def decision_function(self, X) -> Float64[np.ndarray, "n"] | Float64[np.ndarray, "n c"]:
        """Logits [n, c]; for two classes that of the second, [n]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        logits = X @ self.coef_.T + self.intercept_
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X) -> Float64[np.ndarray, "n c"]:
        """Probability of each class."""
        return _all_columns(self.decision_function(X)).softmax(dim=1).numpy()

    def predict(self, X) -> np.ndarray:
        """The most probable class."""
        winner = _all_columns(self.decision_function(X)).argmax(dim=1).numpy()
        return self.classes_[winner]


def _all_columns(logits: np.ndarray | Tensor) -> Tensor:
    """Logits [n, classes]: where one column speaks for two classes, the first one's are 0."""
    logits = torch.as_tensor(logits).reshape(len(logits), -1)
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Small problems lose more to waking threads, up to 50x on a busy machine, than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Problem:
    """The penalised mean loss of one training set; theta [D + 1, c] = weights over intercepts.

    Holds a standardised copy of the features in their own precision; logits, losses, theta and
    everything that L-BFGS does with them are float64. The optimum is a combination of the rows:
    where these are fewer than the features, D, both are told in an orthonormal basis of what the
    rows span, and D is the number of rows.
    """

    def __init__(self, X: Float[np.ndarray, "n d"], codes: np.ndarray, classes: int) -> None:
        blocks = list(gen_batches(len(X), max(256, 2_000_000 // X.shape[1])))
        scaler, standardised = StandardScaler(), np.empty_like(X)
        for rows in blocks:
            scaler.partial_fit(X[rows].astype(np.float64))
        for rows in blocks:
            standardised[rows] = scaler.transform(X[rows].astype(np.float64))
        self.Z, self.codes = torch.from_numpy(standardised), torch.from_numpy(codes)
        self.mean = torch.from_numpy(np.asarray(scaler.mean_))
        self.scale = torch.from_numpy(np.asarray(scaler.scale_))
        self.basis: Float64[Tensor, "d n"] | None = None
        if len(X) < X.shape[1]:
            self.basis, along = torch.linalg.qr(self.Z.T.double())
            self.Z = along.T.to(self.Z).contiguous()
        self.classes = classes
        self.shape = (self.Z.shape[1] + 1, classes if classes > 2 else 1)

    def unstandardised(self, theta: Tensor) -> tuple[Float64[Tensor, "c d"], Float64[Tensor, "c"]]:
        """Weights and intercepts for features as given."""
        weights = theta[:-1] if self.basis is None else self.basis @ theta[:-1]
        weights = weights / self.scale[:, None]
        return weights.T.contiguous(), theta[-1] - self.mean @ weights

    def _factor(self, theta: Tensor, penalty: float) -> Float64[Tensor, "d d"]:
        """Lower L; L L^T is about the Hessian in the weights of one class, averaged over classes.

        All rows count: a pixel that is black in nearly all images is known from the others alone.
        Of features that are nearly one another float32 may round it to what has no factor: it is
        summed in float64 then.
        """
        doubt = 1 - self._log_p(theta).exp().square().sum(dim=0)
        share = (doubt / (self.classes * len(self.Z))).to(self.Z)
        ridge = penalty * torch.eye(self.Z.shape[1]).double()
        curvature = (self.Z.T @ (share[:, None] * self.Z)).double()
        L, failed = torch.linalg.cholesky_ex(curvature + ridge)
        if failed:
            curvature.zero_()
            for z, weight in zip(self.Z.split(10_000), share.split(10_000), strict=True):
                curvature += z.double().T @ (weight[:, None].double() * z)
            L = torch.linalg.cholesky(curvature + ridge)
        return L

    def _log_p(self, theta: Tensor) -> Float64[Tensor, "classes n"]:
        """Log probabilities, a row for each class: a softmax over rows is many times faster."""
        weights = theta[:-1].T.to(self.Z)
        one_dnn = (
            self.Z.dtype == torch.float32 and has_one_dnn()
        )  # twice MKL's speed for few columns
        logits = product(self.Z, weights) if one_dnn else F.linear(self.Z, weights)
        logits = logits.T.contiguous().double() + theta[-1][:, None]
        return F.pad(logits, (0, 0, self.classes - len(logits), 0)).log_softmax(dim=0)

    def loss(self, theta: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Mean cross entropy + penalty / 2 |W|^2, and its gradient [D + 1, c]."""
        log_p, codes = self._log_p(theta), self.codes[None]
        loss = penalty / 2 * theta[:-1].square().sum() - log_p.gather(0, codes).mean()
        error = log_p.exp_()
        error.scatter_add_(0, codes, -torch.ones_like(codes, dtype=error.dtype))
        error = error[-theta.shape[1] :] / len(self.Z)
        slope = (error.to(self.Z) @ self.Z).T.double() + penalty * theta[:-1]
        return loss, torch.cat([slope, error.sum(dim=1)[None]])

    def solve(self, theta: Tensor, C: float, tol: float, max_iter: int) -> tuple[Tensor, int]:
        """The optimum from a start, and the iterations it took.

        L-BFGS runs on L^T W, where L L^T is about the Hessian at the start.
        """
        penalty = 1 / (C * len(self.Z))
        L = self._factor(theta, penalty)
        scaled = torch.cat([L.T @ theta[:-1], theta[-1:]]).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [scaled],
            max_iter=max_iter,
            max_eval=2 * max_iter,
            tolerance_grad=tol,
            tolerance_change=1e-16,
            history_size=50,
            line_search_fn="strong_wolfe",
        )

        def to_weights() -> Tensor:
            weights = torch.linalg.solve_triangular(L.T, scaled.detach()[:-1], upper=True)
            return torch.cat([weights, scaled.detach()[-1:]])

        def closure() -> Tensor:
            loss, gradient = self.loss(to_weights(), penalty)
            slope = torch.linalg.solve_triangular(L, gradient[:-1], upper=False)
            scaled.grad = torch.cat([slope, gradient[-1:]])
            return loss

        with _threads(1 if self.Z.numel() < 1_000_000 else torch.get_num_threads()):
            optimiser.step(closure)
            closure()
        assert scaled.grad is not None
        left = float(scaled.grad.abs().max())
        if left > 10 * tol:
            warnings.warn(
                f"C={C}: gradient {left:.1e} above tol={tol} after {max_iter} iterations; "
                "raise max_iter, or give a smaller C",
                ConvergenceWarning,
                stacklevel=2,
            )
        return to_weights(), optimiser.state[scaled]["n_iter"]
