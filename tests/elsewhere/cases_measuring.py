"""Tables of features, probes and diagnostics on a device that is not the processor."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from alike import THERE, alike, drawn, images

from jepa import diagnostics
from jepa.frozen import FrozenEncoder, device_of
from jepa.planning.levels import LatentEmbedding
from jepa.planning.projection import SlowFeatures
from jepa.planning.readout import LinearReadout
from jepa.probes.attentive_probe import AttentiveProbe
from jepa.probes.dense import DenseProbe
from jepa.probes.features import extract
from jepa.probes.linear_sgd import LinearSGDProbe
from jepa.probes.mlp import MLPProbe


def test_diagnostics():
    def found(device):
        features, views = drawn(40, 6).to(device), drawn(20, 3, 6, seed=1).to(device)
        values = [
            diagnostics.rankme(features),
            diagnostics.feature_std(features),
            diagnostics.lidar(views),
            diagnostics.alpha_req(features, first=1, last=5),
            diagnostics.uniformity(features),
            diagnostics.alignment(views[:, 0], views[:, 1]),
        ]
        return [torch.as_tensor(value).float().to(device) for value in values]

    alike(found, close=1e-3)


def test_tables_of_features():
    def features(device):
        encoder = FrozenEncoder(images(), mean=[0.5] * 3, std=[0.2] * 3).to(device)
        batch = (drawn(6, 3, 32, 32).mul(40).add(128).clamp(0, 255).byte(), torch.arange(6))
        table = extract(encoder, [batch], ("last", "last4", "grid4", "tokens"))
        return [
            torch.from_numpy(np.asarray(table.features[name])).float().to(device)
            for name in ("last", "last4", "grid4", "tokens")
        ]

    alike(features, close=2e-3)


PROBES = {
    "attentive": (partial(AttentiveProbe, heads=2), (24, 5, 12), (24,)),
    "linear": (LinearSGDProbe, (24, 6), (24,)),
    "mlp": (MLPProbe, (24, 6), (24,)),
    "dense": (partial(DenseProbe, grid=(2, 2)), (24, 4, 6), (24, 2, 2)),
}


@pytest.mark.parametrize("name", PROBES)
def test_probes(name):
    kind, shape, labels = PROBES[name]

    def said(device):
        x, y = drawn(*shape).numpy(), np.arange(np.prod(labels)).reshape(labels) % 3
        probe = kind(epochs=2, batch_size=8, random_state=0, device=str(device)).fit(x, y)
        return torch.from_numpy(probe.predict(x)).to(device)

    alike(said)


def test_slow_features_and_readouts():
    def found(device):
        pooled, truth = drawn(6, 20, 8).to(device), drawn(120, 2, seed=1).to(device)
        slow = SlowFeatures(components=3, frequencies=2, principal=6).to(device).fit(pooled)
        latents = slow.latent(pooled).flatten(0, 1)
        projection = LatentEmbedding(torch.ones(3, device=device), size=3, hidden=8).to(device)
        torch.manual_seed(0)
        for weight in projection.parameters():
            weight.data.copy_(drawn(*weight.shape))
        projection.measure_in(latents)
        # An eigenvector may have either sign.
        return LinearReadout.fit(latents, truth)(latents), projection.units.square()

    alike(found, close=1e-3)


class Graph(torch.nn.Module):
    """An encoder without weights, which computes on the processor, as those of ONNX files do."""

    layer_names = ("norm",)

    def layers(self, pixels, names):
        return {"norm": pixels.cpu().flatten(2)}


def test_graphs_are_given_pixels_that_were_normalised_there():
    graph = FrozenEncoder(Graph(), mean=[0.5] * 3, std=[0.2] * 3).to(THERE)
    assert device_of(graph) == THERE
    pixels = drawn(2, 3, 8, 8)
    table = extract(graph, [(pixels, torch.arange(2))], ("last",))
    truth = ((pixels - 0.5) / 0.2).flatten(2).mean(dim=1)
    torch.testing.assert_close(torch.from_numpy(table.features["last"]), truth)
