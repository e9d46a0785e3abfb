"""SIGReg against its integral in numpy, and against distributions whose value is known."""

import math

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.sigreg import LeJEPA, agreement, draw_directions, sigreg


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def integral(samples, directions):
    """Over [-3, 3], with complex characteristic functions, one direction after the other."""
    t = np.linspace(-3, 3, 33)
    gauss, values = np.exp(-(t**2) / 2), []
    for direction in directions.T:
        empirical = np.exp(1j * np.outer(t, samples @ direction)).mean(axis=1)
        height = np.abs(empirical - gauss) ** 2 * gauss
        values.append(((height[1:] + height[:-1]) / 2 * np.diff(t)).sum())
    return len(samples) * np.mean(values)


def test_the_statistic_is_the_integral():
    samples = 0.7 * normal(40, 5) + torch.tensor([0.0, 1, -2, 0, 3], dtype=torch.float64)
    directions = torch.nn.functional.normalize(normal(5, 12, seed=1), dim=0)
    expected = integral(samples.numpy(), directions.numpy())
    np.testing.assert_allclose(sigreg(samples, directions).item(), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [64, 1000])
def test_one_point_costs_its_number_of_samples(n):
    directions = draw_directions(8, 16, torch.Generator().manual_seed(0))
    assert sigreg(torch.zeros(n, 8), directions).item() == pytest.approx(0.402 * n, rel=1e-3)


@pytest.mark.parametrize("n", [32, 512, 2048])
def test_a_gaussian_costs_the_same_for_any_number_of_samples(n):
    """The variance of exp(itx) is 1 - exp(-t^2), so the expectation does not know n."""
    a, b = math.erf(3 / math.sqrt(2)), math.erf(3 * math.sqrt(1.5))
    expected = math.sqrt(2 * math.pi) * (a - b / math.sqrt(3))
    directions = draw_directions(64, 512, torch.Generator().manual_seed(1))
    values = [sigreg(normal(n, 64, seed=s, dtype=torch.float32), directions) for s in range(4)]
    assert torch.stack(values).mean().item() == pytest.approx(expected, rel=0.1)


def test_gradients_are_those_of_the_value():
    directions = torch.nn.functional.normalize(normal(3, 4, seed=1), dim=0)
    samples = normal(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(sigreg, (samples, directions.requires_grad_()))


def test_descent_turns_a_line_into_a_gaussian():
    line = 0.3 * normal(256, 1, dtype=torch.float32) * torch.ones(1, 4)
    points = line.clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.1)
    for step in range(300):
        directions = draw_directions(4, 32, seeds.generator(0, "test", step))
        loss = sigreg(points, directions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = draw_directions(4, 64, torch.Generator().manual_seed(9))
    assert sigreg(line, unseen) > 10
    assert sigreg(points, unseen) < 1
    assert torch.linalg.eigvalsh(torch.cov(points.detach().T))[0] > 0.5  # it was 0


def test_directions_have_length_one_and_their_generators_word():
    once, again, other = (
        draw_directions(6, 2000, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    torch.testing.assert_close(once.norm(dim=0), torch.ones(2000))
    assert (once @ once.T / 2000 - torch.eye(6) / 6).abs().max() < 0.02


def test_agreement_is_the_spread_over_views():
    embeddings = normal(7, 3, 4)
    expected = embeddings.numpy().var(axis=1).mean()
    assert agreement(embeddings).item() == pytest.approx(expected, rel=1e-12)
    assert agreement(embeddings[:, :1].expand(-1, 3, -1)) < 1e-30


def test_both_losses_are_weighed_and_the_directions_drawn():
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=1, heads=2)
    model = LeJEPA(encoder, projector=(10, 6), weight=0.3, directions=5)
    views = normal(9, 2, 1, 8, 8, dtype=torch.float32)
    output = model(views, torch.Generator().manual_seed(4))
    _, embeddings = model.embed(views)
    z = embeddings.detach().double().numpy()
    directions = draw_directions(6, 5, torch.Generator().manual_seed(4)).double().numpy()
    statistic = np.mean([integral(z[:, view], directions) for view in range(2)])
    assert output.losses["sigreg"].item() == pytest.approx(0.3 * statistic, rel=1e-4)
    expected = 0.7 * z.var(axis=1).mean()
    assert output.losses["invariance"].item() == pytest.approx(expected, rel=1e-4)
    assert output.target is None
    assert model.encoders == {"student": encoder}
    other = model(views, torch.Generator().manual_seed(5)).losses["sigreg"]
    assert other != output.losses["sigreg"]


def test_nonsense_is_refused():
    encoder = VisionTransformer(image_size=8, patch_size=4, dim=8, depth=1, heads=1)
    with pytest.raises(ValueError, match="weight <= 1"):
        LeJEPA(encoder, weight=1.5)
    with pytest.raises(ValueError, match="directions"):
        LeJEPA(encoder, directions=0)
