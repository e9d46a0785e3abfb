"""VICReg's three terms against loops in numpy."""

import numpy as np
import pytest
import torch

from jepa.encoder import VisionTransformer
from jepa.vicreg import VICReg, vicreg_terms


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def terms_in_numpy(z):
    """z [B, V, E], by the paper's equations 1 to 5, weighed as in the authors' code."""
    _, views, dim = z.shape
    pairs = [(i, j) for i in range(views) for j in range(i)]
    spread = np.sqrt(z.var(axis=0, ddof=1) + 1e-4)
    covariance = 0.0
    for view in range(views):
        c = np.cov(z[:, view].T)
        covariance += sum(c[i, j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
    return {
        "invariance": np.mean([((z[:, i] - z[:, j]) ** 2).mean() for i, j in pairs]),
        "variance": np.maximum(0, 1 - spread).mean(),
        "covariance": covariance,
    }


@pytest.mark.parametrize("views", [2, 3])
def test_the_terms_are_the_papers(views):
    z = normal(30, views, 4) * torch.tensor([0.1, 0.8, 1.0, 2.0], dtype=torch.float64)
    z = z + normal(30, 1, 4, seed=1)
    expected = terms_in_numpy(z.numpy())
    found = vicreg_terms(z)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].item(), value, rtol=1e-10)


def test_known_answers():
    views = normal(4000, 1, 3).expand(-1, 2, -1)
    white = vicreg_terms(2 * views)
    assert white["invariance"] == 0
    assert white["variance"] == 0
    assert white["covariance"] < 0.1
    point = vicreg_terms(torch.ones(10, 2, 3))
    assert point["variance"].item() == pytest.approx(0.99)  # 1 - sqrt(eps)
    assert point["covariance"] == 0
    apart = vicreg_terms(torch.tensor([[0.0], [3.0]]).expand(-1, 5).expand(8, 2, 5))
    assert apart["invariance"].item() == pytest.approx(9.0)


def test_gradients_are_those_of_the_values():
    z = 0.3 * normal(6, 2, 3)
    assert torch.autograd.gradcheck(lambda z: tuple(vicreg_terms(z).values()), z.requires_grad_())


def test_the_losses_are_the_weighted_terms_of_the_embeddings():
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=1, heads=2)
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
    model = VICReg(encoder, projector=(10, 6), **weights)
    views = normal(9, 2, 1, 8, 8, dtype=torch.float32)
    output = model(views, torch.Generator())
    expected = terms_in_numpy(model.embed(views)[1].detach().double().numpy())
    for name, weight in weights.items():
        assert output.losses[name].item() == pytest.approx(weight * expected[name], rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(views, torch.Generator()).losses["covariance"].dtype == torch.float32
    assert output.target is None
    assert model.encoders == {"student": encoder}


def test_a_negative_weight_is_refused():
    encoder = VisionTransformer(image_size=8, patch_size=4, dim=8, depth=1, heads=1)
    with pytest.raises(ValueError, match="at least 0"):
        VICReg(encoder, projector=(4, 4), covariance=-1.0)
