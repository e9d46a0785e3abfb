"""Measure a frozen encoder by any choice of probes, beside raw pixels and random weights."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jepa.checkpoint import load_frozen_encoder
from jepa.frozen import FrozenEncoder
from jepa.official import NOMINAL_FRAMES

from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.datamodule import ImageDataModule
from ..probes.evaluate import evaluate_tables
from ..probes.features import Encoder
from ..probes.suite import QUICK, Probe
from .hardware import ON_ONE, Hardware
from .measuring import alone, apart, baselines_of, measure_cell, placed, tables_of
from .probe_clips import ClipProbes, encoders_of, known_clips, measure_clips
from .results import Measured, rows_of, shown, write_result


def probe(
    *,
    encoder: str,
    out: Path,
    data: ImageDataModule | None = None,
    clips: ClipDataModule | None = None,
    architecture: str | None = None,
    probes: tuple[Probe, ...] = QUICK,
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    pretrained: bool = True,
    labelled: int | None = None,
    clip_probes: ClipProbes = ClipProbes(),  # noqa: B008
    hardware: Hardware = ON_ONE,
    name: str = "probe",
    seed: int = 0,
) -> None:
    """Probe a frozen encoder on labelled images or clips, beside raw pixels and random weights.

    Args:
        encoder: a run folder, an encoder.safetensors, an official .pth.tar or .pt of I-JEPA,
            V-JEPA or V-JEPA 2, a timm name, or the .safetensors of a timm model.
        out: folder for result.json, predictions.npz (what each classifier said of each test
            image), examined.json (choices and curves) and the feature tables; the same of each
            baseline below baselines/. Must be empty.
        data: the images; the embedded photographs if neither these nor clips are given.
        clips: or videos, by their source and how clips are taken from them, e.g.
            --clips.source=list:videos.txt; several views by clips_per_video and squares_per_clip.
            Encoders of images see every frame on its own. There are no pictures and no curves.
        probes: of images: any of linear, knn, mlp, attentive, low_shot, retrieval, clustering,
            diagnostics and corruptions, e.g. --probes='[linear, knn, attentive]'. Not among those
            by default: mlp and attentive, which are trained for minutes, and corruptions.
        architecture: the timm model that an encoder.safetensors of timm holds.
        heads: attention heads of an official checkpoint of an unreleased width.
        frames: length of the clips that an official V-JEPA with added positions was trained on.
        pretrained: for timm names, with their published weights.
        labelled: training images or videos, drawn at random, whose labels the probes see; None:
            all.
        clip_probes: how clips are probed.
        hardware: the devices and the precision of features, whose tables several devices share;
            probes are trained on the first one.
        name: of the recipe, in results.
        seed: of the held-out splits, of every draw, and of the random baseline.
    """
    began = time.monotonic()
    frozen = load_frozen_encoder(
        encoder, architecture=architecture, heads=heads, frames=frames, pretrained=pretrained
    )
    parts = {
        "labelled": labelled,
        "cache": out / "features",
        "precision": hardware.feature_precision(),
    }
    if clips is None:
        data = data or ImageDataModule()
        check_channels(frozen, data)
        encoders = {"": frozen, **baselines_of(frozen, seed)}
        tables = partial(tables_of, data=data, probes=probes, **parts)
        measured = partial(suite, data=data, probes=probes, out=out, seed=seed, **parts)
    elif data is None:
        check_channels(frozen, clips, "clips")
        encoders = encoders_of(frozen, seed)
        tables = partial(known_clips, data=clips, **parts)
        measured = partial(measure_clips, data=clips, probes=clip_probes, seed=seed, **parts)
    else:
        raise ValueError("give images (--data.source) or clips (--clips.source), not both")

    def share(device: torch.device) -> None:
        for each in encoders.values():
            tables(placed(each, device))

    device = alone(hardware, share)
    if device is None:
        return
    own, below = measured({prefix: placed(each, device) for prefix, each in encoders.items()})
    seconds = time.monotonic() - began
    result = write_result(
        out, recipe=name, seed=seed, seconds=seconds, metrics=own, baselines=below
    )
    print_rows(rows_of(result))


def suite(
    encoders: Mapping[str, Encoder],
    *,
    data: ImageDataModule,
    probes: Sequence[Probe],
    out: Path,
    **parts: Any,
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Numbers of the first encoder by all probes, and of the baselines; kept below `out`."""
    metrics: dict[str, Measured] = {}
    for prefix, each in encoders.items():
        folder = out / "baselines" / prefix if prefix else out
        cell = measure_cell(folder, each, data, probes, **parts)
        metrics |= {f"{prefix}/{k}".lstrip("/"): value for k, value in cell.metrics.items()}
    return apart(metrics, tuple(f"{prefix}/" for prefix in encoders if prefix))


def measure(
    frozen: FrozenEncoder,
    data: ImageDataModule,
    *,
    labelled: int | None = None,
    seed: int,
    cache: Path,
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Linear and kNN metrics of the encoder, and of the baselines under `<baseline>/<metric>`.

    The baselines are raw pixels and, for our own architecture, the same with random weights.
    """
    check_channels(frozen, data)
    metrics: dict[str, Measured] = {}
    baselines = baselines_of(frozen, seed)
    for prefix, each in {"": frozen, **baselines}.items():
        train, test, groups, test_groups = tables_of(each, data, (), labelled=labelled, cache=cache)
        found = evaluate_tables(train, test, groups=groups, test_groups=test_groups, seed=seed)
        found = found["metrics"]
        metrics |= {f"{prefix}/{name}".lstrip("/"): value for name, value in found.items()}
    return apart(metrics, tuple(f"{prefix}/" for prefix in baselines))


def check_channels(
    frozen: FrozenEncoder, data: ImageDataModule | ClipDataModule, option: str = "data"
) -> None:
    """Raises ValueError, saying what to type, unless the images have the encoder's channels."""
    if frozen.channels != data.channels:
        raise ValueError(
            f"the encoder takes {frozen.channels} channels, the images have {data.channels}: "
            f"set --{option}.channels={frozen.channels}"
        )


def print_rows(rows: list[tuple[str, Measured]]) -> None:
    """A table on the terminal: baselines stand under the number that they belong to."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{'number':{width}}  value (95 % interval)")
    for name, value in rows:
        print(f"{name:{width}}  {shown(value)}")
