"""Neighbours in large banks, faster and not all of them: faiss's IVF and HNSW.

Both take rows of length 1 and are searched by inner product. How many neighbours are missed
depends on the features: `KNNProbe.recall` measures it.
"""

from __future__ import annotations

import math

import faiss
from jaxtyping import Float32
from numpy import ndarray

LISTS = 4  # times the square root of the rows, as faiss's authors advise below a million
LEAST = 39  # rows of a list in the mean: small banks have fewer lists
PROBED = 1 / 32  # share of the lists that a query looks into
LINKS, BUILD, SEARCH = 32, 80, 128  # HNSW's M, efConstruction and efSearch


def ivf(rows: Float32[ndarray, "n d"], seed: int) -> faiss.Index:
    """Inverted file (Sivic and Zisserman 2003): k-means lists, of which the nearest are searched.

    Args:
        seed: of k-means, below 2**31.
    """
    n, dim = rows.shape
    lists = max(1, min(round(LISTS * math.sqrt(n)), n // LEAST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    index.train(rows)
    index.add(rows)
    index.nprobe = max(8, round(PROBED * lists))
    return index


def hnsw(rows: Float32[ndarray, "n d"]) -> faiss.Index:
    """A graph of neighbours in layers (Malkov and Yashunin 2016, arXiv:1603.09320).

    Its layers come from faiss's fixed seed; built by one thread, the graph is always the same.
    """
    index = faiss.IndexHNSWFlat(rows.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = BUILD, SEARCH
    index.add(rows)
    return index
