"""BYOL: its loss in numpy, and a target that follows without learning."""

import numpy as np
import pytest
import torch

from jepa.byol import BYOL, byol_loss
from jepa.encoder import VisionTransformer


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=1, heads=2)
    return BYOL(encoder, projector=(10, 6), predictor=8)


VIEWS = normal(9, 2, 1, 8, 8, dtype=torch.float32)


@pytest.mark.parametrize("views", [2, 3])
def test_the_loss_is_the_squared_distance_of_unit_vectors(views):
    """Equation 2, from one view to the other, summed over all ordered pairs."""
    predicted, target = normal(11, views, 5), normal(11, views, 5, seed=1)
    p = predicted.numpy() / np.linalg.norm(predicted.numpy(), axis=-1, keepdims=True)
    t = target.numpy() / np.linalg.norm(target.numpy(), axis=-1, keepdims=True)
    expected = sum(
        ((p[:, i] - t[:, j]) ** 2).sum(axis=-1).mean()
        for i in range(views)
        for j in range(views)
        if i != j
    )
    np.testing.assert_allclose(byol_loss(predicted, target).item(), expected, rtol=1e-10)


def test_known_answers():
    x = normal(7, 1, 5).expand(-1, 2, -1)
    assert byol_loss(x, 3 * x).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(x, -x).item() == pytest.approx(8)
    other_view = torch.stack([x[:, 0], -x[:, 0]], dim=1)
    assert byol_loss(other_view, other_view.flip(1)).item() == pytest.approx(0, abs=1e-12)


def test_gradients_are_those_of_the_value():
    predicted, target = normal(4, 2, 3).requires_grad_(), normal(4, 2, 3, seed=1)
    assert torch.autograd.gradcheck(byol_loss, (predicted, target))


def test_each_view_foresees_the_target_of_the_other(model):
    output = model(VIEWS, torch.Generator())
    pooled = [model.encoder(VIEWS[:, view]).mean(dim=1) for view in (0, 1)]
    online = [model.predictor(model.projector(view)) for view in pooled]
    with torch.no_grad():  # at the start the target is a copy
        target = [model.projector(view) for view in pooled]
    cosine = torch.nn.functional.cosine_similarity
    expected = 4 - 2 * sum(cosine(online[v], target[1 - v]).mean() for v in (0, 1))
    torch.testing.assert_close(output.losses["prediction"], expected)
    assert tuple(output.context.shape) == (18, 4, 12)
    assert output.target is not None
    torch.testing.assert_close(output.target.square().mean(dim=1), torch.ones(18))


def test_the_target_follows_and_never_learns(model):
    model(VIEWS, torch.Generator()).losses["prediction"].backward()
    slow = [*model.target.parameters(), *model.target_projector.parameters()]
    fast = [*model.encoder.parameters(), *model.projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in slow)
    assert all(p.grad is not None for p in (*fast, *model.predictor.parameters()))
    before = [p.clone() for p in slow]
    with torch.no_grad():
        for p in fast:
            p.add_(1.0)
    model.follow(0.75)
    for old, new in zip(before, slow, strict=True):
        torch.testing.assert_close(new, old + 0.25)
    buffers = zip(model.target_projector.buffers(), model.projector.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)
    assert model.encoders == {"student": model.encoder, "target": model.target.encoder}


def test_the_targets_batch_norm_looks_at_the_batch(model):
    model.train()
    with torch.no_grad():
        model.target_projector[1].running_mean.fill_(100.0)
    trained = model.target_of(VIEWS)
    hidden = model.target.encoder(VIEWS[:, 0]).mean(dim=1) @ model.target_projector[0].weight.T
    hidden = hidden + model.target_projector[0].bias
    centred = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    expected = model.target_projector[3](centred.relu())
    torch.testing.assert_close(trained[:, 0], expected, rtol=1e-4, atol=1e-5)
