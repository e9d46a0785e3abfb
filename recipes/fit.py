"""Training an objective in a run folder: from the parts to the frozen target encoder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from jepa.blocks import Blocks
from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.dense import Dense, DenseJEPA
from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only
from jepa.frozen import FrozenEncoder, Normalize
from jepa.guard import Guard, NonFiniteError
from jepa.joint import JointEmbedding
from jepa.losses import Distance, VarianceCovariance
from jepa.masks import MaskSampler
from jepa.metrics_log import MetricsLog
from jepa.model import JEPA
from jepa.objective import Objective
from jepa.predictor import Predictor
from jepa.resume import ResumePoint, SafeCheckpointIO
from jepa.shapes import Grid
from jepa.sharded import whole
from jepa.supervised import Supervised
from jepa.training import Optimisation, Pretraining
from jepa.watch import CollapseWatch

from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.datamodule import ImageDataModule
from ..datasets.reading import TooManyUnreadableError
from .folder import LAST, STEPS_LOG
from .hardware import Hardware
from .progress import StepProgress


class EarlierStage(Callback):
    """Begins where another run ended: weights of all parts, and the optimiser's moments.

    Steps and schedules begin anew: the next stage of V-JEPA 2's progressive resolution has clips
    of another size or length. Positions are fixed, so every weight has its place.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: stage_from is the folder of a run that has ended")
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step, when the optimiser is there."""
        strategy = trainer.strategy  # which knows whose shard is what
        checkpoint = strategy.load_checkpoint(self.path, weights_only=True)
        strategy.load_model_state_dict(checkpoint, strict=True)
        strategy.load_optimizer_state_dict(checkpoint)


class StoppedError(RuntimeError):
    """A run could not go on, for a cause outside of its code; it can be resumed."""


class Interrupted(SystemExit):
    """The run was told to stop; it has been saved."""


def fit(
    *,
    out: Path,
    data: ImageDataModule | ClipDataModule,
    hardware: Hardware,
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor] | None = None,
    objective: Callable[[VisionTransformer], JointEmbedding | Supervised] | None = None,
    optimisation: Optimisation,
    masks: MaskSampler | None = None,
    normalize: Normalize,
    name: str,
    seed: int,
    distance: Distance = "smooth_l1",
    regulariser: VarianceCovariance | None = None,
    dense: Dense | None = None,
    callbacks: Sequence[Callback] = (),
    accumulate: int = 1,
    checkpoint_every: int = 500,
    log_every: int = 20,
    init_from: Path | None = None,
    stage_from: Path | None = None,
    resume: bool = False,
) -> tuple[FrozenEncoder, Objective]:
    """Train a JEPA, given predictor and masks, or another objective.

    Leaves `encoder.safetensors` (the target, or the trained encoder of an objective without),
    `student.safetensors` and `metrics.jsonl`. Returns that frozen encoder, and the model as
    trained.

    Raises Interrupted, after saving, when told to stop; StoppedError, with the cause, when the
    disk is full, losses or weights are not finite, a process that reads data was killed, or too
    many samples are unreadable.
    """
    if encoder.channels != data.channels:
        raise ValueError(
            f"the encoder takes {encoder.channels} channels, the images of {data.source} have "
            f"{data.channels}: set --encoder.channels={data.channels} or --data.channels="
            f"{encoder.channels}"
        )
    if init_from is not None:
        encoder.load_state_dict(load_frozen_encoder(init_from).encoder.state_dict(), strict=True)
    model = built(encoder, predictor, objective, distance, regulariser, dense)
    check_batches(data, model)
    module = Pretraining(
        model=model,
        masks=masks,
        normalize=normalize,
        optimisation=optimisation,
        seed=seed,
        guard=Guard(out / "not_finite", most=optimisation.most_not_finite),
    )
    threads = torch.get_num_threads()
    prepare(model, hardware)
    last = out / LAST if resume and (out / LAST).is_file() else None
    start_step = load_tensors_only(last)["global_step"] if last else 0
    point = ResumePoint(out / LAST, every_n_steps=checkpoint_every)
    stage = [] if stage_from is None or last else [EarlierStage(stage_from / LAST)]
    trainer = Trainer(
        max_steps=optimisation.steps,
        max_epochs=-1,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=hardware.lightning_strategy(),
        precision=hardware.lightning_precision(),
        accumulate_grad_batches=accumulate,
        log_every_n_steps=log_every,
        logger=MetricsLog(out / STEPS_LOG, start_step=start_step),
        callbacks=[CollapseWatch(), StepProgress(name), *stage, *callbacks, point],
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except (OSError, RuntimeError) as error:
        if (cause := cause_outside(error)) is None:
            raise
        raise StoppedError(
            f"stopped at step {trainer.global_step} of {optimisation.steps}: {cause}\nWhen that is "
            f"mended, go on with: jepa pretrain --out {out} --resume"
        ) from error
    finally:
        torch.set_num_threads(threads)
    if point.interrupted is not None and trainer.global_step < optimisation.steps:
        print(
            f"\nStopped by {point.interrupted.name} and saved at step {trainer.global_step} of "
            f"{optimisation.steps}. To go on: jepa pretrain --out {out} --resume"
        )
        raise Interrupted(128 + (point.interrupted or signal.SIGTERM))
    pixels = {"mean": normalize.mean, "std": normalize.std}
    model = whole(model).cpu()
    student = model.encoders["student"]
    save_encoder(out / "student.safetensors", FrozenEncoder(student, name=name, **pixels))
    best = model.encoders.get("target", student)
    frozen = FrozenEncoder(best, name=name, **pixels)
    save_encoder(out / "encoder.safetensors", frozen)
    return frozen, model


def cause_outside(error: OSError | RuntimeError) -> str | None:
    """What happened, if it is nothing that a traceback would explain."""
    if isinstance(error, OSError | NonFiniteError | TooManyUnreadableError):
        return str(error)
    if "DataLoader worker" in str(error):
        return (
            f"a process that reads data has died ({str(error).splitlines()[0]}). The system kills "
            "such processes when memory is short: fewer of them need less, --data.workers=1"
        )
    return None


def prepare(model: Objective, hardware: Hardware) -> None:
    """Threads, compilation and checkpointing of activations, as asked for."""
    torch.set_num_threads(hardware.threads or torch.get_num_threads())
    for part in model.modules():
        if isinstance(part, Blocks):
            part.activation_checkpointing = hardware.activation_checkpointing
        if isinstance(part, VisionTransformer | Predictor) and hardware.compile:
            part.compile(dynamic=True)


def built(
    encoder: VisionTransformer,
    predictor: Callable[[int, Grid], Predictor] | None,
    objective: Callable[[VisionTransformer], JointEmbedding | Supervised] | None,
    distance: Distance,
    regulariser: VarianceCovariance | None,
    dense: Dense | None,
) -> Objective:
    """A JEPA where there is a predictor; else the objective, which has nothing of a JEPA's."""
    if predictor is not None and objective is None:
        losses = {"distance": distance, "regulariser": regulariser}
        if dense is not None:
            return DenseJEPA(encoder=encoder, predictor=predictor, dense=dense, **losses)
        alone = predictor(encoder.dim, encoder.native_grid)
        return JEPA(encoder=encoder, predictor=alone, **losses)
    if objective is None or predictor is not None:
        raise ValueError(
            "give a predictor for a JEPA, e.g. --predictor.dim=64, or an objective on images, "
            f"e.g. --objective=VICReg; got {'neither' if predictor is None else 'both'}"
        )
    if regulariser is not None or dense is not None or distance != "smooth_l1":
        raise ValueError(
            "distance, regulariser and dense are a JEPA's; an objective has its own losses"
        )
    return objective(encoder)


def check_batches(data: ImageDataModule | ClipDataModule, model: Objective) -> None:
    """A joint embedding needs views, the others images as they are, and one of them labels."""
    views = data.views if isinstance(data, ImageDataModule) else None
    if isinstance(model, JointEmbedding):
        if views is None:
            raise ValueError(
                f"{type(model).__name__} compares views of images: set --data.views.count=2"
            )
    elif views is not None:
        raise ValueError(
            f"a {type(model).__name__} sees one view of an image: set --data.views=null"
        )
    if isinstance(model, Supervised):
        classes = len(data.images("train").classes)
        if model.classes != classes:
            raise ValueError(
                f"the images of {data.source} have {classes} classes, the head {model.classes}: "
                f"set --objective.classes={classes}"
            )


def normalisation(
    data: ImageDataModule | ClipDataModule,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Normalize:
    """As given, or measured on up to 2,000 training images, or 200 clips."""
    if mean is not None and std is not None:
        return Normalize(mean, std)
    some = 2000 if isinstance(data, ImageDataModule) else 200
    loader = data.evaluation_loader("train", rows=data.draw("train", some, "normalisation"))
    sums = torch.zeros(3, data.channels, dtype=torch.float64)
    for batch in loader:
        pixels = batch.images.double().transpose(0, 1).flatten(1) / 255
        count = torch.full((data.channels,), pixels.shape[1])
        sums += torch.stack([count, pixels.sum(dim=1), pixels.square().sum(dim=1)])
    count, total, squares = sums
    variance = (squares - total.square() / count) / (count - 1)
    return Normalize(
        mean or tuple(round(m, 4) for m in (total / count).tolist()),
        std or tuple(round(s, 4) for s in variance.clamp_min(1e-6).sqrt().tolist()),
    )
