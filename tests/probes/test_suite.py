"""The suite on data whose answers are known: each number is that of its own probe."""

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from jepa.diagnostics import alignment, lidar, rankme
from jepa.probes.features import FeatureTable, RawPixels
from jepa.probes.intervals import wilson
from jepa.probes.linear import LinearProbe
from jepa.probes.low_shot import few, low_shot
from jepa.probes.retrieval import retrieval
from jepa.probes.suite import Tables, draw, examine, shots_of

CLASSES, SIDE = 4, 4


def images(n, seed, noise=60):
    """uint8 [n, 1, 4, 4]: the class is the brightest row, under noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    pixels = random.integers(0, noise, size=(n, 1, SIDE, SIDE))
    pixels[np.arange(n), 0, labels] += 25
    return torch.from_numpy(pixels.astype(np.uint8)), labels


def table(pixels, labels):
    return FeatureTable({"last": pixels.flatten(1).numpy().astype(np.float32) / 255}, labels, {})


TRAIN, TEST = images(800, 0), images(400, 1)
TABLES = Tables(table(*TRAIN), table(*TEST))


def test_the_classifiers_tell_what_they_said_of_each_image():
    found = examine(RawPixels(), TABLES, ("linear", "knn"))
    json.dumps(found.metrics), json.dumps(found.details)
    for probe in ("linear", "knn"):
        right = int((found.predicted[probe] == TEST[1]).sum())
        assert found.metrics[f"{probe}_top1"] == wilson(right, 400)._asdict()
        assert found.metrics[f"{probe}_top1"] == found.metrics[f"{probe}_top1/last"]
        assert right > 250
    assert found.details["chosen"] == {"linear": "last", "knn": "last"}


def test_the_trained_heads_see_what_the_linear_probe_sees():
    tokens = FeatureTable(
        TABLES.train.features | {"tokens": TRAIN[0][:, 0].numpy() / 255.0}, TRAIN[1], {}
    )
    tested = FeatureTable(
        TABLES.test.features | {"tokens": TEST[0][:, 0].numpy() / 255.0}, TEST[1], {}
    )
    found = examine(RawPixels(), Tables(tokens, tested), ("mlp", "attentive"))
    assert found.predicted.keys() == {"mlp", "attentive"}
    assert found.metrics["mlp_top1"]["value"] > 0.6
    right = int((found.predicted["attentive"] == TEST[1]).sum())
    assert found.metrics["attentive_top1"] == wilson(right, 400)._asdict()


def test_low_shot_and_retrieval_are_those_of_their_own_files():
    found = examine(RawPixels(), TABLES, ("low_shot", "retrieval"), seed=3)
    train, test = (t.features["last"] for t in TABLES[:2])
    records = low_shot(LinearProbe(C=1.0), train, TRAIN[1], test, TEST[1], seed=3)
    names = ("1", "5", "10", "1%", "10%")
    for name, record in zip(names, records, strict=True):
        assert found.metrics[f"low_shot_top1/{name}"] == record.accuracy._asdict()
        assert found.details["low_shot"][name]["labels"] == record.labels
    ranked = retrieval(test, TEST[1], train, TRAIN[1], seed=3)  # fewer images than are drawn
    assert found.metrics["retrieval_map"] == ranked.mean_average_precision._asdict()
    assert found.metrics["retrieval_recall/5"] == ranked.recall[5]._asdict()
    assert found.predicted == {}


def test_clusters_of_separate_classes_agree_with_them():
    blobs = 0.05 * np.random.default_rng(0).normal(size=(400, 8)) + np.eye(8)[TEST[1]]
    apart = FeatureTable({"last": blobs.astype(np.float32)}, TEST[1], {})
    found = examine(RawPixels(), Tables(TABLES.train, apart), ("clustering",)).metrics
    assert found["clustering_nmi"]["value"] > 0.8
    assert found["clustering_ari"]["low"] <= found["clustering_ari"]["value"]


def test_diagnostics_are_those_of_the_features_and_of_the_views():
    pixels = torch.stack([images(40, seed, noise=20 + seed)[0] for seed in (5, 6, 7)], dim=1)
    batches = [(pixels[:30], torch.zeros(30)), (pixels[30:], torch.zeros(10))]
    found = examine(RawPixels(), TABLES, ("diagnostics",), views=batches)
    features = torch.from_numpy(TABLES.test.features["last"])
    assert found.metrics["rankme"]["value"] == pytest.approx(rankme(features).item(), rel=1e-5)
    views = pixels.flatten(2).float() / 255
    assert found.metrics["lidar"]["value"] == pytest.approx(lidar(views).item(), rel=1e-5)
    aligned = alignment(views[:, 0], views[:, 1]).item()
    assert found.metrics["alignment"]["value"] == pytest.approx(aligned, rel=1e-5)
    variances = np.linalg.eigvalsh(np.cov(features.double().numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(found.spectrum, variances, rtol=1e-6)
    assert all(n["low"] < n["value"] < n["high"] for n in found.metrics.values())


def test_corrupted_images_are_scored_by_the_probe_of_the_clean_ones():
    pixels, labels = TEST
    truth = torch.from_numpy(labels)
    corrupted = {
        "none/1": [(pixels[:150], truth[:150]), (pixels[150:], truth[150:])],
        "all/1": [(torch.zeros_like(pixels), truth)],
    }
    found = examine(RawPixels(), TABLES, ("linear", "corruptions"), corrupted=corrupted).metrics
    assert found["corrupted_top1/none/1"] == found["linear_top1"]
    assert found["corrupted_top1/all/1"]["value"] == 0.25
    mean = (found["linear_top1"]["value"] + 0.25) / 2
    assert found["corrupted_top1"]["value"] == pytest.approx(mean)
    alone = examine(RawPixels(), TABLES, ("corruptions",), corrupted=corrupted)
    assert alone.metrics.keys() == {"corrupted_top1", *(f"corrupted_top1/{k}" for k in corrupted)}
    assert alone.metrics["corrupted_top1"] == found["corrupted_top1"]
    assert alone.predicted == {}


class Rows(NamedTuple):
    """A batch of an evaluation loader."""

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor


def test_every_interval_is_of_groups_of_test_images():
    """Each test image three times over, in some order: nothing is known that was not before."""
    of = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 3))
    pixels, labels = TEST[0][:100], TEST[1][:100]
    once, thrice = table(pixels, labels), table(pixels[torch.from_numpy(of)], labels[of])
    thrice = replace(thrice, rows=np.arange(300)[::-1] + 50)  # of its data set
    batch = Rows(
        pixels[torch.from_numpy(of)], torch.from_numpy(labels[of]), torch.arange(349, 49, -1)
    )
    probes = ("linear", "knn", "mlp", "low_shot", "retrieval", "clustering", "diagnostics",
              "corruptions")  # fmt: skip

    def widths(tested, groups, batch):
        found = examine(RawPixels(), Tables(TABLES.train, tested, None, groups), probes,
                        corrupted={"a/1": [batch], "b/1": [batch[:2]]})  # fmt: skip
        return {name: n["high"] - n["low"] for name, n in found.metrics.items()}

    single = widths(once, None, Rows(pixels, torch.from_numpy(labels), torch.arange(100)))
    grouped = widths(thrice, of, batch)
    dropped = widths(thrice, None, batch)
    for name, width in single.items():
        if width == 0:  # all are found
            continue
        assert dropped[name] != grouped[name], name
        if name not in ("rankme", "alpha_req", "uniformity"):  # of ten parts: errors vary
            assert 0.8 < grouped[name] / width < 1.2, name
            luck = name.startswith("low_shot") and not name.endswith("/10%")  # that of the labels
            assert luck or dropped[name] < 0.8 * grouped[name], name


def test_of_few_images_there_are_fewer_neighbours_and_parts():
    few = table(TRAIN[0][:8], TRAIN[1][:8])
    found = examine(RawPixels(), Tables(few, TABLES.test), ("retrieval",)).metrics
    recalls = {name for name in found if name.startswith("retrieval_recall")}
    assert recalls == {"retrieval_recall/1", "retrieval_recall/5"}
    found = examine(RawPixels(), Tables(TABLES.train, few), ("diagnostics",)).metrics
    assert found["rankme"]["low"] < found["rankme"]["value"] < found["rankme"]["high"]


def test_shots_that_a_class_cannot_give_are_left_out():
    labels = np.repeat([0, 1], [20, 7])
    assert shots_of(labels, None) == (1, 5, 0.01, 0.1)
    groups = np.concatenate([np.arange(20), 100 + np.array([0, 0, 1, 1, 2, 2, 2])])
    kept = shots_of(labels, groups)
    assert kept == (1, 0.01, 0.1)
    for shot in kept:
        few(labels, shot, seed=0, groups=groups)


def test_draws_are_of_different_rows_and_of_their_seed():
    assert len(set(draw(50, 20, 0, "a"))) == 20
    assert (draw(50, 20, 0, "a") == draw(50, 20, 0, "a")).all()
    assert (draw(50, 20, 0, "a") != draw(50, 20, 0, "b")).any()
    assert (draw(5, 20, 0, "a") == np.arange(5)).all()


@pytest.mark.parametrize(
    ("probes", "message"),
    [((), "expected probes of linear"), (("corruptions",), "needs corrupted")],
)
def test_mistakes_are_told(probes, message):
    with pytest.raises(ValueError, match=message):
        examine(RawPixels(), TABLES, probes)
