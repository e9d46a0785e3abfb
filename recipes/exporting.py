"""Export: an encoder as other libraries and runtimes have it, checked against its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from jepa.checkpoint import from_pretrained, load_frozen_encoder, save_pretrained
from jepa.files import write_json
from jepa.frozen import FrozenEncoder
from jepa.graphs import native_shape, quantise, write_onnx, write_program
from jepa.hub import pushed
from jepa.predictor import Predictor
from jepa.timm_layout import write_timm
from jepa.transformers_read import read_transformers
from jepa.transformers_write import write_transformers

from ..datasets.datamodule import ImageDataModule
from ..probes.evaluate import fit_and_score
from ..probes.features import extract
from ..probes.paired import mcnemar
from .folder import CONFIG
from .importing import load_predictor
from .measuring import groups_in, sample_of
from .probe import check_channels
from .results import Measured, shown

Form = Literal["pretrained", "timm", "transformers", "program", "onnx", "int8"]


@dataclass(frozen=True)
class Cost:
    """A probe on full weights, on weights of eight bits, and the paired difference."""

    full: Measured
    small: Measured
    difference: Measured
    p_value: float


def export(
    encoder: str,
    *,
    out: Path,
    to: Form = "pretrained",
    image_size: int | None = None,
    heads: int | None = None,
    data: ImageDataModule | None = None,
    labelled: int | None = None,
    push: str | None = None,
    private: bool = False,
    licence: str | None = None,
    seed: int = 0,
) -> None:
    """Export an encoder: safetensors with config, timm, transformers, torch.export, ONNX, int8.

    Args:
        encoder: whatever `jepa probe` takes. A folder of `jepa import` also gives its predictor to
            transformers' VJEPA2Model.
        out: folder for the files. Must be empty.
        to: pretrained: what from_pretrained reads; timm, transformers: folders for their
            create_model and from_pretrained; program: encoder.pt2 for torch.export.load; onnx:
            encoder.onnx, checked in onnxruntime; int8: the same with weights of eight bits, too.
        image_size: side of the images of a graph; None: the encoder's own.
        heads: attention heads of an official checkpoint of an unreleased width.
        data: images on which linear and kNN probes say what eight bits cost.
        labelled: training images, drawn at random, that the probes see; None: all.
        push: OWNER/NAME on the Hugging Face hub to upload the folder to.
        private: whether a repository that is made for it is private.
        licence: of the weights, for the model card, e.g. cc-by-nc-4.0.
        seed: of the probes' held-out splits.
    """
    frozen = load_frozen_encoder(encoder, heads=heads)
    if to == "pretrained":
        save_pretrained(frozen, out, licence=licence)
        same(from_pretrained(out), frozen)
    elif to == "timm":
        write_timm(out, frozen)
        same(load_frozen_encoder(out), frozen)
    elif to == "transformers":
        write_transformers(out, frozen, predictor=predictor_beside(encoder))
        same(read_transformers(out).encoder, frozen)
    elif to == "program":
        write_program(out / "encoder.pt2", frozen, native_shape(frozen, image_size))
    else:
        path = write_onnx(out / "encoder.onnx", frozen, native_shape(frozen, image_size))
        if to == "int8":
            export_int8(out, path, frozen, data, labelled=labelled, seed=seed)
    if push:
        print(f"uploaded: {pushed(out, push, private=private, but=[CONFIG])}")
    for path in sorted(out.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def export_int8(
    out: Path,
    path: Path,
    frozen: FrozenEncoder,
    data: ImageDataModule | None,
    *,
    labelled: int | None,
    seed: int,
) -> None:
    """encoder.int8.onnx, and cost.json if there are images to measure on."""
    small = load_frozen_encoder(quantise(out / "encoder.int8.onnx", path))
    if data is None:
        print("what eight bits cost is not measured: give images, e.g. --data.source=photographs")
        return
    check_channels(frozen, data)
    costs = cost_of(frozen, small, data, labelled=labelled, seed=seed)
    write_json(out / "cost.json", {name: vars(cost) for name, cost in costs.items()})
    for name, cost in costs.items():
        print(
            f"{name}: {shown(cost.full)} with full weights, {shown(cost.small)} with eight bits; "
            f"difference {shown(cost.difference)}, p = {cost.p_value:.2g}"
        )


def cost_of(
    frozen: FrozenEncoder,
    small: FrozenEncoder,
    data: ImageDataModule,
    *,
    labelled: int | None,
    seed: int,
) -> dict[str, Cost]:
    """Linear and kNN top-1 of both on the same test images, on the last layer's mean."""
    rows, groups = sample_of(data, labelled)
    scores = []
    for each in (frozen, small):
        train, test = (
            extract(each, loader, ("last",))
            for loader in (
                data.evaluation_loader("train", rows=rows),
                data.evaluation_loader("test"),
            )
        )
        kept = groups_in(data.images("test"), test)
        score = fit_and_score(train, test, groups=groups, test_groups=kept, seed=seed)
        scores.append((score, test.labels, kept))
    (full, labels, kept), (eight, _, _) = scores
    found = {}
    for probe in full.predicted:
        right = (eight.predicted[probe] == labels, full.predicted[probe] == labels)
        gap, p_value = mcnemar(*right, groups=kept, seed=seed)
        name = f"{probe}_top1"
        difference = Measured(value=gap.value, low=gap.low, high=gap.high)
        found[name] = Cost(full.metrics[name], eight.metrics[name], difference, p_value)
    return found


def predictor_beside(encoder: str) -> Predictor | None:
    """The predictor that `jepa import` has put beside the encoder."""
    if not (Path(encoder) / "predictor.safetensors").is_file():
        return None
    found = load_predictor(encoder)
    return found if isinstance(found, Predictor) else None


def same(found: FrozenEncoder, frozen: FrozenEncoder) -> None:
    """Raises ValueError unless what was written is read back as the same weights."""
    ours, theirs = (each.state_dict() for each in (frozen, found))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        raise ValueError("what was written is not read back as the same weights")
