"""Latents that tell windows apart: the loss by brute force, and what it asks for."""

from __future__ import annotations

import math

import pytest
import torch

from jepa.planning.contrast import TimeContrast, time_contrast


def test_it_is_the_mean_of_all_pairs_counted_one_by_one():
    z = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = []
    for window in range(5):
        for i in range(3):
            for j in range(3):
                if i != j:
                    near = math.exp(-(z[window, i] - z[window, j]).square().sum() / 2.5)
                    rest = sum(
                        math.exp(-(z[window, i] - z[other, k]).square().sum() / 2.5)
                        for other in range(5)
                        for k in range(3)
                        if other != window
                    )
                    losses.append(-math.log(near / (near + rest)))
    assert time_contrast(z, 2.5).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_latents_that_all_agree_are_told_apart_by_chance_and_far_ones_surely():
    assert time_contrast(torch.ones(6, 4, 8), 1.0).item() == pytest.approx(math.log(1 + 5 * 4))
    far = 100.0 * torch.eye(6)[:, None].expand(6, 4, 6)
    assert time_contrast(far, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_what_stays_is_found_beside_what_moves():
    """A thing that stays in each of 64 windows, and one that moves as widely at every step."""
    generator = torch.Generator().manual_seed(0)
    stays = torch.randn(64, 1, 1, generator=generator).expand(-1, 5, -1)
    seen = torch.cat([torch.randn(64, 5, 1, generator=generator), stays], dim=-1)
    weight = torch.tensor([1.0, 0.1], requires_grad=True)
    optimiser = torch.optim.Adam([weight], 0.1)
    for _ in range(100):
        optimiser.zero_grad()
        time_contrast((seen @ weight)[..., None], 1.0).backward()
        optimiser.step()
    moving, staying = weight.abs().tolist()
    assert staying > 1
    assert moving < 0.1 * staying


def test_the_terms_are_weighted_and_learn_the_action():
    torch.manual_seed(0)
    terms = TimeContrast(3, torch.tensor([2.0]), contrast=0.5, inverse_dynamics=3.0, hidden=8)
    latents, actions = torch.randn(4, 3, 3), torch.randn(4, 2, 1)
    losses = terms(latents, actions)
    assert losses["contrast"].item() == pytest.approx(0.5 * time_contrast(latents, 1.0).item())
    guess = terms.guess.layers(torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1))
    assert losses["inverse_dynamics"].item() == pytest.approx(
        3 * (guess - actions / 2).square().mean().item()
    )


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"contrast": -1.0}])
def test_impossible_weights_are_refused(options):
    with pytest.raises(ValueError, match="at least 0 and a temperature above 0; got"):
        TimeContrast(3, torch.ones(1), **options)


@pytest.mark.parametrize("shape", [(1, 4, 2), (4, 1, 2)])
def test_a_single_window_cannot_be_told_from_others(shape):
    with pytest.raises(ValueError, match="expected windows of latents, both several; got"):
        time_contrast(torch.zeros(shape), 1.0)
