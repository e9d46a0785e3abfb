"""Choosing a learning rate and a weight decay: a grid of heads, judged on rows held out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Num
from torch import Tensor

from .attentive_fit import Fitting, Head, Loss, Rate, outputs_of, train
from .splits import split

log = logging.getLogger(__name__)

# What a held-out score is made from: outputs [m, V, outputs] and targets [m, ...]. The second
# number decides between heads whose first, the one that is reported, is equal.
Score = Callable[[Tensor, Tensor], tuple[float, float]]


def rates_of(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[Rate]:
    """All pairs. Raises ValueError where there is none, and for negative ones."""
    rates = [Rate(*pair) for pair in product(learning_rates, weight_decays)]
    if not rates or min(min(rate) for rate in rates) < 0:
        raise ValueError(f"expected learning rates and weight decays >= 0; got {rates}")
    return rates


def chosen_head(
    new_head: Callable[[], Head],
    rates: Sequence[Rate],
    table: Float[np.ndarray, "n V N D"],
    targets: Num[Tensor, "n ..."],
    strata: tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"] | None],
    *,
    loss: Loss,
    score: Score,
    fitting: Fitting,
) -> tuple[Head, Rate, dict[tuple[float, float], float]]:
    """The head of the best rates on a held-out part, trained again on everything.

    Args:
        new_head: a head with the initial weights, the same at every call.
        rates: the grid; a single pair is used without holding out.
        strata: codes that the split keeps in proportion, and groups that it keeps together.

    Returns:
        The head, its rates, and the held-out score of every pair.

    Raises:
        ValueError: if the last training diverged.
    """

    def trained(rates: Sequence[Rate], rows: np.ndarray) -> list[Head]:
        heads = [new_head() for _ in rates]
        train(heads, rates, table, targets, rows, loss=loss, fitting=fitting)
        return heads

    codes, groups = strata
    fitted, held_out = split(codes, len(codes), fitting.seed, groups)
    scores = {}
    if len(rates) > 1 and len(held_out) > 0:
        said = outputs_of(trained(rates, fitted), table, held_out, fitting)
        truth = targets[torch.from_numpy(held_out)]
        scores = {rate: score(o, truth) for rate, o in zip(rates, said, strict=True)}
    elif len(rates) > 1:
        log.warning("too few rows to hold some out: the middle of the grid is used")
    best = max(scores, key=scores.__getitem__) if scores else rates[len(rates) // 2]
    (head,) = trained([best], np.arange(len(table)))
    if not all(p.isfinite().all() for p in head.parameters()):
        raise ValueError(f"training diverged with {best}; give smaller learning_rates")
    held_out_scores = {(rate[0], rate[1]): first for rate, (first, _) in scores.items()}
    return head.eval(), best, held_out_scores


def codes_of(groups) -> Int64[np.ndarray, "n"] | None:
    """Groups of any kind as numbers from 0."""
    return None if groups is None else np.unique(groups, return_inverse=True)[1]


def probabilities(outputs: Float[Tensor, "n V c"]) -> Float64[Tensor, "n c"]:
    """Softmax of the logits, averaged over views."""
    return outputs.double().softmax(dim=-1).mean(dim=1)


def accuracy(outputs: Float[Tensor, "n V c"], codes: Int64[Tensor, "n"]) -> tuple[float, float]:
    """Accuracy, and the mean log probability of the truth."""
    p = probabilities(outputs)
    if not p.isfinite().all():
        return -np.inf, -np.inf
    right = (p.argmax(dim=1) == codes).double().mean()
    return float(right), float(p.gather(1, codes[:, None]).log().mean())
