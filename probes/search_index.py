"""A nearest-neighbour index over a sharded table, on disk: cosine similarity, by faiss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64
from numpy import ndarray

from jepa.files import atomic_path, write_json
from jepa.seeds import derive

from .approximate import BUILD, LEAST, LINKS, LISTS, PROBED, SEARCH
from .shards import ShardedTable

Kind = Literal["exact", "ivf", "hnsw"]

INDEX, NAMES, ABOUT = "index.faiss", "names.jsonl", "index.json"
SAMPLE = 256  # rows a list that k-means sees, as faiss's authors advise


def build_index(
    table: ShardedTable, folder: str | Path, *, kind: Kind, pooling: str, seed: int = 0
) -> int:
    """An index of every row of a table, added shard by shard; returns their number.

    Args:
        kind: exact: every row is compared; ivf: those of the nearest lists of k-means; hnsw: those
            that a graph of neighbours leads to. The last two miss some.
        pooling: of the table.
        seed: of k-means and of the rows that it sees.
    """
    folder, count = Path(folder), 0
    index: Any = None
    with atomic_path(folder / NAMES) as path, path.open("w") as file:
        for rows, names in zip(unit_rows(table, pooling), table.names(), strict=True):
            if index is None:
                index = empty_index(table, kind, pooling, rows.shape[1], seed)
            index.add(rows)
            count += len(rows)
            file.writelines(json.dumps(name) + "\n" for name in names)
    if not count:
        raise ValueError(f"{table.folder} has no rows")
    with atomic_path(folder / INDEX) as path:
        faiss.write_index(index, str(path))
    about = {"format": "jepa-toolkit/index/1", "kind": kind, "pooling": pooling, "rows": count}
    kept = {key: table.manifest[key] for key in ("of", "made_by")}
    write_json(folder / ABOUT, about | kept)
    return count


def empty_index(table: ShardedTable, kind: Kind, pooling: str, dim: int, seed: int) -> Any:
    """An index without rows; of `ivf`, its lists are made from rows drawn from all shards."""
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = BUILD, SEARCH
        return graph
    flat = faiss.IndexFlatIP(dim)
    if kind == "exact":
        return flat
    n = sum(len(names) for names in table.names())
    lists = max(1, min(round(LISTS * math.sqrt(n)), n // LEAST))
    share, draw = min(1.0, SAMPLE * lists / n), np.random.default_rng(derive(seed, "index"))
    seen = [rows[draw.random(len(rows)) < share] for rows in unit_rows(table, pooling)]
    index = faiss.IndexIVFFlat(flat, dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = derive(seed, "k-means") % 2**31, 1
    index.train(np.concatenate(seen))
    index.nprobe = max(8, round(PROBED * lists))
    return index


def unit_rows(table: ShardedTable, pooling: str) -> Iterator[Float32[ndarray, "n D"]]:
    """The features of each shard, scaled to length 1."""
    return (unit(features.float().numpy()) for features in table.features(pooling))


def unit(rows: Float[ndarray, "n D"]) -> Float32[ndarray, "n D"]:
    """Rows of length 1."""
    length = np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return np.ascontiguousarray(rows / length, dtype=np.float32)


class SearchIndex:
    """An index that `build_index` has written. Raises FileNotFoundError if there is none."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"{folder} is no index: `jepa index --out` makes one")
        self.about: dict = json.loads((folder / ABOUT).read_text())
        self.index: Any = faiss.read_index(str(folder / INDEX))
        with (folder / NAMES).open() as file:
            self.names: list[str] = [json.loads(line) for line in file]
        if not len(self.names) == self.index.ntotal == self.about["rows"]:
            raise ValueError(f"{folder} is not whole: make the index again")

    def search(
        self, queries: Float[ndarray, "q D"], k: int
    ) -> tuple[Float32[ndarray, "q k"], Int64[ndarray, "q k"]]:
        """Cosine similarity and row of the k nearest of each query, nearest first; row -1 where an
        approximate index has found fewer."""
        if queries.shape[1] != self.index.d:
            raise ValueError(f"the index is of {self.index.d} features, got {queries.shape[1]}")
        return self.index.search(unit(queries), min(k, self.index.ntotal))
