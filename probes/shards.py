"""Sharded feature tables: for more images than one file or one process should hold.

A shard is a safetensors file of some thousand rows, whole or not there: features by pooling,
`labels`, `rows` (index in the data) and, in its header, the names of the images. Which batches make
a shard is fixed, so that any number of processes shares the work, and a killed run goes on with the
shards that are missing. Nothing is put together at the end.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepa.files import read_safetensors, write_json, write_safetensors
from jepa.progress import track
from jepa.ranks import rank, wait, world_size

from .features import Encoder, Precision, layers_of, pooled
from .tables import Numbered

log = logging.getLogger(__name__)

MANIFEST = "table.json"
ROWS = 8192  # of a shard, about


class ShardedTable:
    """Features in a folder of shards, read one shard at a time.

    Raises FileNotFoundError, and ValueError if shards are missing: the table is not whole yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} is no table: `jepa features --out` makes one")
        self.manifest: dict = json.loads((self.folder / MANIFEST).read_text())
        self.paths = [shard_path(self.folder, n) for n in range(self.manifest["shards"])]
        missing = [path.name for path in self.paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"{folder} is not whole: {len(missing)} of {len(self.paths)} shards are missing, "
                f"{missing[0]} first. Run the same `jepa features` again: it makes what is missing"
            )

    def features(self, pooling: str) -> Iterator[Float[Tensor, "n D"]]:
        """The features of each shard. Raises ValueError for a pooling that is not there."""
        known = list(self.manifest["of"]["poolings"])
        if pooling not in known:
            raise ValueError(f"no pooling {pooling!r} in {self.folder}; it has {known}")
        return (read_safetensors(path, [pooling])[1][pooling] for path in self.paths)

    def names(self) -> Iterator[list[str]]:
        """The names of the images of each shard."""
        return (json.loads(read_safetensors(path, [])[0]["names"]) for path in self.paths)


def make_shards(
    encoder: Encoder,
    loader: Numbered,
    names: Callable[[int], str],
    folder: str | Path,
    *,
    data: str,
    made_by: Mapping,
    poolings: Sequence[str] = ("last",),
    precision: Precision = "float32",
    rows: int = ROWS,
    progress: bool = False,
) -> None:
    """Make the shards that are missing, this process those of every world_size-th from its rank.

    Args:
        names: index in the data -> name of the image.
        folder: of the table, on a file system that all processes see.
        data: fingerprint of the data. A table of other data, or of another encoder, transform,
            choice of poolings or precision is not added to.
        made_by: what is to be known to make features of another image.
        poolings: see `layers_of`.
        rows: of a shard, about: a whole number of batches.

    Raises:
        ValueError: the folder holds another table.
    """
    folder = Path(folder)
    each = max(1, rows // loader.batch_size)  # batches of a shard
    shards = math.ceil(len(loader) / each)
    manifest = {
        "format": "jepa-toolkit/table/1",
        "shards": shards,
        "made_by": dict(made_by),
        "of": {
            "data": data,
            "encoder": encoder.fingerprint(),
            "transform": dict(loader.described),
            "poolings": {n: list(layers) for n, layers in layers_of(encoder, poolings).items()},
            "precision": precision,
            "batch_size": loader.batch_size,
            "batches_of_a_shard": each,
        },
    }
    begin(folder, manifest)
    first, ranks = rank(), world_size()
    mine = [n for n in range(first, shards, ranks) if not shard_path(folder, n).is_file()]
    batches = [b for n in mine for b in range(n * each, min((n + 1) * each, len(loader)))]
    log.info("%d of %d shards to be made by process %d", len(mine), shards, first)
    text = f"features of {encoder.name}"
    shown = progress and first == 0
    loaded = track(loader.only(batches), text, "batch", total=len(batches), shown=shown)
    blocks: list[dict[str, np.ndarray]] = []
    for batch, block in zip(batches, pooled(encoder, loaded, poolings, precision), strict=True):
        blocks.append(block)
        if (batch + 1) % each == 0 or batch + 1 == len(loader):
            write_shard(shard_path(folder, batch // each), blocks, names)
            blocks = []
    wait()


def begin(folder: Path, manifest: dict) -> None:
    """Write the manifest, or see that the one that is there is the same."""
    path = folder / MANIFEST
    if path.is_file():
        known = json.loads(path.read_text())
        differing = sorted(
            key for key in manifest["of"] if known["of"].get(key) != manifest["of"][key]
        )
        if differing:
            raise ValueError(
                f"{folder} holds a table of another {', '.join(differing)}. Give another --out"
            )
    else:
        write_json(path, manifest)


def write_shard(
    path: Path, blocks: Sequence[Mapping[str, np.ndarray]], names: Callable[[int], str]
) -> None:
    """Some batches as one file."""
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    called = [names(int(row)) for row in columns["rows"]]
    write_safetensors(path, tensors, {"names": json.dumps(called)})


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"shard-{number:06d}.safetensors"
