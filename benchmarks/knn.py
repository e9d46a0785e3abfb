"""Nearest neighbours: exact and approximate, against scikit-learn: `python benchmarks/knn.py`.

The 20 nearest by cosine of 10,000 queries in a bank of 60,000 rows of 192 numbers: the mean token
of a ViT (192 wide, 4 blocks) with random weights, of Fashion-MNIST's test and training images.
Both sides have as many threads. A turn is every way once, building the index included; medians
over turns. Recall is against float64. Prints a Markdown table.

    python benchmarks/knn.py --threads 2 --repeats 3
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from jepa.datasets.idx import fashion_mnist
from jepa.datasets.images import Split
from jepa.encoder import VisionTransformer
from jepa.probes.knn import KNNProbe

K = 20
WAYS = ("scikit-learn, brute", "flat", "ivf", "hnsw")


@torch.no_grad()
def features(split: Split, rows: int) -> np.ndarray:
    """[rows, 192]: what the encoder makes of the first images of Fashion-MNIST."""
    torch.manual_seed(0)
    encoder = VisionTransformer(
        image_size=28, patch_size=7, channels=1, dim=192, depth=4, heads=3
    ).eval()
    images = fashion_mnist(split).images[:rows]
    return torch.cat([encoder(b / 255 - 0.5).mean(dim=1) for b in images.split(1000)]).numpy()


def timed(way: str, bank: np.ndarray, queries: np.ndarray, threads: int) -> tuple[float, float]:
    """Seconds to build, and to find the neighbours."""
    began = time.perf_counter()
    if way == WAYS[0]:
        search: Any = NearestNeighbors(
            n_neighbors=K, metric="cosine", algorithm="brute", n_jobs=threads
        ).fit(bank)
        built = time.perf_counter()
        search.kneighbors(queries)
    else:
        kind: Any = way
        probe = KNNProbe(k=K, index=kind).fit(bank, np.arange(len(bank)) % 10)
        built = time.perf_counter()
        probe.neighbours(queries)
    return built - began, time.perf_counter() - built


def recall(way: str, bank: np.ndarray, queries: np.ndarray, threads: int) -> float:
    """Share of the exact neighbours of 1,000 queries that are found."""
    if way != WAYS[0]:
        kind: Any = way
        probe = KNNProbe(k=K, index=kind).fit(bank, np.arange(len(bank)) % 10)
        return probe.recall(queries).value
    some = queries[:1000]
    near: Any = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute", n_jobs=threads)
    found = near.fit(bank).kneighbors(some, return_distance=False)
    exact = KNNProbe(k=K).fit(bank, np.arange(len(bank)) % 10).neighbours(some)[1]
    return float(np.mean([np.isin(f, e).mean() for f, e in zip(found, exact, strict=True)]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Nearest neighbours against scikit-learn.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bank", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    bank, queries = features("train", options.bank), features("test", options.queries)
    turns = [
        {way: timed(way, bank, queries, options.threads) for way in WAYS}
        for _ in range(options.repeats)
    ]
    print(
        f"{options.threads} threads, {len(queries)} queries in {len(bank)} rows, k = {K}, ", end=""
    )
    print(f"median of {options.repeats}\n")
    print("| way | build s | search s | times as fast | recall |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        build, search = (statistics.median(turn[way][i] for turn in turns) for i in (0, 1))
        ratio = statistics.median(sum(turn[WAYS[0]]) / sum(turn[way]) for turn in turns)
        found = recall(way, bank, queries, options.threads)
        print(f"| {way} | {build:.1f} | {search:.1f} | {ratio:.1f} | {found:.4f} |", flush=True)


if __name__ == "__main__":
    main()
