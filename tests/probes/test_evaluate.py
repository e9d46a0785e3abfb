"""The whole measurement on data whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import torch

from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.evaluate import evaluate_frozen, evaluate_tables, fit_and_score
from jepa.probes.features import FeatureTable, RawPixels, extract, random_encoder
from jepa.probes.intervals import accuracy_interval, wilson


def bars(n, seed):
    """Images with a bright column; the label is which."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    images = random.integers(0, 120, size=(n, 1, 8, 8), dtype=np.uint8)
    images[np.arange(n), 0, :, labels] += 60
    return [(torch.from_numpy(images), torch.from_numpy(labels))]


def test_every_encoder_is_measured_by_the_same_call(tmp_path):
    vit = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=16, depth=2, heads=2)
    encoder = FrozenEncoder(vit)
    for each in (encoder, random_encoder(encoder), RawPixels()):
        result = evaluate_frozen(
            each, bars(400, 0), bars(200, 1), cache=tmp_path, data=("train", "test")
        )
        json.dumps(result)
        for probe in ("linear", "knn"):
            chosen = result["chosen"][probe]
            headline = result["metrics"][f"{probe}_top1"]
            assert headline == result["metrics"][f"{probe}_top1/{chosen}"]
            right = round(headline["value"] * 200)
            assert headline == wilson(right, 200)._asdict()
    assert result["metrics"]["linear_top1"]["value"] > 0.95
    assert result["images"] == {"train": 400, "test": 200}


def test_intervals_are_of_the_groups_of_test_images():
    test, groups = bars(200, 1), np.arange(200) % 4 + 10 * (np.arange(200) // 40)
    wide = evaluate_frozen(RawPixels(), bars(40, 0), test, test_groups=groups)["metrics"]
    narrow = evaluate_frozen(RawPixels(), bars(40, 0), test)["metrics"]
    tables = [extract(RawPixels(), batches, ("last",)) for batches in (bars(40, 0), test)]
    said = fit_and_score(*tables, test_groups=groups).predicted
    for probe in ("knn", "linear"):
        right = said[probe] == tables[1].labels
        name = f"{probe}_top1"
        assert wide[name] == accuracy_interval(right, groups)._asdict() != narrow[name]
        assert narrow[name] == wilson(int(right.sum()), 200)._asdict()


def test_the_pooling_is_chosen_without_the_test_set():
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    good = (np.eye(3)[labels] + 0.3 * random.normal(size=(300, 3))).astype(np.float32)
    noise = random.normal(size=(300, 3)).astype(np.float32)
    train = FeatureTable({"last": good, "last4": noise}, labels, {})
    test = FeatureTable({"last": noise, "last4": good}, labels, {})
    result = evaluate_tables(train, test)
    assert result["chosen"] == {"linear": "last", "knn": "last"}
    assert result["metrics"]["linear_top1"]["value"] < 0.6
    assert result["held_out"]["linear/last"] > 0.9
