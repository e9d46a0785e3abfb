"""Measure a frozen encoder: linear and kNN probes, beside raw pixels and random weights."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from jepa.checkpoint import load_frozen_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.official import NOMINAL_FRAMES

from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.datamodule import ImageDataModule
from ..datasets.images import Split
from ..probes.evaluate import evaluate_frozen
from ..probes.features import RawPixels, random_encoder
from .results import Measured, rows_of, shown, write_result


def probe(
    *,
    encoder: str,
    out: Path,
    data: ImageDataModule | None = None,
    architecture: str | None = None,
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    pretrained: bool = True,
    labelled: int | None = None,
    name: str = "probe",
    seed: int = 0,
) -> None:
    """Probe a frozen encoder on labelled images, beside raw pixels and random weights.

    Args:
        encoder: a run folder, an encoder.safetensors, an official .pth.tar or .pt of I-JEPA,
            V-JEPA or V-JEPA 2, a timm name, or the .safetensors of a timm model.
        out: folder for result.json and the feature tables; must be empty.
        data: the images; the embedded photographs if not given.
        architecture: the timm model that an encoder.safetensors of timm holds.
        heads: attention heads of an official checkpoint of an unreleased width.
        frames: length of the clips that an official V-JEPA with added positions was trained on.
        pretrained: for timm names, with their published weights.
        labelled: training images, drawn at random, whose labels the probes see; None: all.
        name: of the recipe, in results.
        seed: of the held-out splits and the random baseline.
    """
    began = time.monotonic()
    frozen = load_frozen_encoder(
        encoder, architecture=architecture, heads=heads, frames=frames, pretrained=pretrained
    )
    metrics, baselines = measure(
        frozen, data or ImageDataModule(), labelled=labelled, seed=seed, cache=out / "features"
    )
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began,
        metrics=metrics,
        baselines=baselines,
    )
    print_rows(rows_of(result))


def measure(
    frozen: FrozenEncoder,
    data: ImageDataModule,
    *,
    labelled: int | None = None,
    seed: int,
    cache: Path,
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Metrics of the encoder, and of the baselines under `<baseline>/<metric>`.

    The baselines are raw pixels and, for our own architecture, the same with random weights.
    """
    if frozen.channels != data.channels:
        raise ValueError(
            f"the encoder takes {frozen.channels} channels, the images have {data.channels}: "
            f"set --data.channels={frozen.channels}"
        )
    encoders = {"": frozen, "raw_pixels/": RawPixels()}
    if isinstance(frozen.encoder, VisionTransformer):
        encoders["random_encoder/"] = random_encoder(frozen, seed)

    def known(split: Split) -> str:
        part = f"-{labelled}" if split == "train" and labelled else ""
        return f"{data.images(split).fingerprint}-{data.channels}x{data.image_size}{part}"

    rows, groups = sample_of(data, labelled)
    metrics: dict[str, Measured] = {}
    for prefix, encoder in encoders.items():
        found = evaluate_frozen(
            encoder,
            data.evaluation_loader("train", rows=rows),
            data.evaluation_loader("test"),
            cache=cache,
            data=(known("train"), known("test")),
            groups=groups,
            seed=seed,
            progress=True,
        )
        metrics |= {f"{prefix}{name}": value for name, value in found["metrics"].items()}
    return apart(metrics, tuple(encoders)[1:])


def apart(
    metrics: dict[str, Measured], baselines: tuple[str, ...]
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """The encoder's own metrics, and those whose names begin with a baseline's."""
    below = {name: value for name, value in metrics.items() if name.startswith(baselines)}
    return {name: value for name, value in metrics.items() if name not in below}, below


def sample_of(
    data: ImageDataModule | ClipDataModule, labelled: int | None
) -> tuple[Int64[Tensor, " rows"], Int64[np.ndarray, " rows"] | None]:
    """Training samples whose labels the probes see, and their groups where these are known."""
    train = data.images("train")
    rows = torch.arange(len(train))
    if labelled is not None:
        rows = data.draw("train", labelled, "labelled")
    return rows, None if train.groups is None else train.groups[rows].numpy()


def print_rows(rows: list[tuple[str, Measured]]) -> None:
    """A table on the terminal: baselines stand under the number that they belong to."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{'number':{width}}  value (95 % interval)")
    for name, value in rows:
        print(f"{name:{width}}  {shown(value)}")
