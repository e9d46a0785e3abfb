"""Pretrain a JEPA, then measure the frozen target encoder."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import Callback, Trainer

from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only
from jepa.frozen import FrozenEncoder, Normalize
from jepa.losses import Distance, VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.masks_reference import ReferenceMultiBlockMasks
from jepa.metrics_log import MetricsLog, read_metrics
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.resume import ResumePoint, SafeCheckpointIO
from jepa.seeds import generator
from jepa.shapes import Grid
from jepa.training import Optimisation, Pretraining
from jepa.watch import CollapseWatch

from ..datasets.datamodule import ImageDataModule
from ..probes.online import OnlineProbes
from .folder import LAST
from .pictures import save_pictures
from .probe import measure, print_rows
from .progress import StepProgress
from .results import rows_of, write_result

DEFAULT_MASKS = MultiBlockMasks()

Precision = Literal["auto", "bf16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Online:
    """Probes while pretraining.

    Args:
        every_n_steps: how often.
        bank: training images that the probes are fitted on.
        held_out: further training images that they are tested on.
    """

    every_n_steps: int = 1000
    bank: int = 5000
    held_out: int = 2000


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how a run computes; passed to Lightning's Trainer.

    Args:
        accelerator: cpu, cuda, mps or auto.
        devices: how many.
        nodes: how many machines.
        strategy: ddp, fsdp, ... or auto.
        precision: bf16 under autocast, float32, or auto: bf16 where the processor is fast at it.
        compile: compile encoder and predictor with torch.compile.
        threads: of the processor; None: torch's choice. Small models are fastest with one.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    threads: int | None = None

    def lightning_precision(self) -> Literal["bf16-mixed", "32-true"]:
        """Lightning's name of the precision."""
        if self.precision == "auto":
            return "bf16-mixed" if fast_bfloat16(self.accelerator) else "32-true"
        return "bf16-mixed" if self.precision == "bf16" else "32-true"


def fast_bfloat16(accelerator: str) -> bool:
    """Whether the processor that `accelerator` names multiplies in bfloat16 natively."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class Interrupted(SystemExit):
    """The run was told to stop; it has been saved."""


def pretrain(
    *,
    out: Path,
    data: ImageDataModule,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor],
    optimisation: Optimisation,
    masks: MultiBlockMasks | ReferenceMultiBlockMasks = DEFAULT_MASKS,
    distance: Distance = "smooth_l1",
    regulariser: VarianceCovariance | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    name: str = "pretrain",
    seed: int = 0,
    online: Online | None = Online(),
    hardware: Hardware = Hardware(),
    accumulate: int = 1,
    checkpoint_every: int = 500,
    log_every: int = 20,
    init_from: Path | None = None,
    resume: bool = False,
    probe: bool = True,
    labelled: int | None = None,
) -> None:
    """Pretrain an encoder with I-JEPA and probe it frozen.

    Args:
        out: folder of the run; must be empty unless resuming.
        data: images, batches and augmentation.
        encoder: the encoder to train.
        predictor: the predictor, given the encoder's width and grid.
        optimisation: steps, learning rate, decay, momentum of the target.
        masks: the mask sampler.
        distance: of predictions to targets: smooth_l1 (I-JEPA), l1 (V-JEPA) or mse.
        regulariser: further losses on the latents of the visible tokens; null for none.
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
        resume: go on with the run in `out`.
        probe: at the end, measure the frozen target encoder and its baselines.
        labelled: training images, drawn at random, whose labels the probes see; None: all.
    """
    began = time.monotonic() - seconds_before(out, resume)
    frozen = fit(
        out=out,
        data=data,
        encoder=encoder,
        predictor=predictor,
        optimisation=optimisation,
        masks=masks,
        distance=distance,
        regulariser=regulariser,
        normalize=normalisation(data, mean, std),
        name=name,
        seed=seed,
        callbacks=[] if online is None else [online_probes(data, online)],
        hardware=hardware,
        accumulate=accumulate,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        init_from=init_from,
        resume=resume,
    )
    save_pictures(out / "pictures.npz", frozen, data, masks, seed)
    if probe:
        metrics, baselines = measure(
            frozen, data, labelled=labelled, seed=seed, cache=out / "features"
        )
        seconds = time.monotonic() - began
        result = write_result(
            out, recipe=name, seed=seed, seconds=seconds, metrics=metrics, baselines=baselines
        )
        print_rows(rows_of(result))


def seconds_before(out: Path, resume: bool) -> float:
    """Time that earlier processes have spent on the run, in s."""
    path = out / "metrics.jsonl"
    rows = read_metrics(path) if resume and path.is_file() else []
    return rows[-1]["seconds"] if rows else 0.0


def fit(
    *,
    out: Path,
    data: ImageDataModule,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor],
    optimisation: Optimisation,
    masks: MultiBlockMasks | ReferenceMultiBlockMasks,
    normalize: Normalize,
    name: str,
    seed: int,
    distance: Distance = "smooth_l1",
    regulariser: VarianceCovariance | None = None,
    callbacks: Sequence[Callback] = (),
    hardware: Hardware = Hardware(),
    accumulate: int = 1,
    checkpoint_every: int = 500,
    log_every: int = 20,
    init_from: Path | None = None,
    resume: bool = False,
) -> FrozenEncoder:
    """Train; leaves `encoder.safetensors` (target), `student.safetensors` and `metrics.jsonl`.

    Raises Interrupted, after saving, when told to stop.
    """
    if encoder.channels != data.channels:
        raise ValueError(
            f"the encoder takes {encoder.channels} channels, the images of {data.source} have "
            f"{data.channels}: set --encoder.channels={data.channels} or --data.channels="
            f"{encoder.channels}"
        )
    if init_from is not None:
        encoder.load_state_dict(load_frozen_encoder(init_from).encoder.state_dict(), strict=True)
    model = JEPA(
        encoder=encoder,
        predictor=predictor(encoder.dim, encoder.native_grid),
        distance=distance,
        regulariser=regulariser,
    )
    module = Pretraining(
        model=model, masks=masks, normalize=normalize, optimisation=optimisation, seed=seed
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(hardware.threads or threads)
    if hardware.compile:
        encoder.compile(dynamic=True)
        model.target.encoder.compile(dynamic=True)
        model.predictor.compile(dynamic=True)
    last = out / LAST if resume and (out / LAST).is_file() else None
    start_step = load_tensors_only(last)["global_step"] if last else 0
    point = ResumePoint(out / LAST, every_n_steps=checkpoint_every)
    trainer = Trainer(
        max_steps=optimisation.steps,
        max_epochs=-1,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=hardware.strategy,
        precision=hardware.lightning_precision(),
        accumulate_grad_batches=accumulate,
        log_every_n_steps=log_every,
        logger=MetricsLog(out / "metrics.jsonl", start_step=start_step),
        callbacks=[CollapseWatch(), StepProgress(name), *callbacks, point],
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    torch.set_num_threads(threads)
    if point.interrupted is not None and trainer.global_step < optimisation.steps:
        print(
            f"\nStopped by {point.interrupted.name} and saved at step {trainer.global_step} of "
            f"{optimisation.steps}. To go on: jepa pretrain --out {out} --resume"
        )
        raise Interrupted(128 + (point.interrupted or signal.SIGTERM))
    pixels = {"mean": normalize.mean, "std": normalize.std}
    save_encoder(out / "student.safetensors", FrozenEncoder(encoder, name=name, **pixels))
    frozen = FrozenEncoder(model.target.encoder, name=name, **pixels)
    save_encoder(out / "encoder.safetensors", frozen)
    return frozen


def normalisation(
    data: ImageDataModule, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Normalize:
    """As given, or measured on up to 2,000 training images."""
    if mean is not None and std is not None:
        return Normalize(mean, std)
    loader = data.evaluation_loader("train", rows=data.draw("train", 2000, "normalisation"))
    pixels = torch.cat([batch.images.double().transpose(0, 1).flatten(1) for batch in loader], 1)
    pixels /= 255
    return Normalize(
        mean or tuple(round(m, 4) for m in pixels.mean(dim=1).tolist()),
        std or tuple(round(s, 4) for s in pixels.std(dim=1).clamp_min(1e-3).tolist()),
    )


def online_probes(data: ImageDataModule, online: Online) -> OnlineProbes:
    """Disjoint training images for the bank and for the test: the test split is not touched.

    Where the images tell their groups, no group is in both.
    """
    images = data.images("train")
    rows = data.draw("train", len(images), "online")
    if images.groups is None:
        bank, held_out = rows[: online.bank], rows[online.bank :]
    else:
        groups = images.groups[rows]
        names = torch.unique(groups)
        mixed = torch.randperm(len(names), generator=generator(data.seed, "online_groups"))
        share = online.held_out / (online.bank + online.held_out)
        apart = torch.isin(groups, names[mixed[: max(1, round(share * len(names)))]])
        bank, held_out = rows[~apart][: online.bank], rows[apart]
    return OnlineProbes(
        data.evaluation_loader("train", rows=bank),
        data.evaluation_loader("train", rows=held_out[: online.held_out]),
        every_n_steps=online.every_n_steps,
    )
