"""Compare encoders side by side on several sets of images: tables, paired tests, one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from jepa.checkpoint import load_frozen_encoder
from jepa.encoder import VisionTransformer
from jepa.files import atomic_path
from jepa.frozen import FrozenEncoder, device_of

from ..datasets.datamodule import ImageDataModule
from ..probes.features import Encoder, RawPixels, random_encoder
from ..probes.suite import QUICK, Probe
from .comparison import as_csv, as_document, as_markdown, columns, headlines, paired_tests
from .comparison_page import comparison_page
from .hardware import ON_ONE, Hardware
from .measuring import Cell, alone, measure_cell, placed, read_cell, tables_of
from .results import write_result

RAW, RANDOM = "raw_pixels", "random_encoder"


@dataclass(frozen=True, kw_only=True)
class Images:
    """A set of images that encoders are compared on.

    Args:
        source: see `open_images`: photographs, fashion-mnist, idx:DIR, folder:DIR,
            torchvision:NAME.
        image_size: side in pixels; None: the images' own.
        channels: 1 or 3; None: what each encoder takes.
        labelled: training images, drawn at random, whose labels the probes see; None: all.
    """

    source: str
    image_size: int | None = None
    channels: int | None = None
    labelled: int | None = None

    def channels_for(self, encoder: Encoder) -> int | None:
        """Of the images that an encoder is given; None: their own."""
        own = encoder.channels if isinstance(encoder, FrozenEncoder) else None
        return self.channels or own


def compare(
    *,
    out: Path,
    encoders: dict[str, str] | list[str] | None = None,
    data: dict[str, Images] | list[str] | None = None,
    probed: list[Path] | None = None,
    probes: tuple[Probe, ...] = (*QUICK, "corruptions"),
    reference: str | None = None,
    pretrained: bool = True,
    hardware: Hardware = ON_ONE,
    name: str = "comparison",
    seed: int = 0,
) -> None:
    """Compare encoders on sets of images; writes comparison.html, .md, .csv and result.json.

    What is in the folder already is not measured again: the same command, with more encoders,
    images or probes, measures what is missing and makes the page anew.

    Args:
        out: the folder; a stopped or finished comparison in it goes on.
        encoders: names and what they stand for: run folders, encoder.safetensors, official
            checkpoints, timm names, raw_pixels, random_encoder (the first encoder of ours with
            fresh weights); or a list of these.
        data: names and images; or a list of sources, e.g. [fashion-mnist, photographs].
        probed: finished folders of `jepa probe` to be shown too, with their baselines.
        probes: as in `jepa probe`; what a probe folder lacks stays empty.
        reference: the encoder that the others are tested against; None: the first.
        pretrained: for timm names, with their published weights.
        hardware: as in `jepa probe`.
        name: of the recipe, in results.
        seed: of the held-out splits, of every draw, and of random weights.
    """
    began = time.monotonic()
    cells = taken_over(probed or [])
    named = by_name(encoders or [])
    images = named_images(data or [])
    if bool(named) != bool(images) or not (named or cells):
        raise ValueError(
            "give encoders and images, e.g. --encoders='[runs/a, raw_pixels]' "
            "--data='[photographs]', or finished folders of jepa probe, e.g. --probed='[runs/p]'"
        )
    found = measured(out, opened(named, pretrained, seed), images, probes, seed, hardware)
    if found is None:
        return
    cells |= found
    if reference is not None and reference not in columns(cells):
        raise ValueError(f"no encoder {reference!r}: the reference is one of {columns(cells)}")
    reference = reference or columns(cells)[0]
    tests = paired_tests(cells, reference, seed)
    metrics = {
        f"{key[0]}/{key[1]}/{metric}": cell.metrics[metric]
        for key, cell in cells.items()
        for metric in headlines(cell)
    }
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=time.monotonic() - began + sum(c.details.get("seconds", 0) for c in cells.values()),
        metrics=metrics,
        baselines={},
    )
    table = as_markdown(cells, tests)
    write(out / "comparison.csv", as_csv(cells, tests))
    write(out / "comparison.md", as_document(result, table, reference))
    write(out / "comparison.html", comparison_page(result, cells, tests, reference))
    print(f"\n{table}\n{out / 'comparison.html'}")


def by_name(encoders: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Encoders under names; those of a list are called as the folder, file or model is.

    Raises ValueError for two of the same name.
    """
    if isinstance(encoders, Mapping):
        return dict(encoders)
    names = [Path(spec).name for spec in encoders]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"several encoders are called {twice}: give names, {{mine: runs/a, ...}}")
    return dict(zip(names, encoders, strict=True))


def named_images(data: Mapping[str, Images] | Sequence[str]) -> dict[str, Images]:
    """Images under names; those of a list are called as the source is."""
    if isinstance(data, Mapping):
        return dict(data)
    return {name_of(source): Images(source=source) for source in data}


def name_of(source: str) -> str:
    """A name for a source: fashion_mnist, pets."""
    return source.rstrip("/").replace(":", "/").rpartition("/")[2].replace("-", "_")


def opened(named: Mapping[str, str], pretrained: bool, seed: int) -> dict[str, Encoder]:
    """The encoders, loaded: what cannot be read fails before anything is measured."""
    loaded: dict[str, Encoder] = {
        name: load_frozen_encoder(spec, pretrained=pretrained)
        for name, spec in named.items()
        if spec not in (RAW, RANDOM)
    }
    ours = [
        e
        for e in loaded.values()
        if isinstance(e, FrozenEncoder) and isinstance(e.encoder, VisionTransformer)
    ]
    if RANDOM in named.values() and not ours:
        raise ValueError(f"{RANDOM} is an encoder of ours with fresh weights; there is none here")
    made = {RAW: RawPixels} | ({RANDOM: lambda: random_encoder(ours[0], seed)} if ours else {})
    return {name: made[spec]() if spec in made else loaded[name] for name, spec in named.items()}


def measured(
    out: Path,
    encoders: Mapping[str, Encoder],
    images: Mapping[str, Images],
    probes: Sequence[Probe],
    seed: int,
    hardware: Hardware,
) -> dict[tuple[str, str], Cell] | None:
    """Every encoder on every set, in cells/<images>/<encoder>, one after the other; None in the
    processes that only share the work of the tables."""
    cells: dict[tuple[str, str], Cell] = {}
    work = [(place, name) for place in images for name in encoders]
    modules = opened_images(images, encoders)
    for (place, name), data in modules.items():
        check_fit(encoders[name], data, f"{name} on {place}")
    sizes = {
        key: sum(len(data.images(s)) for s in ("train", "test")) for key, data in modules.items()
    }
    shared = {"cache": out / "features", "precision": hardware.feature_precision()}

    def tables(device: torch.device) -> None:
        for place, name in work:
            if not (out / "cells" / place / name / "examined.json").is_file():
                data, labelled = modules[place, name], images[place].labelled
                tables_of(placed(encoders[name], device), data, probes, labelled=labelled, **shared)

    device = alone(hardware, tables)
    if device is None:
        return None
    spent, weighed = 0.0, 0
    for i, (place, name) in enumerate(work):
        left = sum(sizes[key] for key in work[i:])
        eta = f", about {spent / weighed * left / 60:.1f} minutes left" if weighed else ""
        print(f"{i + 1} of {len(work)}: {name} on {place}{eta}", flush=True)
        began = time.monotonic()
        cells[place, name] = measure_cell(
            out / "cells" / place / name,
            placed(encoders[name], device),
            modules[place, name],
            probes,
            labelled=images[place].labelled,
            seed=seed,
            **shared,
        )
        took = time.monotonic() - began
        if took > 1:  # what was there already tells nothing about what is left
            spent, weighed = spent + took, weighed + sizes[place, name]
    return cells


def opened_images(
    images: Mapping[str, Images], encoders: Mapping[str, Encoder]
) -> dict[tuple[str, str], ImageDataModule]:
    """The images by (set, encoder); encoders that take as many channels share them."""
    shared: dict[tuple[str, int | None], ImageDataModule] = {}
    modules = {}
    for place, of in images.items():
        for name, encoder in encoders.items():
            channels = of.channels_for(encoder)
            if (place, channels) not in shared:
                shared[place, channels] = ImageDataModule(
                    source=of.source, image_size=of.image_size, channels=channels
                )
            modules[place, name] = shared[place, channels]
    return modules


def check_fit(encoder: Encoder, data: ImageDataModule, what: str) -> None:
    """Encodes one image, so that what does not fit fails before anything is measured."""
    (batch,) = data.evaluation_loader("test", rows=torch.tensor([0]))
    try:
        encoder.layers(batch.images.to(device_of(encoder)), encoder.layer_names[-1:])
    except (ValueError, RuntimeError, AssertionError) as error:
        size = f"{data.channels} x {data.image_size} x {data.image_size}"
        raise ValueError(
            f"{what}: the encoder does not take images of {size} ({error}). Set image_size, and "
            "channels if need be, of these images"
        ) from error


def taken_over(folders: Sequence[Path]) -> dict[tuple[str, str], Cell]:
    """The cells of finished probe folders: their encoder, and the baselines."""
    cells: dict[tuple[str, str], Cell] = {}
    for folder in folders:
        for place in (folder, *sorted(folder.glob("baselines/*"))):
            cell = read_cell(place)
            name = cell.about["encoder"] if place == folder else place.name
            key = (name_of(cell.about["source"]), name)
            if place == folder and key in cells:
                raise ValueError(f"{folder}: {name} on {key[0]} is in another folder too")
            cells.setdefault(key, cell)
    return cells


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
