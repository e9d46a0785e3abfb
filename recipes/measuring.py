"""One encoder on one set of images: measured by the suite of probes, and kept in a folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from sklearn.manifold import TSNE
from torch import Tensor, distributed

from jepa.encoder import VisionTransformer
from jepa.files import atomic_path, read_arrays, write_arrays
from jepa.frozen import FrozenEncoder
from jepa.seeds import derive

from ..datasets.augmented_views import ViewBatches, Views
from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.corruptions import KINDS, SEVERITIES, Corruption, corrupted
from ..datasets.datamodule import ImageDataModule
from ..datasets.images import ImageSet, Split
from ..datasets.loaders import TrainBatches
from ..probes.features import (
    GRID,
    TOKENS,
    Encoder,
    FeatureTable,
    Precision,
    RawPixels,
    extract,
    poolings_of,
    random_encoder,
)
from ..probes.suite import Findings, Probe, Tables, draw, examine
from .hardware import Hardware
from .pictures import Pictures, read_pictures, save_pictures
from .results import Measured

log = logging.getLogger(__name__)

CORRUPTED = 1000  # test images, drawn at random
VIEWED, VIEWS_OF_EACH, AT_ONCE = 500, 10, 50  # test images for LiDAR and alignment
MAPPED = 1000  # test images on the map, drawn at random


def baselines_of(frozen: FrozenEncoder, seed: int) -> dict[str, Encoder]:
    """Raw pixels and, for our own architecture, the same with random weights."""
    encoders: dict[str, Encoder] = {"raw_pixels": RawPixels()}
    if isinstance(frozen.encoder, VisionTransformer):
        encoders["random_encoder"] = random_encoder(frozen, seed)
    return encoders


def sample_of(
    data: ImageDataModule | ClipDataModule, labelled: int | None
) -> tuple[Int64[Tensor, " rows"], Int64[np.ndarray, " rows"] | None]:
    """Training samples whose labels the probes see, and their groups where these are known."""
    train = data.images("train")
    rows = torch.arange(len(train))
    if labelled is not None:
        rows = data.draw("train", labelled, "labelled")
    return rows, None if train.groups is None else train.groups[rows].numpy()


def tables_of(
    encoder: Encoder,
    data: ImageDataModule,
    probes: Sequence[Probe],
    *,
    labelled: int | None,
    cache: Path,
    precision: Precision = "float32",
) -> Tables:
    """Feature tables of training and test images, in one pass over each, computed where the
    encoder is."""
    poolings = [*poolings_of(encoder), *([GRID] if isinstance(encoder, FrozenEncoder) else [])]
    if "attentive" in probes:
        poolings.append(TOKENS)
    rows, groups = sample_of(data, labelled)

    def table(split: Split, rows: Tensor | None) -> Any:
        loader = data.evaluation_loader(split, rows=rows)
        known = data.images(split).fingerprint
        return extract(
            encoder,
            loader,
            poolings,
            cache=cache,
            data=known,
            precision=precision,
            progress=True,
        )

    test = table("test", None)
    return Tables(table("train", rows), test, groups, groups_in(data.images("test"), test))


def groups_in(images: ImageSet, table: FeatureTable) -> Int64[np.ndarray, " n"] | None:
    """The group of each row of a table of these images, where these are known."""
    if images.groups is None:
        return None
    groups = images.groups.numpy()
    return groups if table.rows is None else groups[table.rows]


def placed(encoder: Encoder, device: torch.device) -> Encoder:
    """The encoder on this device; raw pixels are nowhere."""
    return encoder.to(device) if isinstance(encoder, torch.nn.Module) else encoder


def alone(hardware: Hardware, tables: Callable[[torch.device], None]) -> torch.device | None:
    """The device of the process that goes on by itself; None in the others, whose work is done.

    Where there are several devices, each has a process that makes its share of the feature tables,
    which the one that goes on finds.

    Args:
        tables: makes the tables by an encoder on this device.
    """
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    if hardware.processes > 1:
        fabric = hardware.fabric()
        fabric.launch(lambda fabric: tables(fabric.device))
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if not fabric.is_global_zero:
            return None
    return hardware.device()


def examined(
    encoder: Encoder,
    data: ImageDataModule,
    tables: Tables,
    probes: Sequence[Probe],
    *,
    seed: int,
) -> Findings:
    """The suite, with augmented views and corrupted test images where it needs them."""
    views = views_of(data, seed) if "diagnostics" in probes else ()
    changed = corrupted_versions(data, seed) if "corruptions" in probes else None
    return examine(encoder, tables, probes, views=views, corrupted=changed, seed=seed)


def views_of(data: ImageDataModule, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of test images under VICReg's augmentation: crops, mirroring, brightness, blur."""
    images = data.images("test")
    batches = TrainBatches(
        images,
        batch_size=AT_ONCE,
        image_size=data.image_size,
        channels=data.channels,
        seed=derive(seed, "views"),
        crop_scale=(0.3, 1.0),
        flip=True,
    )
    several = ViewBatches(batches, Views(count=VIEWS_OF_EACH))
    for step in range(min(VIEWED, len(images)) // AT_ONCE):
        batch = several[step]
        yield batch.views, batch.labels


def corrupted_versions(data: ImageDataModule, seed: int) -> dict[str, Iterable]:
    """`<kind>/<severity>`: batches of the same test images under each corruption."""
    rows = torch.from_numpy(draw(len(data.images("test")), CORRUPTED, seed, "corrupted"))
    return {
        f"{kind}/{severity}": corrupted(
            data.evaluation_loader("test", rows=rows), Corruption(kind, severity, seed)
        )
        for kind in KINDS
        for severity in SEVERITIES
    }


def map_of(features: Float[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "n 2"]:
    """t-SNE (van der Maaten & Hinton 2008) of unit features, in [0, 1]; near means alike, and
    distances between far groups mean nothing."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    tsne = TSNE(
        perplexity=min(30.0, (len(unit) - 1) / 3), random_state=derive(seed, "t-SNE") % 2**32
    )
    places = tsne.fit_transform(unit)
    places = places - places.min(axis=0)
    return (places / places.max()).astype(np.float32)


def apart(
    metrics: dict[str, Measured], baselines: tuple[str, ...]
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """The encoder's own metrics, and those whose names begin with a baseline's."""
    below = {name: value for name, value in metrics.items() if name.startswith(baselines)}
    return {name: value for name, value in metrics.items() if name not in below}, below


@dataclass(frozen=True)
class Cell:
    """What is kept of one encoder on one set of images.

    about: whose, of what and by which seed; see `about`.
    metrics, details, spectrum, predicted: as in `Findings`.
    labels, groups: of the test images; no groups where they are not known. map, map_labels: see
        `map_of`.
    """

    about: dict[str, Any]
    metrics: dict[str, Measured]
    details: dict[str, Any]
    spectrum: Float[np.ndarray, " r"]
    predicted: dict[str, Int64[np.ndarray, " n"]]
    labels: Int64[np.ndarray, " n"]
    map: Float32[np.ndarray, "m 2"]
    map_labels: Int64[np.ndarray, " m"]
    pictures: Pictures
    groups: Int64[np.ndarray, " n"] | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the labels."""
        return self.about["classes"]


def about(
    encoder: Encoder,
    data: ImageDataModule,
    *,
    labelled: int | None,
    seed: int,
    precision: Precision = "float32",
) -> dict[str, Any]:
    """What a cell's numbers depend on, apart from the choice of probes; goes into JSON."""
    groups = data.images("test").groups
    return {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint(),
        "source": data.source,
        "image_size": data.image_size,
        "channels": data.channels,
        "labelled": labelled,
        "train": data.images("train").fingerprint,
        "test": data.images("test").fingerprint,
        "classes": data.images("test").classes,
        "seed": seed,
        "precision": precision,
        **({} if groups is None else {"test_groups": len(groups.unique())}),
    }


def measure_cell(
    folder: Path,
    encoder: Encoder,
    data: ImageDataModule,
    probes: Sequence[Probe],
    *,
    labelled: int | None,
    seed: int,
    cache: Path,
    precision: Precision = "float32",
) -> Cell:
    """Measure what is not in the folder yet, and leave `examined.json`, `predictions.npz`,
    `map.npz` and `pictures.npz` there.

    A folder of another encoder (trained again, say) or of other images is measured anew.
    """
    of = about(encoder, data, labelled=labelled, seed=seed, precision=precision)
    known = read_cell(folder) if (folder / "examined.json").is_file() else None
    if known and known.about != of:
        log.warning("%s was of another encoder or other images: it is measured anew", folder)
        known = None
    details = known.details if known else {"probes": [], "seconds": 0.0}
    missing: list[Probe] = [probe for probe in probes if probe not in details["probes"]]
    if known and not missing:
        return known
    began = time.monotonic()
    tables = tables_of(encoder, data, missing, labelled=labelled, cache=cache, precision=precision)
    found = examined(encoder, data, tables, missing, seed=seed)
    if known is None:
        rows = draw(len(tables.test.labels), MAPPED, seed, "map")
        xy = map_of(np.asarray(tables.test.features["last"][rows]), seed)
        write_arrays(folder / "map.npz", {"xy": xy, "labels": tables.test.labels[rows]})
        save_pictures(folder / "pictures.npz", encoder, data, None, seed)
    said = (known.predicted if known else {}) | found.predicted
    truth = {"labels": tables.test.labels}
    if tables.test_groups is not None:
        truth["groups"] = tables.test_groups
    write_arrays(folder / "predictions.npz", truth | said)
    spectrum = known.spectrum if known and not len(found.spectrum) else found.spectrum
    done = {
        "probes": [*details["probes"], *missing],
        "seconds": round(details["seconds"] + time.monotonic() - began, 1),
    }
    written = {
        "about": of,
        "metrics": (known.metrics if known else {}) | found.metrics,
        "details": details | found.details | done,
        "spectrum": [float(f"{v:.4g}") for v in spectrum],
    }
    with atomic_path(folder / "examined.json") as temporary:  # last: then the cell is whole
        temporary.write_text(json.dumps(written, indent=1) + "\n")
    return read_cell(folder)


def read_cell(folder: Path) -> Cell:
    """What `measure_cell` left."""
    path = folder / "examined.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {folder}: give a folder that `jepa probe` has finished"
        )
    stored = json.loads(path.read_text())
    predicted = read_arrays(folder / "predictions.npz")
    places = read_arrays(folder / "map.npz")
    return Cell(
        about=stored["about"],
        metrics=stored["metrics"],
        details=stored["details"],
        spectrum=np.array(stored["spectrum"]),
        labels=predicted.pop("labels"),
        groups=predicted.pop("groups", None),
        predicted=predicted,
        map=places["xy"],
        map_labels=places["labels"],
        pictures=read_pictures(folder / "pictures.npz"),
    )
