"""`jepa features`, `jepa index`, `jepa search`: resumable, shared by processes, found again."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from jepa.checkpoint import load_frozen_encoder, save_encoder
from jepa.datasets.batch_loaders import EvaluationLoader
from jepa.datasets.image_files import ImageFiles, open_files
from jepa.datasets.loaders import EvaluationBatches
from jepa.datasets.tar_shards import TarImages
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.features import extract
from jepa.probes.search_index import SearchIndex, build_index
from jepa.probes.shards import ShardedTable, make_shards
from jepa.recipes.cli import main
from jepa.recipes.serving import place

COUNT, SMALL = 30, ["--batch_size=4", "--shard_rows=8", "--workers=0"]


def picture(seed):
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((24 + seed % 3, 20), Image.Resampling.NEAREST)


def png(seed):
    file = io.BytesIO()
    picture(seed).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 images in two folders, of which 29 can be read, and a text."""
    root = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        place = root / f"part{i % 2}"
        place.mkdir(exist_ok=True)
        (place / f"{i:02d}.png").write_bytes(png(i) if i != 7 else b"no image")
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same images with classes in three shards, as webdataset writes them."""
    root = tmp_path_factory.mktemp("shards")
    for number in range(3):
        with webdataset.TarWriter(str(root / f"clean-{number:03d}.tar")) as writer:
            for i in range(number * 10, number * 10 + 10):
                about = {"seed": i}
                sample = {"__key__": f"x/{i:02d}", "png": png(i), "cls": i % 4, "json": about}
                writer.write(sample)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "channels": 3, "dim": 24, "depth": 1, "heads": 2}
    frozen = FrozenEncoder(VisionTransformer(**sizes), mean=(0.5,) * 3, std=(0.2,) * 3)
    return save_encoder(tmp_path_factory.mktemp("encoder") / "encoder.safetensors", frozen)


def made(encoder, data, out, *more):
    arguments = [f"--encoder={encoder}", f"--data={data}", f"--out={out}"]
    return main(["features", *arguments, *SMALL, "--hardware.accelerator=cpu", *more])


def columns(folder, name="last"):
    return torch.cat(list(ShardedTable(folder).features(name)))


def bytes_of(folder):
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.safetensors"))]


@pytest.fixture(scope="module")
def table(encoder, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables") / "table"
    assert made(encoder, folder, out, "--poolings=[last,last4]") == 0
    return out


def test_the_table_is_what_probes_extract_and_names_its_images(encoder, folder, table):
    images = open_files(str(folder))
    loader = EvaluationLoader(
        EvaluationBatches(images, batch_size=7, image_size=16, channels=3), workers=0
    )
    truth = extract(load_frozen_encoder(encoder), loader, ("last", "last4"))
    for name in ("last", "last4"):
        np.testing.assert_allclose(columns(table, name), truth.features[name], atol=1e-6)
    names = [name for part in ShardedTable(table).names() for name in part]
    assert len(names) == COUNT - 1
    assert not any("07.png" in name for name in names)
    assert names == [images.name(int(row)) for row in truth.rows]
    assert len(bytes_of(table)) == 4


def test_webdataset_shards_are_read_as_webdataset_reads_them(encoder, shards, tmp_path):
    images = open_files(str(shards / "clean-{000..002}.tar"))
    assert isinstance(images, TarImages)
    pattern = str(shards / "clean-{000..002}.tar")
    theirs = (
        webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    )
    for number, (pixels, label) in enumerate(theirs):
        image, ours = images[number]
        assert torch.equal(image, torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        assert ours == label == images.labels[number]
    assert number + 1 == len(images) == COUNT
    assert images.name(11).endswith("clean-001.tar::x/11.png")
    assert made(encoder, shards, tmp_path / "table") == 0
    assert columns(tmp_path / "table").shape == (COUNT, 24)


def test_a_run_goes_on_with_the_shards_that_are_missing(encoder, folder, table, tmp_path):
    out = tmp_path / "table"
    assert made(encoder, folder, out, "--poolings=[last,last4]") == 0
    assert bytes_of(out) == bytes_of(table)
    kept = (out / "shard-000001.safetensors").stat().st_mtime_ns
    (out / "shard-000002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 shards are missing, shard-000002"):
        ShardedTable(out)
    assert main(["index", str(out), f"--out={tmp_path / 'index'}"]) == 1
    assert made(encoder, folder, out, "--poolings=[last,last4]") == 0
    assert bytes_of(out) == bytes_of(table)
    assert (out / "shard-000001.safetensors").stat().st_mtime_ns == kept


def test_processes_under_lightning_share_the_shards(encoder, folder, table, tmp_path):
    """Forked ones here; any strategy starts them, and each makes those whose turn is its own."""
    shared = ["--hardware.devices=2", "--hardware.strategy=ddp_fork", "--poolings=[last,last4]"]
    assert made(encoder, folder, tmp_path / "table", *shared) == 0
    assert bytes_of(tmp_path / "table") == bytes_of(table)


def test_a_table_of_something_else_is_not_added_to(encoder, folder, shards, table, capsys):
    for arguments, message in (
        ((encoder, shards, table, "--poolings=[last,last4]"), "another data"),
        ((encoder, folder, table), "another poolings"),
        ((encoder, folder, table, "--image_size=24"), "another poolings, transform"),
    ):
        assert made(*arguments) == 1
        assert message in capsys.readouterr().err


def test_search_finds_the_image_itself_and_then_what_looks_alike(
    encoder, folder, table, tmp_path, capsys
):
    index = tmp_path / "index"
    assert main(["index", str(table), f"--out={index}"]) == 0
    query = folder / "part1" / "11.png"
    capsys.readouterr()
    assert main(["search", str(query), f"--index={index}", "--k=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = columns(table).double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    names = [name for part in ShardedTable(table).names() for name in part]
    similarity = rows @ rows[names.index(str(query))]
    best = similarity.argsort(descending=True)[:5].tolist()
    assert [line.split("  ")[1] for line in lines] == [names[row] for row in best]
    assert lines[0].startswith("1.0000")
    other = tmp_path / "other.safetensors"
    weights = load_frozen_encoder(encoder)
    weights.encoder.norm.bias.add_(1)
    save_encoder(other, weights)
    assert main(["search", str(query), f"--index={index}", f"--encoder={other}"]) == 1
    assert "is not the encoder of the index" in capsys.readouterr().err


class Rows:
    """An encoder whose features are its images' own numbers."""

    name, layer_names = "rows", ("norm",)

    def layers(self, images, names):
        return {name: images.flatten(1)[:, None].float() for name in names}

    def fingerprint(self):
        return "rows"


class Noise(ImageFiles):
    """Random pixels by number."""

    def __init__(self, count):
        draw = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (count, 3, 2, 2), dtype=torch.uint8, generator=draw)
        self.labels = torch.full((count,), -1)
        self.size = (2, 2)

    def __getitem__(self, index):
        return self.pixels[index], -1

    def name(self, index):
        return f"noise {index}"


@pytest.mark.parametrize(("kind", "least"), [("exact", 1.0), ("ivf", 0.8), ("hnsw", 0.95)])
def test_every_kind_of_index_finds_nearest_neighbours(kind, least, tmp_path):
    batches = EvaluationBatches(Noise(2000), batch_size=100, image_size=2, channels=3)
    loader = EvaluationLoader(batches, workers=0)
    make_shards(Rows(), loader, str, tmp_path / "t", data="d", made_by={}, rows=500)
    table = ShardedTable(tmp_path / "t")
    assert build_index(table, tmp_path / "i", kind=kind, pooling="last") == 2000
    rows = torch.cat(list(table.features("last"))).double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    queries = np.random.default_rng(0).uniform(0, 255, (50, 12))
    truth = np.argsort(-(queries @ unit.T), axis=1)[:, :10]
    scores, found = SearchIndex(tmp_path / "i").search(queries, 10)
    shared = [len({*a.tolist()} & {*b.tolist()}) for a, b in zip(truth, found, strict=True)]
    assert np.mean(shared) / 10 >= least
    assert (np.diff(scores) <= 1e-6).all()


def test_shards_that_cannot_be_read_by_place_are_refused(shards, tmp_path):
    whole = (shards / "clean-000.tar").read_bytes()
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(shards / "clean-000.tar", "x")
    with pytest.raises(ValueError, match="uncompressed"):
        open_files(str(tmp_path))
    (tmp_path / "packed.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"packed\.tar (is cut off|is no tar)"):
        open_files(str(tmp_path))


def test_a_path_is_known_from_everywhere_and_a_name_remains_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert place("run") == str(tmp_path / "run")
    assert place("vit_tiny_patch16_224") == "vit_tiny_patch16_224"


def test_what_is_not_there_is_said(encoder, folder, tmp_path, capsys):
    for data, message in (
        (tmp_path / "nothing", "neither a folder nor a pattern"),
        (tmp_path, "neither images nor .tar shards"),
        (folder / "x-{00..03}.tar", "4 of 4 shards"),
    ):
        assert made(encoder, data, tmp_path / "out") == 1
        assert message in capsys.readouterr().err
    assert main(["index", str(tmp_path), f"--out={tmp_path / 'i'}"]) == 1
    assert "`jepa features --out` makes one" in capsys.readouterr().err
    assert main(["search", os.devnull, f"--index={tmp_path}"]) == 1
    assert "`jepa index --out` makes one" in capsys.readouterr().err
