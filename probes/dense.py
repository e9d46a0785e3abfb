"""Dense probe: what does each frozen token know about the pixels that it covers? Segmentation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state, check_X_y, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional as F

from jepa.schedules import cosine
from jepa.seeds import generator

from .segmentation import IGNORED, confusion, mean_iou, segmentation
from .splits import split

log = logging.getLogger(__name__)

LEARNING_RATES = (1e-1, 1e-2, 1e-3)

_AS_IT_IS = {  # a table of tokens may be larger than memory: neither copied nor read through here
    "dtype": [np.float16, np.float32, np.float64],
    "allow_nd": True,
    "ensure_all_finite": False,
}


class DenseProbe(ClassifierMixin, BaseEstimator):
    """One linear layer for all tokens, whose logits are enlarged to the mask: DINOv2's protocol.

    X [n, N, D] are the tokens of each image, in raster order over a grid: an array, or a memory
    map of any size, in float16, float32 or float64. y [n, H, W] is the class of each pixel. (Also
    X [n, D] and y [n]: one token, one pixel.) Logits are enlarged bilinearly and scored against
    every pixel by cross entropy, as in Oquab et al. 2023 (arXiv:2304.07193), section 7.4. One
    label a token would be simpler, but the mean intersection over union is counted in pixels, and
    small things and outlines are below a token's size.

    Tokens are standardised; AdamW from zeros, the learning rate falling to 0 along half a cosine.
    All learning rates are tried in one pass over the data: a fifth of the images is held out
    (whole groups, if `fit` is given groups), and the rate with the best mean intersection over
    union there trains again on everything.

    Args:
        grid: (h, w) of the tokens; None: as many rows as columns.
        learning_rates: the candidates; a single one is used without holding out.
        weight_decay: AdamW's; the published one hardly matters, as the layer is small.
        epochs, batch_size: of training, in images.
        device: where batches live; X stays where it is.
        random_state: of the split and of the order.

    Attributes:
        classes_: sorted classes, without 255.
        coef_, intercept_: [c, D] and [c] for tokens as given, not standardised.
        learning_rate_: the one used.
        held_out_: {learning rate: held-out mean intersection over union}; empty for a single one.
    """

    @no_type_check  # scikit-learn's rule: the constructor takes anything, `fit` refuses
    def __init__(
        self,
        *,
        grid: tuple[int, int] | None = None,
        learning_rates: Sequence[float] = LEARNING_RATES,
        weight_decay: float = 1e-4,
        epochs: int = 20,
        batch_size: int = 32,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.grid = grid
        self.learning_rates = learning_rates
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, X, y, groups=None) -> DenseProbe:
        """y [n, H, W] of at least two classes, 255 where a pixel does not count; groups [n]: which
        images show the same thing."""
        if getattr(X, "ndim", 2) <= 2:
            X, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
            X, y = np.asarray(X)[:, None], np.asarray(y)
            self._mask = ()
            y = y[:, None, None]
        else:
            images = np.arange(len(y))
            X, _ = check_X_y(X, images, **_AS_IT_IS)
            X, y = np.asarray(X), np.asarray(y)
            self.n_features_in_, self._mask = X.shape[-1], y.shape[1:]
        self._checked(X, y)
        check_classification_targets(y.ravel())
        found = np.unique(y)
        self.classes_ = found[[code != IGNORED for code in found.tolist()]]
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes; got 1 class: {self.classes_}")
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        codes[self.classes_[codes] != y] = -1
        if groups is not None:
            groups = np.unique(groups, return_inverse=True)[1]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fitted, held_out = split(np.zeros(len(X), dtype=np.int64), len(X), seed, groups)
        rates, self.held_out_ = list(self.learning_rates), {}
        self.learning_rate_ = rates[len(rates) // 2]
        if len(rates) > 1 and len(held_out) > 0:
            for rate, layer in zip(rates, self._train(X, codes, fitted, rates, seed), strict=True):
                said = self._predicted(X[held_out], layer, codes.shape[1:])
                tables = confusion(codes[held_out], said, len(self.classes_))
                self.held_out_[rate] = mean_iou(tables)
            self.learning_rate_ = max(rates, key=self.held_out_.__getitem__)
        elif len(rates) > 1:
            log.warning("too few images to hold some out: the middle learning rate is used")
        every = np.arange(len(X))
        (layer,) = self._train(X, codes, every, [self.learning_rate_], seed)
        self.coef_, self.intercept_ = layer
        return self

    def predict(self, X) -> Shaped[np.ndarray, "n *mask"]:
        """The class of each pixel, in masks of the size that was fitted."""
        check_is_fitted(self)
        if getattr(X, "ndim", 2) <= 2:
            X = np.asarray(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))
            X = X[:, None]
        else:
            X = np.asarray(check_array(X, **_AS_IT_IS))
        if X.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"expected tokens of width {self.n_features_in_}, as fitted; got {X.shape[-1]}"
            )
        codes = self._predicted(X, (self.coef_, self.intercept_), self._mask or (1, 1))
        return self.classes_[codes.reshape(len(X), *self._mask)]

    def score(self, X, y, sample_weight=None) -> float:
        """Mean intersection over union of all images; accuracy for one pixel each.

        Pixels of class 255 in y do not count.
        """
        if not self._mask:
            counts = np.array([code != IGNORED for code in np.asarray(y).tolist()])
            weights = counts * (1.0 if sample_weight is None else np.asarray(sample_weight))
            return super().score(X, y, weights)
        return segmentation(np.asarray(y), self.predict(X), resamples=1).mean_iou.value

    def _checked(self, X: np.ndarray, y: np.ndarray) -> None:
        if y.ndim != 3 or X.ndim != 3 or len(X) != len(y):
            raise ValueError(
                "expected tokens [n, N, D] and masks [n, H, W] of as many images; "
                f"got shapes {X.shape} and {y.shape}"
            )
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"expected learning rates > 0; got {self.learning_rates}")
        if min(self.epochs, self.batch_size) < 1:
            raise ValueError(
                "expected epochs and batch_size of at least 1; "
                f"got {self.epochs} and {self.batch_size}"
            )

    def _grid(self, tokens: int) -> tuple[int, int]:
        side = math.isqrt(tokens)
        h, w = (side, side) if self.grid is None else self.grid
        if h * w != tokens:
            raise ValueError(f"{tokens} tokens are no grid of {h} x {w}; give grid=(h, w)")
        return h, w

    def _train(
        self,
        X: Float[np.ndarray, "n N D"],
        codes: Int64[np.ndarray, "n H W"],
        rows: Int64[np.ndarray, "m"],
        rates: list[float],
        seed: int,
    ) -> list[tuple[Float64[np.ndarray, "c D"], Float64[np.ndarray, "c"]]]:
        """For each learning rate, the layer that it leads to, for tokens as given."""
        grid, classes = self._grid(X.shape[1]), len(self.classes_)
        mean, std = _moments(X, rows)
        shift, scale = (torch.from_numpy(v).float().to(self.device) for v in (mean, std))
        layers = [torch.zeros(classes, X.shape[2] + 1, device=self.device) for _ in rates]
        optimiser = torch.optim.AdamW(
            [
                {"params": [layer.requires_grad_()], "lr": rate, "peak": rate}
                for layer, rate in zip(layers, rates, strict=True)
            ],
            weight_decay=self.weight_decay,
        )
        steps = self.epochs * -(-len(rows) // self.batch_size)
        for step, chosen in enumerate(_order(rows, self.epochs, self.batch_size, seed)):
            tokens = torch.from_numpy(X[chosen]).to(self.device).float()
            wanted = torch.from_numpy(codes[chosen]).to(self.device).repeat(len(rates), 1, 1)
            weights = torch.stack(layers)
            logits = torch.einsum("bnd,vcd->vbcn", (tokens - shift) / scale, weights[..., :-1])
            logits = (logits + weights[:, None, :, -1:]).flatten(0, 1).unflatten(-1, grid)
            loss = F.cross_entropy(
                enlarged(logits, wanted.shape[1:]), wanted, ignore_index=-1, reduction="sum"
            )
            for group in optimiser.param_groups:
                group["lr"] = cosine(step, steps, group["peak"], 0.0)
            optimiser.zero_grad()
            (loss * len(rates) / (wanted >= 0).sum().clamp(min=1)).backward()
            optimiser.step()
        fitted = [layer.detach().cpu().double().numpy() for layer in layers]
        return [(f[:, :-1] / std, f[:, -1] - f[:, :-1] @ (mean / std)) for f in fitted]

    def _predicted(
        self,
        X: Float[np.ndarray, "n N D"],
        layer: tuple[Float64[np.ndarray, "c D"], Float64[np.ndarray, "c"]],
        size: tuple[int, ...],
    ) -> Int64[np.ndarray, "n H W"]:
        """Class numbers, in float64, so that they do not depend on the other images."""
        grid, parts = self._grid(X.shape[1]), []
        for rows in gen_batches(len(X), self.batch_size):
            logits = X[rows].astype(np.float64) @ layer[0].T + layer[1]
            if not np.isfinite(logits).all():
                raise ValueError("Input X contains NaN or infinity")
            on_grid = torch.from_numpy(logits).transpose(1, 2).unflatten(-1, grid)
            parts.append(enlarged(on_grid, size).argmax(dim=1).numpy())
        return np.concatenate(parts)


def enlarged(logits: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Bilinear, each token in the middle of its patch."""
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def _order(rows: np.ndarray, epochs: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """The images of every step, ascending as a disk likes them."""
    for epoch in range(epochs):
        drawn = torch.randperm(len(rows), generator=generator(seed, "dense", "order", epoch))
        order = rows[drawn.numpy()]
        for some in gen_batches(len(rows), batch):
            yield np.sort(order[some])


def _moments(
    X: Float[np.ndarray, "n N D"], rows: np.ndarray
) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]:
    """Mean and standard deviation of the tokens; 1 where they do not differ."""
    scaler = StandardScaler()
    for some in gen_batches(len(rows), 64):
        scaler.partial_fit(X[rows[some]].reshape(-1, X.shape[2]).astype(np.float64))
    mean, std = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
    if not np.isfinite(mean).all():
        raise ValueError("Input X contains NaN or infinity")
    return mean, std
