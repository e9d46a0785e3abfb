"""Embedding and dynamics learnt together: terms against float64, and latents that are learnt."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader

from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.planning.dynamics import ResidualMLP, Scales
from jepa.planning.embedding import (
    FrozenEmbedding,
    LearntProjection,
    PixelEmbedding,
    features_of,
    latents_of,
)
from jepa.planning.joint import PLDM, JointTraining, LeWM
from jepa.planning.two_rooms import TwoRooms
from jepa.planning.two_rooms_walks import random_walks


def windows(seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(6, 4, 5, generator=generator)
    return 0.3 * latents, torch.randn(6, 3, 2, generator=generator)


def test_the_terms_of_pldm_are_those_of_the_paper_in_float64():
    latents, actions = windows()
    scale = torch.tensor([0.5, 2.0])
    terms = PLDM(
        5, scale, variance=3.0, covariance=7.0, smoothness=0.5, inverse_dynamics=2.0, hidden=8
    )
    found = terms(latents, actions)
    z, a = latents.double().numpy(), actions.double().numpy()
    variance = covariance = 0.0
    for t in range(4):
        spread = np.sqrt(z[:, t].var(axis=0, ddof=1) + 1e-4)
        variance += np.maximum(0, 1 - spread).mean() / 4
        matrix = np.cov(z[:, t].T)
        covariance += (matrix[~np.eye(5, dtype=bool)] ** 2).mean() / 4
    guessed = (
        terms.guess.layers(torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)).detach().numpy()
    )
    wanted = {
        "variance": 3.0 * variance,
        "covariance": 7.0 * covariance,
        "smoothness": 0.5 * (np.diff(z, axis=1) ** 2).mean(),
        "inverse_dynamics": 2.0 * ((guessed - a / scale.numpy()) ** 2).mean(),
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name


def test_the_term_of_lewm_is_small_for_gaussians_and_draws_anew():
    generator = torch.Generator().manual_seed(0)
    gaussian, actions = torch.randn(500, 3, 4, generator=generator), torch.zeros(500, 2, 2)
    terms = LeWM(4, torch.ones(2), weight=0.5, directions=16)
    normal = terms(gaussian, actions)["sigreg"].item()
    assert normal < 1.0  # about weight * 1 for a Gaussian of any number of samples
    assert terms(torch.zeros_like(gaussian), actions)["sigreg"].item() == pytest.approx(
        0.5 * 0.402 * 500, rel=1e-2
    )
    assert terms(gaussian, actions)["sigreg"].item() != normal


def test_latents_of_pixels_learn_where_the_dot_is_and_collapse_without_terms():
    """The position is read from held-out latents; without terms the prediction is perfect of a
    latent that is all but constant."""
    world = TwoRooms(size=32, border=2.0, wall_width=2.0, door_width=6.0)
    walks = list(random_walks(world, episodes=220, decisions=8, repeat=4, seed=0))
    frames = torch.stack([torch.from_numpy(walk["observations"]) for walk in walks])
    actions = torch.stack([torch.from_numpy(walk["actions"]) for walk in walks])
    position = torch.stack([torch.from_numpy(walk["infos.position"]) for walk in walks])
    rows = [{"observations": x, "actions": a} for x, a in zip(frames, actions, strict=True)]

    def learnt(**weights):
        torch.manual_seed(0)
        embedding = PixelEmbedding(
            image_size=32, size=8, width=8, mean=torch.full((3,), 25.0), std=torch.full((3,), 30.0)
        )
        dynamics = ResidualMLP(Scales(torch.ones(8), torch.ones(2)), hidden=32)
        terms = PLDM(8, actions.flatten(0, 1).std(dim=0), hidden=32, **weights)
        training = JointTraining(embedding, dynamics, terms, learning_rate=3e-3)
        lightning.Trainer(
            max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(training, DataLoader(rows[:200], batch_size=20, shuffle=True))  # fmt: skip
        embedding.eval()
        return latents_of(embedding, frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    latents = learnt()
    inputs = torch.cat([latents, torch.ones(220, 9, 1)], dim=-1)
    weights = torch.linalg.lstsq(inputs[:200].flatten(0, 1), position[:200].flatten(0, 1)).solution
    away = (inputs[200:] @ weights - position[200:]).norm(dim=-1).mean()
    guess = (position[200:] - position[:200].flatten(0, 1).mean(dim=0)).norm(dim=-1).mean()
    assert away < 0.4 * guess
    nothing = dict(variance=0.0, covariance=0.0, smoothness=0.0, inverse_dynamics=0.0)
    assert learnt(**nothing).flatten(0, 1).std(dim=0).mean() < 0.1 * latents.flatten(0, 1).std()


def test_pixels_are_normalised_by_channel():
    mean, std = torch.tensor([100.0, 90.0, 30.0]), torch.tensor([50.0, 40.0, 60.0])
    torch.manual_seed(0)
    embedding = PixelEmbedding(image_size=16, size=3, width=4, mean=mean, std=std)
    images = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    normal = ((images - mean) / std).permute(0, 3, 1, 2)
    assert torch.equal(embedding(images), embedding.layers(normal))
    turned = images.transpose(1, 2)  # not in the order of memory
    torch.testing.assert_close(embedding(turned), embedding.layers(normal.transpose(2, 3)))


def test_behind_a_frozen_encoder_only_the_projection_learns():
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=64, patch_size=16, channels=3, dim=12, depth=1, heads=1)
    encoder = FrozenEncoder(vit, mean=(0.1,) * 3, std=(0.2,) * 3)
    projection = LearntProjection(12, (4, 4), components=3, hidden=8)
    embedding = FrozenEmbedding(encoder, projection)
    frames = torch.randint(0, 255, (40, 64, 64, 3), dtype=torch.uint8)
    features = features_of(embedding, frames, batch=7)
    assert features.shape == (40, 16, 12)
    assert not features.requires_grad
    before = encoder.fingerprint()
    training = JointTraining(
        embedding,
        ResidualMLP(Scales(torch.ones(3), torch.ones(2)), hidden=8),
        PLDM(3, torch.ones(2), hidden=8),
    )
    losses = training.losses(features.unflatten(0, (10, 4)), torch.randn(10, 3, 2))
    torch.stack(list(losses.values())).sum().backward()
    assert encoder.fingerprint() == before
    assert all(p.grad is None for p in encoder.parameters())
    assert all(p.grad is not None for p in projection.parameters())
    again = embedding(embedding.features(frames)).detach()
    assert torch.allclose(latents_of(embedding, features), again, atol=1e-5)


def test_of_a_frozen_encoder_any_layer_can_be_projected():
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=64, patch_size=16, channels=3, dim=12, depth=2, heads=1)
    encoder = FrozenEncoder(vit, mean=(0.1,) * 3, std=(0.2,) * 3)
    projection = LearntProjection(12, (4, 4), components=3, hidden=8)
    frames = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    images = frames.permute(0, 3, 1, 2)
    for layer, wanted in encoder.layers(images, encoder.layer_names).items():
        embedding = FrozenEmbedding(encoder, projection, layer=layer)
        assert torch.equal(embedding.features(frames), wanted)
    assert torch.equal(FrozenEmbedding(encoder, projection).features(frames), wanted)
    with pytest.raises(ValueError, match=r"one of blocks\.0, blocks\.1, norm; got 'blocks\.2'"):
        FrozenEmbedding(encoder, projection, layer="blocks.2")


def test_wrong_sizes_and_weights_are_refused():
    with pytest.raises(ValueError, match=r"expected a patch grid of \(4, 4\)"):
        LearntProjection(12, (4, 4)).pool(torch.zeros(1, 4, 12), (2, 2))
    with pytest.raises(ValueError, match="multiple of 8"):
        PixelEmbedding(image_size=60, mean=torch.ones(3), std=torch.ones(3))
    with pytest.raises(ValueError, match="at least 0"):
        PLDM(3, torch.ones(2), variance=-1.0)
