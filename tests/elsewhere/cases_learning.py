"""A step of every objective, and views of pictures, on a device that is not the processor."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from alike import THERE, alike, drawn, images
from pytorch_lightning import Trainer

from jepa.byol import BYOL
from jepa.datasets.augmented_views import ViewBatch, ViewBatches
from jepa.dense import Dense, DenseJEPA
from jepa.encoder import VisionTransformer
from jepa.frozen import Normalize
from jepa.losses import VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.masks_video import CausalMasks, MaskGroups, RandomTubeMasks, TubeBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.sigreg import LeJEPA
from jepa.supervised import Supervised
from jepa.training import Optimisation, Pretraining
from jepa.vicreg import VICReg

sys.path += [str(Path(__file__).parent.parent / room) for room in ("recipes", "datasets")]
import test_augmented_views


def clips(positions):
    torch.manual_seed(0)
    sizes = dict(image_size=16, patch_size=4, channels=3, frames=4, tubelet_size=2)
    return VisionTransformer(**sizes, positions=positions, dim=24, depth=3, heads=2)


def foreseeing(width, grid, positions):
    sizes = dict(dim=24, depth=1, heads=2, mask_tokens=2)
    return Predictor(width, grid, positions=positions, **sizes)


TUBES = MaskGroups(groups=(TubeBlockMasks(blocks=2, scale=0.3), RandomTubeMasks()))


FUTURES = MaskGroups(groups=(TubeBlockMasks(blocks=2, scale=0.3), CausalMasks()))


def video(positions, masks):
    encoder = clips(positions)
    predictor = foreseeing(encoder.dim, encoder.native_grid, positions)
    return JEPA(encoder=encoder, predictor=predictor, distance="l1"), masks


def densely():
    predictor = partial(foreseeing, positions="rope")
    dense = Dense(blocks=(0, 1), first_step=0, last_step=1)
    return DenseJEPA(encoder=clips("rope"), predictor=predictor, dense=dense), TUBES


def pictures():
    encoder = images()
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=24, depth=1, heads=2)
    terms = VarianceCovariance(variance=0.1, covariance=0.01)
    return JEPA(encoder=encoder, predictor=predictor, regulariser=terms), MultiBlockMasks()


OBJECTIVES = {
    "ijepa": pictures,
    "vjepa": lambda: video("sincos", FUTURES),
    "vjepa2": lambda: video("rope", TUBES),
    "vjepa2_legacy": lambda: video("rope_legacy", FUTURES),
    "vjepa21": densely,
    "vicreg": lambda: (VICReg(images(), projector=(8,)), None),
    "byol": lambda: (BYOL(images()), None),
    "lejepa": lambda: (LeJEPA(images(), projector=(8,), directions=5), None),
    "supervised": lambda: (Supervised(images(), classes=3), None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_learning(name):
    def step(device):
        torch.manual_seed(0)
        model, masks = OBJECTIVES[name]()
        grey = Normalize((0.5,) * 3, (0.2,) * 3)
        learning = Pretraining(
            model=model, masks=masks, normalize=grey, optimisation=Optimisation(steps=9)
        ).to(device)
        shape = (4, 3, 4, 16, 16) if name.startswith("vjepa") else (4, 3, 32, 32)
        pixels = (128 + 40 * drawn(*shape)).clamp(0, 255).byte().to(device)
        batch = SimpleNamespace(
            images=pixels,
            views=torch.stack([pixels, pixels.flip(-1)], 1),
            labels=torch.tensor([0, 1, 2, 1], device=device),
        )
        losses = learning.outcome(batch).losses
        torch.stack(list(losses.values())).sum().backward()
        learning.configure_optimizers().step()
        model.follow(0.9)
        return losses, [p for p in learning.parameters()]

    # BYOL's batch norms make gradients of nothing of what cancels; AdamW makes steps of these.
    alike(step, close=3e-3)


def test_views_are_finished_there(tmp_path, monkeypatch):
    data, done, undone = test_augmented_views.module(channels=3), ViewBatch.done, []
    whole = data.train_loader().batches
    batch = ViewBatches(whole.batches, whole.views, later=True)[0]
    there = batch._replace(views=batch.views.to(THERE), undone=batch.undone.to(THERE))
    found = there.done(whole.views).views
    assert found.device == THERE
    assert (found.cpu().int() - whole[0].views).abs().max() <= 1  # halves may be rounded either way

    def seen(self, views):
        undone.append((self.views.device, self.undone is not None))
        return done(self, views)

    monkeypatch.setattr(ViewBatch, "done", seen)
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=12, patch_size=4, channels=3, dim=12, depth=1, heads=2)
    learning = Pretraining(
        model=VICReg(encoder, projector=(8,)),
        normalize=Normalize((0.5,) * 3, (0.2,) * 3),
        optimisation=Optimisation(steps=2),
    )
    Trainer(
        accelerator="elsewhere",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(learning, datamodule=data)
    assert undone == [(THERE, True)] * 2
