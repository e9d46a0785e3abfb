"""Probes and feature tables, each against the least that its work could cost.

- The linear probe at one C against scikit-learn's LogisticRegression, on standardised pixels of
  Fashion-MNIST: time, and the objective and test accuracy that each ends at. The time of ours
  includes the standardisation, scikit-learn's does not.
- Training 20 attentive heads against training one (depth 1): one of ours, and one that computes
  keys and values of every token. And choosing among 20 by halving, on a held-out fifth, against
  training one on everything.
- Extraction (poolings last and last4, to a table on disk) against a bare loop of the encoder's
  forward pass over the same batches in memory; the encoder's fingerprint is part of extraction.

Everything is taken in turns; medians, of ratios too. Prints a Markdown table.

    python benchmarks/probes.py --threads 2
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from jepa import seeds
from jepa.datasets.images import open_images
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.attentive import AttentiveHead
from jepa.probes.attentive_fit import Fitting, Rate, Training, new_head
from jepa.probes.attentive_probe import LEARNING_RATES, WEIGHT_DECAYS
from jepa.probes.features import extract
from jepa.probes.grid_fit import accuracy, held_out_scores, rates_of
from jepa.probes.linear import LinearProbe
from jepa.timm_encoder import TimmEncoder

# Samples, tokens, width: images in patches of 32 pixels, and of 16; clips of 16 frames in ViT-S.
TABLES = ((2000, 49, 192), (2000, 196, 192), (192, 1568, 384))


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(name: str, ours: Callable, other: Callable, repeats: int, remark: Callable) -> str:
    """A line of the table: median times of both, taken in turns, and of their ratio."""
    turns = [(seconds(ours), seconds(other)) for _ in range(repeats)]
    first, second = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio = statistics.median(b / a for a, b in turns)
    return f"| {name} | {first:.3f} | {second:.3f} | {ratio:.2f} | {remark()} |"


def pixels(split: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST as float32 [n, 784] and its labels."""
    images = open_images("fashion-mnist", "train" if split == "train" else "test")
    first = torch.stack([images[i][0] for i in range(min(rows, len(images)))])
    return first.flatten(1).numpy().astype(np.float32) / 255, images.labels[: len(first)].numpy()


def linear(rows: int, repeats: int, solver: str, tol: float) -> Iterator[str]:
    """Against scikit-learn, for two penalties."""
    x, y = pixels("train", rows)
    x_test, y_test = pixels("test", 10_000)
    scaler = StandardScaler().fit(x.astype(np.float64))
    z, z_test = (np.asarray(scaler.transform(part.astype(np.float64))) for part in (x, x_test))
    z32 = z.astype(np.float32)

    def objective(coef: np.ndarray, intercept: np.ndarray, C: float) -> float:
        logits = torch.from_numpy(z @ coef.T + intercept)
        loss = F.cross_entropy(logits, torch.from_numpy(y))
        return float(loss) + float(np.square(coef).sum()) / (2 * C * len(z))

    for C in (0.01, 1.0):
        ours = LinearProbe(C=C)
        theirs = LogisticRegression(C=C, solver=solver, tol=tol, max_iter=5000)

        def remark(C: float = C, ours=ours, theirs=theirs) -> str:
            scale = np.asarray(scaler.scale_)
            shift = ours.intercept_ + ours.coef_ @ np.asarray(scaler.mean_)
            ends = (
                objective(ours.coef_ * scale, shift, C),
                objective(theirs.coef_, np.asarray(theirs.intercept_), C),
            )
            right = ours.score(x_test, y_test), theirs.score(z_test, y_test)
            return (
                f"objective {ends[0]:.6f} and {ends[1]:.6f}, "
                f"test accuracy {right[0]:.4f} and {right[1]:.4f}, "
                f"iterations {ours.n_iter_} and {int(np.max(theirs.n_iter_))}"
            )

        name = f"LinearProbe(C={C}), {len(x)} x {x.shape[1]}, against {solver}"
        yield row(name, lambda p=ours: p.fit(x, y), lambda p=theirs: p.fit(z32, y), repeats, remark)


class AsPublished(nn.Module):
    """The same head with keys and values of every token, as the published classifiers have it."""

    def __init__(self, head: AttentiveHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, outputs]."""
        pooler, block = self.head.pooler, self.head.pooler.cross_attention_block
        attention, query = block.xattn, pooler.query_tokens.expand(len(tokens), -1, -1)
        kv = attention.kv(block.norm1(tokens)).unflatten(-1, (2, attention.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        q = attention.q(query).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        pooled = query + seen
        return self.head.linear((pooled + block.mlp(block.norm2(pooled)))[:, 0])


def attentive(samples: int, tokens: int, dim: int, repeats: int) -> Iterator[str]:
    """One epoch of 1 head, then of 20; and of 1 head as published, then of 20 of ours."""
    random = np.random.default_rng(0)
    table = random.normal(size=(samples, 1, tokens, dim)).astype(np.float16)
    targets, rows = torch.from_numpy(random.integers(10, size=samples)), np.arange(samples)
    fitting = Fitting(1, 64, "float32", torch.device("cpu"), seed=0)
    one = new_head(dim, 10, dim // 64, 1, fitting)
    some = torch.randn(2, tokens, dim)
    with torch.no_grad():
        apart = float((AsPublished(one)(some) - one(some)).abs().max())

    def epoch(heads: Sequence[nn.Module]) -> None:
        rates = [Rate(1e-3 / (i + 1), 0.01) for i in range(len(heads))]
        loss = F.cross_entropy
        Training(heads, rates, table, targets, rows, loss=loss, fitting=fitting).finish()

    grid = [new_head(dim, 10, dim // 64, 1, fitting) for _ in range(20)]
    data = f"{samples} x {tokens} x {dim} float16, one epoch, against 20 heads"
    yield row(
        f"1 attentive head, {data}", lambda: epoch([one]), lambda: epoch(grid), repeats,
        lambda: "training only",
    )  # fmt: skip
    yield row(
        f"1 attentive head as published, {data}", lambda: epoch([AsPublished(one)]),
        lambda: epoch(grid), repeats, lambda: f"outputs differ by {apart:.0e}",
    )  # fmt: skip
    rates = rates_of(LEARNING_RATES, WEIGHT_DECAYS)
    long = dataclasses.replace(fitting, epochs=10)

    def halving() -> None:
        held_out_scores(
            lambda: new_head(dim, 10, dim // 64, 1, long), rates, table, targets,
            (targets.numpy(), None),
            loss=F.cross_entropy, score=accuracy, fitting=long, halving=True,
        )  # fmt: skip

    def alone() -> None:
        loss = F.cross_entropy
        Training([one], rates[:1], table, targets, rows, loss=loss, fitting=long).finish()

    yield row(
        f"1 attentive head, {samples} x {tokens} x {dim} float16, 10 epochs, against choosing "
        "among 20 by halving", alone, halving, repeats, lambda: "with 5 looks at the held-out rows",
    )  # fmt: skip


def extraction(name: str, encoder: FrozenEncoder, images: Tensor, batch: int, repeats: int) -> str:
    """The bare forward pass, then extraction of the same batches."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))

    def bare() -> None:
        with torch.no_grad():
            for part, _ in batches:
                encoder(part)

    def table() -> None:
        with tempfile.TemporaryDirectory() as folder:
            extract(encoder, batches, ("last", "last4"), cache=Path(folder), data="made")

    cost = f"of which fingerprint {1e3 * seconds(encoder.fingerprint):.0f} ms"
    return row(f"forward of {name}, against extraction", bare, table, repeats, lambda: cost)


def extractions(repeats: int) -> Iterator[str]:
    """The model of recipes/configs/ijepa_fashion_mnist.yaml, and timm's vit_tiny at 224."""
    small = VisionTransformer(image_size=28, patch_size=7, channels=1, dim=128, depth=4, heads=2)
    encoder = FrozenEncoder(small, mean=[0.286], std=[0.353])
    images = open_images("fashion-mnist", "test")
    some = torch.stack([images[i][0] for i in range(len(images))])
    yield extraction("Fashion-MNIST's model, 10,000 images", encoder, some, 256, repeats)
    timm = TimmEncoder("vit_tiny_patch16_224", pretrained=False)
    draw = seeds.generator(0, "benchmark", "images")
    some = torch.randint(256, (128, 3, 224, 224), generator=draw, dtype=torch.uint8)
    encoder = FrozenEncoder(timm, mean=timm.mean, std=timm.std)
    yield extraction("vit_tiny at 224, 128 images", encoder, some, 32, repeats)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Probes against the least they could cost.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60_000, help="training images of `linear`")
    parser.add_argument("--solver", default="lbfgs", help="of scikit-learn's LogisticRegression")
    parser.add_argument("--tol", type=float, default=1e-4, help="of scikit-learn's solver")
    parser.add_argument("--only", choices=("linear", "attentive", "extraction"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("always", ConvergenceWarning)
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "extraction": lambda: extractions(options.repeats),
        "attentive": lambda: chain(*(attentive(*size, options.repeats) for size in TABLES)),
        "linear": lambda: linear(options.rows, options.repeats, options.solver, options.tol),
    }
    print(f"{options.threads} threads, median of {options.repeats}\n")
    print("| first, against second | first, s | second, s | second / first | |")
    print("|---|---|---|---|---|")
    with threadpool_limits(options.threads):
        for name, lines in parts.items():
            for line in lines() if options.only in (None, name) else ():
                print(line, flush=True)


if __name__ == "__main__":
    main()
