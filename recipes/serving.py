"""Serving features: tables of any number of images, an index over them, and what looks alike."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from jepa.checkpoint import load_frozen_encoder
from jepa.frozen import FrozenEncoder
from jepa.official import NOMINAL_FRAMES

from ..datasets.batch_loaders import EvaluationLoader
from ..datasets.folders import decode
from ..datasets.image_files import open_files
from ..datasets.loaders import EvaluationBatches
from ..datasets.transforms import eval_transform
from ..probes.features import Precision, pooled
from ..probes.search_index import Kind, SearchIndex, build_index
from ..probes.shards import ROWS, ShardedTable, make_shards
from .hardware import ON_ONE, Hardware


def features(
    *,
    encoder: str,
    data: str,
    out: Path,
    image_size: int | None = None,
    poolings: tuple[str, ...] = ("last",),
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    pretrained: bool = True,
    batch_size: int = 256,
    shard_rows: int = ROWS,
    workers: int | None = None,
    max_unreadable: float = 0.1,
    hardware: Hardware = ON_ONE,
) -> None:
    """Features of every image below a folder or in webdataset shards, as a sharded table.

    A killed run goes on when the same command is given again.

    Args:
        encoder: whatever `jepa probe` takes.
        data: a folder of images at any depth, a folder of .tar shards, or shards/{0000..0127}.tar.
        out: folder of the table.
        image_size: side in pixels to which the shorter side is resized and the middle is cut;
            None: the encoder's own.
        poolings: last, last4, cls, grid4, tokens, or any layer's name.
        heads: attention heads of an official checkpoint of an unreleased width.
        frames: length of the clips that an official V-JEPA with added positions was trained on.
        pretrained: for timm names, with their published weights.
        batch_size: images at a time and process.
        shard_rows: images of a shard, about.
        workers: processes that read, for each that computes; None: one per processor up to 8.
        max_unreadable: largest accepted share of unreadable images, which are named and left out.
        hardware: devices, machines and strategy of Lightning, which share the shards.
    """
    fabric = hardware.fabric()
    share = partial(
        extract_share,
        encoder=encoder,
        options={"heads": heads, "frames": frames, "pretrained": pretrained},
        data=data,
        out=out,
        image_size=image_size,
        poolings=poolings,
        batch_size=batch_size,
        shard_rows=shard_rows,
        workers=min(8, os.cpu_count() or 1) if workers is None else workers,
        max_unreadable=max_unreadable,
        precision=hardware.feature_precision(),
    )
    fabric.launch(share)
    if not fabric.is_global_zero:
        return
    table = ShardedTable(out)
    count = sum(len(names) for names in table.names())
    print(f"{out}: features of {count} images in {len(table.paths)} shards")


def extract_share(
    fabric: Fabric,
    *,
    encoder: str,
    options: dict[str, Any],
    data: str,
    out: Path,
    image_size: int | None,
    poolings: tuple[str, ...],
    batch_size: int,
    shard_rows: int,
    workers: int,
    max_unreadable: float,
    precision: Precision,
) -> None:
    """What one process does: every shard whose turn is its own."""
    frozen = load_frozen_encoder(encoder, **options)
    images = open_files(data)
    side = image_size or native_side(frozen)
    batches = EvaluationBatches(
        images, batch_size=batch_size, image_size=side, channels=frozen.channels
    )
    make_shards(
        frozen.to(fabric.device),
        EvaluationLoader(batches, workers=workers, max_unreadable=max_unreadable),
        images.name,
        out,
        data=images.fingerprint,
        made_by={"encoder": place(encoder), "options": options, "image_size": side},
        poolings=poolings,
        precision=precision,
        rows=shard_rows,
        progress=True,
    )


def place(encoder: str) -> str:
    """Where it is, from wherever it is looked for; a name remains one."""
    return str(Path(encoder).resolve()) if Path(encoder).exists() else encoder


def index(
    table: Path,
    *,
    out: Path,
    kind: Kind = "exact",
    pooling: str = "last",
    seed: int = 0,
) -> None:
    """A nearest-neighbour index over a table of features: cosine similarity, by faiss.

    Args:
        table: folder that `jepa features` has made.
        out: folder of the index. Must be empty.
        kind: exact; ivf (some lists of k-means are searched) or hnsw (a graph) for millions, which
            miss some neighbours.
        pooling: of the table.
        seed: of k-means.
    """
    count = build_index(ShardedTable(table), out, kind=kind, pooling=pooling, seed=seed)
    print(f"{out}: {count} images; to search: jepa search IMAGE --index {out}")


def search(image: Path, *, index: Path, k: int = 10, encoder: str | None = None) -> None:
    """The images of an index that look most like one: cosine similarity and name.

    Args:
        image: a file.
        index: folder that `jepa index` has made.
        k: how many.
        encoder: where the encoder of the index is now; None: where it was.
    """
    found = SearchIndex(index)
    if not image.is_file():
        raise FileNotFoundError(f"no image at {image}")
    by, wanted = found.about["made_by"], found.about["of"]["encoder"]
    frozen = load_frozen_encoder(encoder or by["encoder"], **by["options"])
    if frozen.fingerprint() != wanted:
        raise ValueError(
            f"{encoder or by['encoder']} is not the encoder of the index, whose fingerprint is "
            f"{wanted}: say where that one is, --encoder=..."
        )
    pixels = decode(image)
    change = eval_transform(by["image_size"], given=None, channels=(3, frozen.channels))
    batch = (change(pixels)[None], torch.zeros(1))
    pooling = found.about["pooling"]
    (query,) = (block[pooling] for block in pooled(frozen, [batch], [pooling]))
    scores, rows = found.search(query, k)
    for score, row in zip(scores[0], rows[0], strict=True):
        if row >= 0:
            print(f"{score:.4f}  {found.names[row]}")


def native_side(frozen: FrozenEncoder) -> int:
    """Side of the images that an encoder was made for. Raises ValueError if it does not tell."""
    config = getattr(frozen.encoder, "config", {})
    model = getattr(frozen.encoder, "model", None)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    side = config.get("image_size") or cfg.get("input_size", (0, 0, 0))[-1]
    if not side:
        raise ValueError(f"{frozen.name} does not tell the size of its images: give image_size=...")
    return int(side)
