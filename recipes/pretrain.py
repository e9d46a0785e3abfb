"""Pretrain a JEPA, a joint embedding or a classifier, then measure the frozen encoder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from jepa.byol import BYOL
from jepa.dense import Dense
from jepa.encoder import VisionTransformer
from jepa.frozen import Normalize
from jepa.losses import Distance, VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.masks_reference import ReferenceMultiBlockMasks
from jepa.masks_video import MaskGroups
from jepa.metrics_log import read_metrics
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.seeds import generator
from jepa.shapes import Grid
from jepa.sigreg import LeJEPA
from jepa.supervised import Supervised
from jepa.training import Optimisation, Pretraining
from jepa.vicreg import VICReg

from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.datamodule import ImageDataModule
from ..probes.online import OnlineProbes
from .clip_pictures import save_clip_pictures
from .estimate import estimate, told
from .fit import built, fit, normalisation, prepare
from .folder import STEPS_LOG
from .frame_pretraining import FramePretraining, pretrained_on_frames
from .hardware import Hardware
from .pictures import save_pictures
from .probe import measure, print_rows
from .probe_clips import ClipProbes, encoders_of, frames_of_clips, measure_clips
from .results import exactly, rows_of, write_result


@dataclass(frozen=True, kw_only=True)
class Online:
    """Probes while pretraining.

    Args:
        every_n_steps: how often.
        bank: training images that the probes are fitted on.
        held_out: further training images that they are tested on.
        views: augmented views of each of up to 200 held-out images, for LiDAR.
    """

    every_n_steps: int = 1000
    bank: int = 5000
    held_out: int = 2000
    views: int = 10


def pretrain(
    *,
    out: Path,
    data: ImageDataModule | None = None,
    clips: ClipDataModule | None = None,
    measured_on: ClipDataModule | None = None,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor] | None = None,
    objective: Callable[[VisionTransformer], VICReg | BYOL | LeJEPA | Supervised] | None = None,
    optimisation: Optimisation,
    masks: MultiBlockMasks | ReferenceMultiBlockMasks | MaskGroups | None = None,
    distance: Distance = "smooth_l1",
    regulariser: VarianceCovariance | None = None,
    dense: Dense | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    name: str = "pretrain",
    seed: int = 0,
    online: Online | None = Online(),
    hardware: Hardware = Hardware(),  # noqa: B008
    accumulate: int = 1,
    checkpoint_every: int = 500,
    log_every: int = 20,
    init_from: Path | None = None,
    stage_from: Path | None = None,
    resume: bool = False,
    probe: bool = True,
    labelled: int | None = None,
    clip_probes: ClipProbes = ClipProbes(),  # noqa: B008
    single_frame: FramePretraining | None = None,
    dry_run: bool = False,
) -> None:
    """Pretrain an encoder on images or clips, and probe it frozen.

    Args:
        out: folder of the run; must be empty unless resuming.
        data: images, their batches and augmentation (I-JEPA); or else give clips.
        clips: videos, their batches and augmentation (V-JEPA).
        measured_on: labelled clips for all probes, where those trained on have no labels that
            say anything; None: the same clips.
        encoder: the encoder to train.
        predictor: the predictor of a JEPA, given the encoder's width and grid; or else give an
            objective.
        objective: VICReg, BYOL or LeJEPA, given the encoder, which need data.views; or Supervised,
            a baseline that learns the labels.
        optimisation: steps, learning rate, decay, momentum of the target.
        masks: the mask sampler of a JEPA; not given: I-JEPA's for images, V-JEPA's groups for
            clips.
        distance: of a JEPA's predictions to targets: smooth_l1 (I-JEPA), l1 (V-JEPA) or mse.
        regulariser: further losses of a JEPA on the latents of the visible tokens; null for none.
        dense: a JEPA that also foresees what it sees, and at several depths (V-JEPA 2.1); null
            for neither.
        mean: per channel, of pixels in [0, 1]; measured on training images if not given.
        std: per channel; measured if not given.
        name: of the recipe, in results.
        seed: of initial weights, masks, order and augmentation.
        online: probes while pretraining; null for none.
        hardware: device, precision, compilation.
        accumulate: batches per optimiser step.
        checkpoint_every: optimiser steps between resume points.
        log_every: optimiser steps between rows of metrics.jsonl.
        init_from: an encoder whose weights to begin from; the run itself is a new one.
        stage_from: the folder of a run whose weights and optimiser state to begin from: a stage
            on smaller or shorter clips, say. Steps and schedules begin anew.
        resume: go on with the run in `out`.
        probe: at the end, measure the frozen target encoder and its baselines.
        labelled: training samples, drawn at random, whose labels the probes see; None: all.
        clip_probes: how clips are probed.
        single_frame: a baseline for clips: I-JEPA pretrained on their frames; null for none.
        dry_run: tell parameters, tokens, FLOPs, memory and time, measured on one batch, and end.
    """
    source = data or clips
    if source is None or (data and clips):
        raise ValueError(
            "give images, e.g. --data.source=photographs, or clips, e.g. --clips.source=sprites"
        )
    measured_on = measured_on or clips
    if measured_on and not clips:
        raise ValueError("measured_on says which clips are probed; it needs --clips.source=...")
    if masks is None and objective is None:
        masks = MultiBlockMasks() if data else MaskGroups()
    if dry_run:
        source.scanned = False
        model = built(encoder, predictor, objective, distance, regulariser, dense)
        grey = Normalize(mean or (0.5,) * source.channels, std or (0.25,) * source.channels)
        options = {"masks": masks, "normalize": grey, "optimisation": optimisation, "seed": seed}
        print(dry(source, Pretraining(model=model, **options), hardware, accumulate))
        return
    began = time.monotonic() - seconds_before(out, resume)
    normalize = normalisation(source, mean, std)
    frozen, model = fit(
        out=out,
        data=source,
        encoder=encoder,
        predictor=predictor,
        objective=objective,
        optimisation=optimisation,
        masks=masks,
        distance=distance,
        regulariser=regulariser,
        dense=dense,
        normalize=normalize,
        name=name,
        seed=seed,
        callbacks=[] if online is None else [online_probes(measured_on or source, online)],
        hardware=hardware,
        accumulate=accumulate,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        init_from=init_from,
        stage_from=stage_from,
        resume=resume,
    )
    trained = time.monotonic() - began
    measured = {"labelled": labelled, "seed": seed, "cache": out / "features"}
    if clips and masks and isinstance(model, JEPA):
        save_clip_pictures(out / "clip_pictures.npz", model, normalize, clips, masks, seed)
    elif data and not isinstance(masks, MaskGroups):
        save_pictures(out / "pictures.npz", frozen, data, masks, seed)
    if not probe:
        return
    frozen.to(hardware.device())
    if data:
        metrics, baselines = measure(frozen, data, **measured)
    else:
        assert clips is not None
        assert measured_on is not None
        flat = single_frame and pretrained_on_frames(
            frames_of_clips(clips, seed),
            out / "single_frame",
            single_frame,
            "single_frame",
            seed,
        )
        flat = flat and flat.to(hardware.device())
        encoders = encoders_of(frozen, seed, flat)
        metrics, baselines = measure_clips(encoders, measured_on, clip_probes, **measured)
        metrics["pretraining_minutes"] = exactly(trained / 60)
    seconds = time.monotonic() - began
    result = write_result(
        out, recipe=name, seed=seed, seconds=seconds, metrics=metrics, baselines=baselines
    )
    print_rows(rows_of(result))


def dry(
    data: ImageDataModule | ClipDataModule,
    module: Pretraining,
    hardware: Hardware,
    accumulate: int,
) -> str:
    """What a run would need, from one batch."""
    prepare(module.model, hardware)
    found = estimate(
        module,
        data.train_loader(),
        bfloat16=hardware.lightning_precision() == "bf16-mixed",
        device=hardware.device(),
    )
    return told(
        found,
        steps=module.optimisation.steps,
        accumulate=accumulate,
        processes=hardware.processes,
        batch=data.batch_size,
    )


def seconds_before(out: Path, resume: bool) -> float:
    """Time that earlier processes have spent on the run, in s."""
    path = out / STEPS_LOG
    rows = read_metrics(path) if resume and path.is_file() else []
    return rows[-1]["seconds"] if rows else 0.0


def online_probes(data: ImageDataModule | ClipDataModule, online: Online) -> OnlineProbes:
    """Disjoint training images for the bank and for the test: the test split is not touched.

    Where the images tell their groups, no group is in both; of few images both are smaller.
    """
    images = data.images("train")
    rows = data.draw("train", len(images), "online")
    share = online.held_out / (online.bank + online.held_out)
    if images.groups is None:
        least = min(online.held_out, max(1, round(share * len(rows))))
        most = min(online.bank, len(rows) - least)
        bank, held_out = rows[:most], rows[most:]
    else:
        groups = images.groups[rows]
        names = torch.unique(groups)
        mixed = torch.randperm(len(names), generator=generator(data.seed, "online_groups"))
        apart = torch.isin(groups, names[mixed[: max(1, round(share * len(names)))]])
        bank, held_out = rows[~apart][: online.bank], rows[apart]
    held_out = held_out[: online.held_out]
    if not len(bank) or not len(held_out):
        raise ValueError(
            f"{len(rows)} training images of {data.source}, or the groups that they are of, are "
            "too few to probe features with while they are learnt: --online=null"
        )
    return OnlineProbes(
        data.evaluation_loader("train", rows=bank),
        data.evaluation_loader("train", rows=held_out),
        views_loader=data.views_loader(held_out[:200], online.views),
        every_n_steps=online.every_n_steps,
    )
