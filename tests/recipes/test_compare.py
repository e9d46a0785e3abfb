"""Several encoders on several sets: measured once, tested in pairs, shown on one page."""

import csv
import json
import re
import struct

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from jepa.checkpoint import save_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.recipes import compare as compare_module
from jepa.recipes.cli import main
from jepa.recipes.measuring import read_cell

NAMES = ("one", "random_encoder")
PROBES = "[linear, knn, low_shot, diagnostics, corruptions]"


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def images(folder, seed):
    """120 training and 60 test images, 8 x 8; the class is a bright stripe, under noise."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    for prefix, n in (("train", 120), ("t10k", 60)):
        labels = np.arange(n) % 3
        pixels = random.integers(0, 150, (n, 8, 8))
        pixels[np.arange(n), 2 * labels] += 60
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two encoders and two sets of images."""
    folder = tmp_path_factory.mktemp("parts")
    for i, name in enumerate(("one", "other")):
        torch.manual_seed(i)
        sizes = {"image_size": 8, "patch_size": 4, "channels": 1, "dim": 12, "depth": 2, "heads": 2}
        frozen = FrozenEncoder(VisionTransformer(**sizes), mean=(0.5,), std=(0.25,), name=name)
        save_encoder(folder / name / "encoder.safetensors", frozen)
        images(folder / f"set{i}", i)
    return folder


def arguments(parts, out, encoders, sets=("set0", "set1"), *more):
    named = ", ".join(f"{n}: {parts / n if n in ('one', 'other') else n}" for n in encoders)
    data = ", ".join(f"{s}: {{source: 'idx:{parts / s}'}}" for s in sets)
    return ["compare", f"--out={out}", f"--encoders={{{named}}}", f"--data={{{data}}}",
            f"--probes={PROBES}", *more]  # fmt: skip


@pytest.fixture(scope="module")
def compared(parts):
    out = parts / "comparison"
    assert main(arguments(parts, out, NAMES)) == 0
    return out


def test_every_number_stands_in_the_table_with_its_interval(compared):
    rows = list(csv.DictReader((compared / "comparison.csv").open()))
    names = {(row["images"], row["encoder"]) for row in rows}
    assert len(names) == 4
    result = json.loads((compared / "result.json").read_text())
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        key = f"{row['images']}/{row['encoder']}/{row['metric']}"
        if key in result["metrics"]:
            assert result["metrics"][key]["value"] == pytest.approx(float(row["value"]), rel=1e-5)
    assert "set1/random_encoder/linear_top1" in result["metrics"]
    assert sum(row["metric"].startswith("corrupted_top1/") for row in rows) == 4 * 30


def test_paired_tests_are_mcnemars_of_what_was_said_of_each_image(compared):
    for row in csv.DictReader((compared / "comparison.csv").open()):
        probe = row["metric"].removesuffix("_top1")
        if row["encoder"] == "one" or probe not in ("linear", "knn"):
            assert row["p"] == ""
            continue
        cells = [read_cell(compared / "cells" / row["images"] / n) for n in (row["encoder"], "one")]
        right, base = ((cell.predicted[probe] == cell.labels) for cell in cells)
        gap = right.mean() - base.mean()
        assert float(row["difference"]) == pytest.approx(gap, rel=1e-5, abs=1e-9)
        apart = int((right != base).sum())
        truth = binomtest(int((right & ~base).sum()), apart).pvalue if apart else 1.0
        assert float(row["p"]) == pytest.approx(truth, rel=1e-4)
        assert float(row["p_holm"]) >= float(row["p"]) * 0.9999


def test_the_page_needs_no_other_file_and_shows_every_part(compared):
    page = (compared / "comparison.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "url(http" not in page
    for part in ("Few labels", "Corrupted", "Without labels", "Maps", "Nearest", "Features of"):
        assert part in page, part
    assert page.count('class="map"') == 4
    assert page.count('class="confusion"') == 4
    assert "#000005" not in page  # every placeholder colour has become one of the page
    table = (compared / "comparison.md").read_text()
    assert table.count("| one |") == 2


def test_what_is_measured_is_not_measured_again_and_more_is_added(parts, compared, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a finished cell was measured again")

    numbers = (compared / "comparison.csv").read_text()
    cells = sorted((compared / "cells").rglob("examined.json"))
    before = [path.stat().st_mtime_ns for path in cells]
    with monkeypatch.context() as patched:
        patched.setattr("jepa.recipes.measuring.tables_of", never)
        assert main(arguments(parts, compared, NAMES)) == 0
    assert (compared / "comparison.csv").read_text() == numbers
    again = arguments(parts, compared, ("one",), ("set0",))
    again = [a.replace("corruptions]", "corruptions, retrieval]") for a in again]
    assert main(again) == 0
    with (compared / "comparison.csv").open() as file:
        metrics = {row["metric"] for row in csv.DictReader(file) if row["encoder"] == "one"}
    assert {"retrieval_map", "linear_top1", "rankme", "corrupted_top1"} <= metrics
    changed = [p for p, t in zip(cells, before, strict=True) if p.stat().st_mtime_ns != t]
    assert {path.parent.name for path in changed} == {"one"}
    grown = read_cell(compared / "cells/set0/one")
    assert grown.predicted.keys() == {"linear", "knn"}
    assert grown.details["chosen"].keys() == {"linear", "knn"}
    assert len(grown.spectrum) == 12


def test_probe_folders_are_shown_side_by_side_with_their_baselines(parts, tmp_path):
    probed = []
    for name in ("one", "other"):
        probed.append(tmp_path / name)
        done = main(
            ["probe", f"--encoder={parts / name}", f"--out={probed[-1]}", "--probes=[linear, knn]",
             f"--data.source=idx:{parts / 'set0'}"]
        )  # fmt: skip
        assert done == 0
        result = json.loads((probed[-1] / "result.json").read_text())
        assert result["metrics"].keys() >= {"linear_top1", "knn_top1", "linear_top1/last4"}
        with np.load(probed[-1] / "predictions.npz") as stored:
            right = (stored["linear"] == stored["labels"]).mean()
        assert result["metrics"]["linear_top1"]["value"] == pytest.approx(right)
        assert "random_encoder/knn_top1" in result["baselines"]
    out = tmp_path / "both"
    folders = ", ".join(map(str, probed))
    assert main(["compare", f"--out={out}", f"--probed=[{folders}]", "--reference=other"]) == 0
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert {r["encoder"] for r in rows} == {"one", "other", "raw_pixels", "random_encoder"}
    assert {r["encoder"] for r in rows if r["p"]} == {"one", "raw_pixels", "random_encoder"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give encoders and images"),
        (["--encoders=[raw_pixels]"], "give encoders and images"),
        (["--encoders=[raw_pixels, random_encoder]", "--data=[photographs]"], "fresh weights"),
        (["--encoders=[a/x, b/x]", "--data=[photographs]"], "several encoders are called"),
        (["--probed=[nowhere]"], "jepa probe"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(tmp_path, capsys, options, message):
    assert main(["compare", f"--out={tmp_path / 'x'}", *options]) == 1
    assert message in capsys.readouterr().err


def test_a_run_of_another_kind_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("data: {source: photographs}\nsteps: 3\n")
    (tmp_path / "last.ckpt").touch()
    assert main(["compare", f"--out={tmp_path}", "--probed=[nowhere]"]) == 1
    assert "another kind of run" in capsys.readouterr().err
    assert "steps" in (tmp_path / "config.yaml").read_text()


def test_names_of_sources():
    names = [compare_module.name_of(s) for s in ("fashion-mnist", "folder:data/pets/", "idx:a")]
    assert names == ["fashion_mnist", "pets", "a"]
