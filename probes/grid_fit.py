"""Choosing a learning rate and a weight decay: a grid of heads, judged on rows held out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Num
from torch import Tensor, nn

from .attentive_fit import Fitting, Head, Loss, Rate, Training, outputs_of
from .splits import split

log = logging.getLogger(__name__)

# What a held-out score is made from: outputs [m, V, outputs] and targets [m, ...]. The second
# number decides between heads whose first, the one that is reported, is equal.
Score: TypeAlias = Callable[[Tensor, Tensor], tuple[float, float]]
# Codes that a split keeps in proportion, and groups that it keeps together.
Strata: TypeAlias = tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"] | None]


def rates_of(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[Rate]:
    """All pairs. Raises ValueError where there is none, and for negative ones."""
    rates = [Rate(*pair) for pair in product(learning_rates, weight_decays)]
    if not rates or min(min(rate) for rate in rates) < 0:
        raise ValueError(f"expected learning rates and weight decays >= 0; got {rates}")
    return rates


def held_out_scores(
    new_head: Callable[[], nn.Module],
    rates: Sequence[Rate],
    table: Float[np.ndarray, "n V N D"],
    targets: Num[Tensor, "n ..."],
    strata: Strata,
    *,
    loss: Loss,
    score: Score,
    fitting: Fitting,
    halving: bool = False,
) -> list[tuple[Rate, tuple[float, float]]]:
    """Every pair of rates and what its head scores on rows held out, the best first; nothing where
    no row can be held out. Arguments as `chosen_head`; with `halving` heads that left have the
    score that they left with, and are behind those that stayed."""
    fitted, held_out = split(strata[0], len(strata[0]), fitting.seed, strata[1])
    if not len(held_out):
        return []
    heads, truth = [new_head() for _ in rates], targets[torch.from_numpy(held_out)]
    training = Training(heads, rates, table, targets, fitted, loss=loss, fitting=fitting)
    ranked = list(range(len(rates)))
    scores, alive = {}, len(rates)
    parts = len(rates).bit_length() if halving else 1
    for part in range(1, parts + 1):
        training.run(ranked[:alive], math.ceil(training.steps * part / parts))
        said = outputs_of([heads[i] for i in ranked[:alive]], table, held_out, fitting)
        scores |= {i: score(o, truth) for i, o in zip(ranked[:alive], said, strict=True)}
        ranked[:alive] = sorted(ranked[:alive], key=scores.__getitem__, reverse=True)
        alive = max(alive // 2, 1)
    return [(rates[i], scores[i]) for i in ranked]


def chosen_head(
    new_head: Callable[[], Head],
    rates: Sequence[Rate],
    table: Float[np.ndarray, "n V N D"],
    targets: Num[Tensor, "n ..."],
    strata: Strata,
    *,
    loss: Loss,
    score: Score,
    fitting: Fitting,
    halving: bool = False,
) -> tuple[Head, Rate, dict[tuple[float, float], float]]:
    """The head of the best rates on a held-out part, trained again on everything.

    Args:
        new_head: a head with the initial weights, the same at every call.
        rates: the grid; a single pair is used without holding out.
        strata: codes that the split keeps in proportion, and groups that it keeps together.
        halving: the worse half of the heads leaves after each of several equal parts of the
            training, until one is left (Jamieson & Talwalkar 2016, arXiv:1502.07943).

    Returns:
        The head, its rates, and the held-out score of every pair.

    Raises:
        ValueError: if the last training diverged.
    """
    best, scores = rates[len(rates) // 2], []
    if len(rates) > 1:
        scores = held_out_scores(
            new_head, rates, table, targets, strata,
            loss=loss, score=score, fitting=fitting, halving=halving,
        )  # fmt: skip
        if scores:
            best = scores[0][0]
        else:
            log.warning("too few rows to hold some out: the middle of the grid is used")
    head, every = new_head(), np.arange(len(table))
    Training([head], [best], table, targets, every, loss=loss, fitting=fitting).finish()
    if not all(p.isfinite().all() for p in head.parameters()):
        raise ValueError(f"training diverged with {best}; give smaller learning_rates")
    return head.eval(), best, {(rate[0], rate[1]): first for rate, (first, _) in scores}


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
