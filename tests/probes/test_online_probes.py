"""Online probes measure, and training cannot tell."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder, Normalize
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.probes.features import extract
from jepa.probes.knn import KNNProbe
from jepa.probes.online import OnlineProbes
from jepa.training import Optimisation, Pretraining


class Batch(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor


def collate(rows):
    return Batch(*(torch.stack(part) for part in zip(*rows, strict=True)))


def loader(n, name, **options):
    generator = seeds.generator(0, name)
    images = torch.randint(0, 256, (n, 1, 16, 16), dtype=torch.uint8, generator=generator)
    data = TensorDataset(images, torch.arange(n) % 3)
    return DataLoader(data, batch_size=16, collate_fn=collate, **options)


class Disturbed(Pretraining):
    """Pretraining that leans on every global generator, so that any touch of them shows."""

    def training_step(self, batch, batch_idx):
        noise = torch.randn(1) + np.random.standard_normal() + random.gauss(0, 1)
        output = super().training_step(batch, batch_idx)
        return output | {"loss": output["loss"] * (1 + 0.1 * float(noise))}


def run(folder, *callbacks, steps=6):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    encoder = VisionTransformer(image_size=16, patch_size=4, channels=1, dim=12, depth=2, heads=2)
    module = Disturbed(
        model=JEPA(
            encoder=encoder,
            predictor=Predictor(encoder_dim=12, native_grid=(4, 4), dim=8, depth=1, heads=2),
        ),
        masks=MultiBlockMasks(),
        normalize=Normalize((0.5,), (0.25,)),
        optimisation=Optimisation(steps=steps, momentum=(0.9, 1.0)),
    )
    module.model.encoder.blocks[0].eval()  # a mode of its own, to be left alone
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, loader(64, "train", shuffle=True))
    trainer.save_checkpoint(folder / "end.ckpt")
    return module, (folder / "end.ckpt").stat().st_size


def probes(every):
    return OnlineProbes(
        loader(60, "bank", shuffle=True), loader(30, "held out"), every_n_steps=every
    )


@pytest.mark.filterwarnings("ignore")
def test_training_is_bit_identical_with_and_without(tmp_path):
    run(tmp_path, steps=1)  # tables are cached, and checking types draws from Python's generator
    watching = probes(2)
    alone, size_alone = run(tmp_path)
    watched, size_watched = run(tmp_path, watching)
    for (name, one), two in zip(
        alone.state_dict().items(), watched.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    assert all(p.requires_grad for p in watched.model.encoder.parameters())
    modes = [[m.training for m in module.modules()] for module in (alone, watched)]
    assert modes[0] == modes[1]
    assert abs(size_watched - size_alone) < 256  # the callback's name at most
    assert [score.step for score in watching.history] == [0, 2, 4, 6]
    assert [score.seconds for score in watching.history] == sorted(
        score.seconds for score in watching.history
    )


@pytest.mark.filterwarnings("ignore")
def test_the_last_score_is_that_of_the_frozen_encoders(tmp_path):
    watching = probes(4)
    module, _ = run(tmp_path, watching)
    score = watching.history[-1]
    assert score.step == 6
    assert sorted(score.values) == [
        f"online/{who}/{probe}_top1" for who in ("student", "target") for probe in ("knn", "linear")
    ]
    encoders = {"student": module.model.encoder, "target": module.model.target.encoder}
    for who, encoder in encoders.items():
        frozen = FrozenEncoder(encoder, mean=(0.5,), std=(0.25,))
        bank = extract(frozen, loader(60, "bank"), ("last",))
        held_out = extract(frozen, loader(30, "held out"), ("last",))
        probe = KNNProbe().fit(bank.features["last"], bank.labels)
        truth = probe.score(held_out.features["last"], held_out.labels)
        assert score.values[f"online/{who}/knn_top1"] == truth


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="every_n_steps"):
        probes(0)
