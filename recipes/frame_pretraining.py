"""I-JEPA on single frames of videos or of an environment: an encoder that never saw time pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from jepa.checkpoint import load_frozen_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.losses import VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.predictor import Predictor
from jepa.shapes import Grid
from jepa.training import Optimisation

from ..datasets.datamodule import MadeImages
from ..datasets.images import InMemoryImages
from .fit import fit, normalisation
from .folder import finished
from .hardware import Hardware
from .pictures import save_pictures


@dataclass(frozen=True, kw_only=True)
class FramePretraining:
    """I-JEPA on single frames; the training knows neither actions nor order.

    Args:
        encoder: to train, then frozen.
        predictor: given the encoder's width and grid.
        optimisation: steps, learning rate, decay, momentum of the target.
        masks: the mask sampler.
        regulariser: further losses on the latents of the visible tokens; null for none.
        batch_size: frames per step.
        hardware: device and precision.
    """

    encoder: VisionTransformer
    predictor: Callable[[int, Grid], Predictor]
    optimisation: Optimisation
    masks: MultiBlockMasks = MultiBlockMasks()  # noqa: RUF009
    regulariser: VarianceCovariance | None = None
    batch_size: int = 64
    hardware: Hardware = Hardware()  # noqa: RUF009


def pretrained_on_frames(
    frames: UInt8[Tensor, "n C H W"],
    out: Path,
    pretraining: FramePretraining,
    name: str,
    seed: int,
) -> FrozenEncoder:
    """The frozen encoder of the frames; trained once, in the run folder `out`."""
    if finished(out):
        return load_frozen_encoder(out)
    labels = torch.zeros(len(frames), dtype=torch.int64)
    made = InMemoryImages(frames, labels, classes=["frame"], title="frames")
    data = MadeImages(
        {"train": made, "test": made},
        batch_size=pretraining.batch_size,
        seed=seed,
        crop_scale=None,
    )
    frozen, _ = fit(
        out=out,
        data=data,
        encoder=pretraining.encoder,
        predictor=pretraining.predictor,
        optimisation=pretraining.optimisation,
        masks=pretraining.masks,
        regulariser=pretraining.regulariser,
        normalize=normalisation(data, None, None),
        name=name,
        seed=seed,
        hardware=pretraining.hardware,
        resume=True,
    )
    save_pictures(out / "pictures.npz", frozen, data, pretraining.masks, seed)
    return frozen
