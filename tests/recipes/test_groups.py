"""What is known of the places of test images reaches every interval and test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jepa.datasets.datamodule import ImageDataModule
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.features import TOKENS, RawPixels
from jepa.probes.intervals import accuracy_interval, wilson
from jepa.probes.paired import mcnemar
from jepa.recipes.comparison import paired_tests
from jepa.recipes.exporting import cost_of
from jepa.recipes.measuring import measure_cell
from jepa.recipes.probe import measure
from jepa.recipes.probe_clips import ClipProbes, Known, probed

LABELLED = 170


@pytest.fixture(scope="module")
def photographs():
    return ImageDataModule(source="photographs", image_size=8)


def tiny(**more):
    sizes = {"image_size": 8, "patch_size": 4, "channels": 1, "dim": 16, "depth": 1, "heads": 2}
    return FrozenEncoder(VisionTransformer(**sizes | more), mean=[0.5], std=[0.25])


def is_wide(found, n):
    """Much wider than that of as many independent images."""
    alone = wilson(round(found["value"] * n), n)
    return found["high"] - found["low"] > 1.5 * (alone.high - alone.low)


def test_measured_photographs_are_worth_fewer_than_their_crops(photographs, tmp_path):
    own, below = measure(tiny(), photographs, labelled=LABELLED, seed=0, cache=tmp_path)
    assert {"linear_top1", "knn_top1"} < own.keys()
    for name, found in (own | below).items():
        assert is_wide(found, 3400), name


def test_comparisons_and_exports_exchange_whole_places(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("jepa.recipes.measuring.MAPPED", 30)
    cells = {
        ("photographs", str(number)): measure_cell(
            tmp_path / str(number), encoder, photographs, ("linear", "knn"), labelled=LABELLED,
            seed=0, cache=tmp_path / "features",
        )
        for number, encoder in enumerate((tiny(), RawPixels()))
    }  # fmt: skip
    one, other = cells.values()
    groups = photographs.images("test").groups.numpy()
    np.testing.assert_array_equal(one.groups, groups)
    for (_, _, probe), test in paired_tests(cells, "0", seed=0).items():
        right, theirs = (cell.predicted[probe] == cell.labels for cell in (other, one))
        found = mcnemar(right, theirs, groups=groups)
        assert (test.difference, test.p_value) == found
        assert found.p_value > mcnemar(right, theirs).p_value
        assert other.metrics[f"{probe}_top1"] == accuracy_interval(right, groups)._asdict()
    costs = cost_of(tiny(), tiny(), photographs, labelled=LABELLED, seed=0)
    assert all(is_wide(cost.full, 3400) for cost in costs.values())


def test_clips_over_one_scene_are_not_independent():
    """Each test clip eight times."""
    random = np.random.default_rng(0)
    labels, groups = np.arange(40) % 2, np.repeat(np.arange(40), 8)
    x = (labels[:, None] + random.normal(size=(40, 4))).astype(np.float32)
    features = {"last": x, TOKENS: x[:, None].astype(np.float16)}
    known = Known(
        train=features,
        test={name: table[groups] for name, table in features.items()},
        labels=(labels, labels[groups]),
        targets={"speed": (x[:, 0].astype(np.float64), x[groups, 0].astype(np.float64) + 0.1)},
        groups=None,
        test_groups=groups,
    )
    probes = ClipProbes(targets=("speed",), learning_rates=(1e-3,), weight_decays=(0.1,), epochs=1)
    found = probed(known, probes, 0, "cpu")
    dropped = probed(replace(known, test_groups=None), probes, 0, "cpu")
    for name, number in found.items():
        narrow = dropped[name]["high"] - dropped[name]["low"]
        assert number["high"] - number["low"] > 1.8 * narrow, name
