"""Online probes measure, and training cannot tell."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder, Normalize
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.probes import online
from jepa.probes.features import extract
from jepa.probes.knn import KNNProbe
from jepa.probes.linear import LinearProbe
from jepa.probes.online import OnlineProbes
from jepa.probes.trends import Estimate, Progress, accuracy
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


def run(folder, *callbacks, steps=6, precision="32-true"):
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
        precision=precision,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, loader(64, "train", shuffle=True))
    trainer.save_checkpoint(folder / "end.ckpt")
    return module, (folder / "end.ckpt").stat().st_size


class Views(NamedTuple):
    views: torch.Tensor


def views():
    """Batches of 5, 5 and 2 images of 4 views each."""
    shape = (12, 4, 1, 16, 16)
    noise = torch.randint(0, 60, shape, generator=seeds.generator(0, "views"))
    images = torch.randint(0, 190, (12, 1, 1, 16, 16), generator=seeds.generator(1, "views"))
    return [Views(part) for part in (images + noise).to(torch.uint8).split(5)]


def probes(every):
    return OnlineProbes(
        loader(60, "bank", shuffle=True),
        loader(30, "held out"),
        views_loader=views(),
        every_n_steps=every,
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
        f"online/{who}/{number}"
        for who in ("student", "target")
        for number in ("knn_top1", "lidar", "linear_top1", "rankme")
    ]
    encoders = {"student": module.model.encoder, "target": module.model.target.encoder}
    for who, encoder in encoders.items():
        frozen = FrozenEncoder(encoder, mean=(0.5,), std=(0.25,))
        bank = extract(frozen, loader(60, "bank"), ("last",))
        held_out = extract(frozen, loader(30, "held out"), ("last",))
        probe = KNNProbe().fit(bank.features["last"], bank.labels)
        truth = probe.score(held_out.features["last"], held_out.labels)
        assert score.values[f"online/{who}/knn_top1"] == truth
        share = np.linalg.svd(bank.features["last"].astype(np.float64), compute_uv=False)
        share = share / share.sum()
        rank = np.exp(-(share * np.log(share)).sum())
        assert score.values[f"online/{who}/rankme"] == pytest.approx(rank, rel=1e-4)
        pixels = torch.cat([batch.views for batch in views()])
        seen = frozen(pixels.flatten(0, 1)).mean(dim=1).unflatten(0, (12, 4)).double().numpy()
        assert score.values[f"online/{who}/lidar"] == pytest.approx(lidar_of(seen), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_encoder_is_as_precise_as_in_training_and_the_probes_are_exact(tmp_path, monkeypatch):
    """Under autocast a probe's products would be bfloat16, and its Hessian no longer positive."""
    precise: dict[str, set] = {"encoder": set(), "probe": set(), "rank": set()}
    fit, rank, forward = LinearProbe.fit, online.rankme, VisionTransformer.forward

    def seen_fit(probe, *data):
        precise["probe"].add(torch.is_autocast_enabled("cpu"))
        return fit(probe, *data)

    def seen_rank(features):
        precise["rank"].add(torch.is_autocast_enabled("cpu"))
        return rank(features)

    def seen_forward(encoder, images, keep=None):
        if not torch.is_grad_enabled():
            precise["encoder"].add(torch.is_autocast_enabled("cpu"))
        return forward(encoder, images, keep)

    monkeypatch.setattr(LinearProbe, "fit", seen_fit)
    monkeypatch.setattr(online, "rankme", seen_rank)
    monkeypatch.setattr(VisionTransformer, "forward", seen_forward)
    run(tmp_path, probes(4), steps=2, precision="bf16-mixed")
    assert precise == {"encoder": {True}, "probe": {False}, "rank": {False}}


def lidar_of(x):
    """LiDAR by the paper's words: inverse square root of Sigma_w by its eigenvectors."""
    means = x.mean(axis=1)
    within = sum(np.outer(v, v) for v in (x - means[:, None]).reshape(-1, x.shape[2]))
    variances, axes = np.linalg.eigh(within / x[..., 0].size + 1e-4 * np.eye(x.shape[2]))
    root = axes @ np.diag(variances**-0.5) @ axes.T
    share = np.linalg.eigvalsh(root @ np.cov(means.T, bias=True) @ root)
    share = share.clip(0) / share.sum() + 1e-7
    return np.exp(-(share * np.log(share)).sum())


@pytest.mark.filterwarnings("ignore")
def test_the_loss_between_evaluations_is_what_training_saw(tmp_path):
    class Seen(Callback):
        losses = ()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses = (*self.losses, outputs["loss"].item())

    watching, seen = probes(3), Seen()
    judged = []
    watching.judge = judged.append
    run(tmp_path, watching, seen)
    assert [progress.step for progress in judged] == [0, 3, 6]
    assert judged[0].loss is None
    for progress, losses in zip(judged[1:], (seen.losses[:3], seen.losses[3:]), strict=True):
        assert progress.loss.value == pytest.approx(np.mean(losses), rel=1e-6)
        assert progress.loss.error == pytest.approx(scipy.stats.sem(losses), rel=1e-4)
        assert progress.probes["knn"].error > 0
    last = watching.history[-1].values
    assert judged[-1].probes["linear"].value == last["online/target/linear_top1"]


def test_losses_of_steps_that_are_passed_over_do_not_count():
    watching = probes(3)
    watching._losses = [torch.tensor(loss) for loss in (1.0, np.nan, 3.0)]
    assert watching._mean_loss().value == 2


def test_a_loss_that_falls_in_vain_is_warned_of_once(caplog):
    watching = probes(1)
    for step in range(0, 7000, 1000):
        loss = Estimate(1 - step / 7000, 0.001) if step else None
        accuracies = {"linear": accuracy(0.3, 1000), "knn": accuracy(0.25, 1000)}
        watching.judge(Progress(step, loss, accuracies))
    (record,) = caplog.records
    assert "loss falls and no probe rises" in record.getMessage()
    assert "online/*/rankme" in record.getMessage()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="every_n_steps"):
        probes(0)
