"""A run that takes a second: by a call, and by a command."""

import shutil

import numpy as np
import torch
from PIL import Image

from jepa import seeds
from jepa.datasets.datamodule import ImageDataModule
from jepa.encoder import VisionTransformer
from jepa.frozen import Normalize
from jepa.masks import MultiBlockMasks
from jepa.predictor import Predictor
from jepa.recipes.fit import fit
from jepa.recipes.hardware import Hardware
from jepa.training import Optimisation

STEPS = 14


def made_images(folder):
    """48 training images, and the same for testing."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{number}.png")
    shutil.copytree(folder / "train", folder / "test")
    return folder


def run(
    out,
    data,
    *,
    callbacks=(),
    workers=0,
    steps=STEPS,
    resume=True,
    every=4,
    accelerator="cpu",
    **changes,
):
    """Trains, or goes on; gives the weights of the encoder and of its target."""
    with seeds.weights(0, "init"):
        encoder = VisionTransformer(
            image_size=24, patch_size=4, channels=3, dim=16, depth=2, heads=2
        )
        frozen, model = fit(
            out=out,
            data=ImageDataModule(
                source=f"folder:{data}", image_size=24, batch_size=8, workers=workers
            ),
            encoder=encoder,
            predictor=lambda dim, grid: Predictor(dim, grid, dim=16, depth=1, heads=2),
            optimisation=Optimisation(steps=steps, warmup_steps=3, **changes),
            masks=MultiBlockMasks(),
            normalize=Normalize((0.5,) * 3, (0.3,) * 3),
            name="faults",
            seed=0,
            callbacks=callbacks,
            hardware=Hardware(accelerator=accelerator, threads=1, precision="float32"),
            checkpoint_every=every,
            log_every=1,
            resume=resume,
        )
    parts = [*frozen.encoder.state_dict().values(), *model.encoder.state_dict().values()]
    return torch.cat([part.flatten() for part in parts])


def arguments(out, data):
    """The same run as a command."""
    return [
        "pretrain",
        f"--out={out}",
        f"--data.source=folder:{data}",
        "--data.image_size=24",
        "--data.batch_size=8",
        *("--encoder.image_size=24", "--encoder.patch_size=4"),
        *("--encoder.dim=16", "--encoder.depth=2", "--encoder.heads=2"),
        *("--predictor.dim=16", "--predictor.depth=1", "--predictor.heads=2"),
        *(f"--optimisation.steps={STEPS}", "--optimisation.warmup_steps=3"),
        *("--online=null", "--probe=false", "--checkpoint_every=4", "--log_every=1"),
        *("--hardware.accelerator=cpu", "--hardware.threads=1", "--hardware.precision=float32"),
    ]
