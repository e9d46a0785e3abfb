"""Training heads on a table of frozen features: many rates and decays, one pass of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Num
from torch import Tensor, nn

from jepa import seeds
from jepa.schedules import cosine

from .attentive import AttentiveHead, side_by_side
from .features import Precision

Loss = Callable[[Tensor, Tensor], Tensor]
Optimiser = Callable[[list[dict]], torch.optim.Optimizer]
Head = TypeVar("Head", bound=nn.Module)

ADAMW: Optimiser = partial(torch.optim.AdamW, fused=True)


class Rate(NamedTuple):
    """What one head of a grid is trained with."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Fitting:
    """How heads are trained, apart from their rates.

    epochs: passes over the rows; the learning rate falls to 0 along half a cosine.
    batch_size: rows per step; fewer in the last of an epoch.
    precision: bfloat16 runs the heads under autocast.
    device: where heads and batches live; the table stays where it is.
    seed: of initial weights, order and views.
    optimiser: from parameter groups with `lr` and `weight_decay`.
    """

    epochs: int
    batch_size: int
    precision: Precision
    device: torch.device
    seed: int
    optimiser: Optimiser = ADAMW


def new_head(dim: int, outputs: int, heads: int, depth: int, fitting: Fitting) -> AttentiveHead:
    """An attentive head with the weights that the seed gives."""
    return seeded(lambda: AttentiveHead(dim, outputs, heads=heads, depth=depth), fitting)


def seeded(build: Callable[[], Head], fitting: Fitting) -> Head:
    """What `build` makes, drawing from the seed; the global generator is left as it was."""
    with seeds.weights(fitting.seed, "attentive", "weights"):
        return build().to(fitting.device)


class Training:
    """Heads that learn from the same batches: each is read once, and every head learns from it.

    The heads do not influence one another: each has its rates, its loss and its gradient, and one
    that diverges leaves the others alone. Of several views of a row, one is drawn per epoch.
    Norms and biases do not decay.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        rates: Sequence[Rate],
        table: Float[np.ndarray, "n V N D"],
        targets: Num[Tensor, "n ..."],
        rows: Int64[np.ndarray, "m"],
        *,
        loss: Loss,
        fitting: Fitting,
    ) -> None:
        self.heads = heads
        self.steps = fitting.epochs * -(-len(rows) // fitting.batch_size)
        self._table, self._targets, self._loss, self._fitting = table, targets, loss, fitting
        self._done, self._batches = 0, enumerate(_order(rows, table.shape[1], fitting))
        pairs = enumerate(zip(heads, rates, strict=True))
        groups = [g for i, (head, rate) in pairs for g in _decayed(i, head, rate)]
        self._optimiser = fitting.optimiser(groups)

    def run(self, alive: Sequence[int], until: int) -> None:
        """Go on to step `until` with these heads alone; the others are left for good."""
        heads = [self.heads[i] for i in alive]
        for head in heads:
            head.train()
        optimiser, device = self._optimiser, self._fitting.device
        optimiser.param_groups = [g for g in optimiser.param_groups if g["head"] in alive]
        with side_by_side(heads) as read:
            for step, (chosen, views) in islice(self._batches, until - self._done):
                tokens = _tokens(self._table[chosen, views], device)
                wanted = self._targets[torch.from_numpy(chosen)].to(device)
                with _autocast(self._fitting):
                    outputs = read(tokens)
                total = torch.stack([self._loss(out.float(), wanted) for out in outputs]).sum()
                for group in optimiser.param_groups:
                    group["lr"] = cosine(step, self.steps, group["peak"], 0.0)
                optimiser.zero_grad()
                total.backward()
                optimiser.step()
        self._done = until

    def finish(self) -> None:
        """All heads to the end."""
        self.run(range(len(self.heads)), self.steps)


@torch.no_grad()
def outputs_of(
    heads: Sequence[nn.Module],
    table: Float[np.ndarray, "n V N D"],
    rows: Int64[np.ndarray, "m"],
    fitting: Fitting,
) -> Float[Tensor, "heads m V outputs"]:
    """What each head says about each view of the rows, in one pass, on the CPU."""
    for head in heads:
        head.eval()
    parts = []
    with side_by_side(heads) as read:
        for start in range(0, len(rows), fitting.batch_size):
            views = table[rows[start : start + fitting.batch_size]]
            tokens = _tokens(views.reshape(-1, *views.shape[2:]), fitting.device)
            with _autocast(fitting):
                outputs = read(tokens)
            parts.append(outputs.float().cpu().unflatten(1, views.shape[:2]))
    return torch.cat(parts, dim=1)


def spread(values: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "k"]:
    """Standard deviation of each column; 1 where it is constant but for rounding."""
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    rounding = len(values) * np.finfo(np.float64).eps * np.abs(mean)
    return np.where(std > rounding, std, 1.0)


def _order(
    rows: np.ndarray, views: int, fitting: Fitting
) -> Iterator[tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]]:
    """The rows of every step, ascending as a disk likes them, and the view of each."""
    for epoch in range(fitting.epochs):
        draw = seeds.generator(fitting.seed, "attentive", "order", epoch)
        order = rows[torch.randperm(len(rows), generator=draw).numpy()]
        drawn = torch.randint(views, (len(rows),), generator=draw).numpy()
        for start in range(0, len(rows), fitting.batch_size):
            part = slice(start, start + fitting.batch_size)
            yield np.sort(order[part]), drawn[part]


def _tokens(block: Float[np.ndarray, "b N D"], device: torch.device) -> Float[Tensor, "b N D"]:
    tokens = torch.from_numpy(np.ascontiguousarray(block)).to(device).float()
    if not tokens.isfinite().all():
        raise ValueError("Input X contains NaN or infinity")
    return tokens


def _autocast(fitting: Fitting) -> torch.autocast:
    half = fitting.precision == "bfloat16"
    return torch.autocast(fitting.device.type, torch.bfloat16, enabled=half)


def _decayed(number: int, head: nn.Module, rate: Rate) -> list[dict]:
    """Matrices with weight decay, vectors without; `peak` is the learning rate at the start."""
    weights = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim == 1]
    common = {"lr": rate.learning_rate, "peak": rate.learning_rate, "head": number}
    return [
        {"params": weights, "weight_decay": rate.weight_decay, **common},
        {"params": vectors, "weight_decay": 0.0, **common},
    ]
