"""Supervised: its loss is scikit-learn's of the same probabilities, and its labels are learnt."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from jepa.encoder import VisionTransformer
from jepa.supervised import Supervised

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def build(**options):
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=1, heads=2)
    return Supervised(encoder, classes=3, **options)


def test_the_loss_is_the_cross_entropy_of_a_linear_layer_on_the_mean_token():
    model = build()
    output = model(IMAGES, LABELS)
    weight, bias = (p.detach().double().numpy() for p in model.head.parameters())
    tokens = model.encoder(IMAGES).detach().double().numpy()
    logits = tokens.mean(axis=1) @ weight.T + bias
    odds = np.exp(logits)
    expected = log_loss(LABELS, odds / odds.sum(axis=1, keepdims=True))
    assert output.losses.keys() == {"cross_entropy"}
    assert output.losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(output.context.detach(), tokens, atol=1e-6)
    assert output.target is None
    with torch.autocast("cpu", torch.bfloat16):
        assert model(IMAGES, LABELS).losses["cross_entropy"].dtype == torch.float32


def test_smoothing_mixes_in_the_mean_over_all_classes():
    plain, smooth = (build(smoothing=s)(IMAGES, LABELS).losses["cross_entropy"] for s in (0.0, 0.3))
    every = torch.stack(
        [build()(IMAGES, torch.full((12,), c)).losses["cross_entropy"] for c in range(3)]
    )
    torch.testing.assert_close(smooth, 0.7 * plain + 0.3 * every.mean())


def test_it_learns_labels_by_heart():
    model = build()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(IMAGES, LABELS).losses["cross_entropy"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("options", [{"classes": 1}, {"classes": 3, "smoothing": 1.0}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match="at least 2 classes"):
        Supervised(build().encoder, **options)
