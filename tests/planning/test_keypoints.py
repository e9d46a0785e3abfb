"""Keypoints: where things are among the patches, known everywhere when learnt somewhere."""

from __future__ import annotations

import pytest
import torch

from jepa.planning.embedding import LearntProjection, Projection
from jepa.planning.keypoints import KeypointProjection

GRID = (6, 5)


def scenes(where):
    """Tokens of noise, and one thing at each place (row, column)."""
    generator = torch.Generator().manual_seed(0)
    tokens = 0.1 * torch.randn(len(where), 30, 4, generator=generator)
    tokens[torch.arange(len(where)), where[:, 0] * 5 + where[:, 1], 2] += 3.0
    return tokens


def everywhere():
    return torch.cartesian_prod(torch.arange(6), torch.arange(5))


@torch.no_grad()
def test_a_map_that_looks_for_a_thing_tells_where_it_is_and_what_is_said_there():
    projection = KeypointProjection(4, GRID, components=3, hidden=4, points=2, said=1).eval()
    projection.standard.running_var.fill_(1 - projection.standard.eps)  # tokens stay as they are
    first, _, last = projection.patches
    for weight in projection.patches.parameters():
        weight.zero_()
    first.weight.copy_(torch.eye(4))
    last.weight[0, 2] = 100.0  # the first map looks for the thing; the second one for nothing
    last.weight[2, 2], last.weight[3, 2] = 1.0, 30.0
    tokens = torch.zeros(30, 30, 4)
    tokens[torch.arange(30), torch.arange(30), 2] = 1.0
    where, said = projection.seen(tokens)
    row, column = everywhere().T
    truth = torch.stack([row / 2.5 - 1, column / 2 - 1], dim=-1)
    torch.testing.assert_close(where[:, 0], truth, atol=1e-6, rtol=0)
    torch.testing.assert_close(where[:, 1], torch.zeros(30, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(said[..., 0], torch.ones(30, 2), atol=1e-6, rtol=0)


def test_what_is_learnt_at_some_places_is_known_at_others():
    places = everywhere()
    known = (places[:, 0] + places[:, 1]) % 2 == 0
    errors = {}
    for kind in (KeypointProjection, LearntProjection):
        torch.manual_seed(0)
        projection = kind(4, GRID, components=2, hidden=16)
        assert isinstance(projection, Projection)
        optimiser = torch.optim.Adam(projection.parameters(), 1e-2)
        tokens = projection.pool(scenes(places), GRID)
        for _ in range(300):
            optimiser.zero_grad()
            away = projection.latent(tokens[known]) - places[known]
            away.square().mean().backward()
            optimiser.step()
        missed = projection.latent(tokens[~known]) - places[~known]
        errors[kind] = missed.square().mean().sqrt().item()
    assert errors[KeypointProjection] < 0.3 < 1.0 < errors[LearntProjection]


def test_what_is_seen_does_not_depend_on_offsets_and_scales_of_channels():
    """Those of frozen encoders are large, and hid the things."""
    tokens = scenes(everywhere())
    others = tokens * torch.tensor([1, 7, 0.2, 4]) - 3
    found = []
    for seen in (tokens, others):
        torch.manual_seed(0)
        projection = KeypointProjection(4, GRID, components=2, hidden=16)
        learning = [projection.latent(some) for some in seen.split(10)]
        found.append(torch.cat([*learning, projection.eval().latent(seen)]))
    torch.testing.assert_close(*found, atol=1e-3, rtol=0)
    assert found[0].std() > 0.01
    mean = projection.standard.running_mean  # of all batches alike
    torch.testing.assert_close(mean, others.flatten(0, 1).mean(dim=0))


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"expected a patch grid of \(6, 5\); got \(5, 6\)"):
        KeypointProjection(4, GRID).pool(torch.zeros(1, 30, 4), (5, 6))
