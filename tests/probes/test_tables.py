"""Tables made by several processes, and by processes that were killed: always the same table."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.features import extract
from tests.forked import Forked

POOLINGS = ("last", "blocks.0", "tokens")


def tiny():
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=2, heads=2)
    return FrozenEncoder(vit, mean=(0.3,), std=(0.2,))


class Batches:
    """29 images in batches by number; remembers which were asked for."""

    described = {"image_size": 8}  # noqa: RUF012

    def __init__(self, batch_size=4):
        self.batch_size, self.asked = batch_size, []
        draw = seeds.generator(0, "images")
        images = torch.randint(0, 256, (29, 1, 8, 8), dtype=torch.uint8, generator=draw)
        self.made = list(
            zip(images.split(batch_size), (torch.arange(29) % 5).split(batch_size), strict=True)
        )

    def __len__(self):
        return len(self.made)

    def __iter__(self):
        return iter(self.made)

    def only(self, numbers):
        for number in numbers:
            self.asked.append(number)
            yield self.made[number]


def table(loader, folder=None):
    return extract(tiny(), loader, POOLINGS, cache=folder, data="d")


def same(one, other):
    for name in POOLINGS:
        np.testing.assert_array_equal(one.features[name], other.features[name])
    np.testing.assert_array_equal(one.labels, other.labels)


def together(rank, out):
    numbered = Batches()
    found = [table(numbered, out / "numbered"), table(Batches().made, out / "plain")]
    assert numbered.asked == list(range(rank, 8, 2)), numbered.asked
    again = Batches()
    table(again, out / "numbered")
    assert again.asked == []
    for one in found:
        same(one, table(Batches()))


def test_two_processes_share_the_work_and_give_the_table_of_one(on_two_ranks, tmp_path):
    on_two_ranks(together)
    for kind in ("numbered", "plain"):
        (folder,) = (tmp_path / kind).iterdir()  # no parts are left
        rows = np.load(folder / "last.npy", mmap_mode="r")
        np.testing.assert_array_equal(rows, table(Batches()).features["last"])


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Batches):
    def only(self, numbers):
        for number in numbers:
            if number == 3:
                kill()
            yield self.made[number]


def computing(folder):
    table(Deadly(), folder)


def putting_together(folder):
    os.rename = kill
    table(Batches(), folder)


@pytest.mark.parametrize(
    ("moment", "left"), [(computing, range(3, 8)), (putting_together, range(0))]
)
def test_after_a_kill_what_was_computed_is_taken_up(tmp_path, moment, left):
    folder = tmp_path / "tables"
    Forked(tmp_path / "printed", moment, folder).ended(-signal.SIGKILL)
    assert not list(folder.glob("*/manifest.json"))  # nothing that looks like a table
    (parts,) = folder.iterdir()
    (parts / ".00000004.npz.1.part").write_bytes(b"cut off")
    batches = Batches()
    same(table(batches, folder), table(Batches()))
    assert batches.asked == list(left)
    assert len(list(folder.iterdir())) == 1


def test_other_batches_are_other_parts(tmp_path):
    class Broken(Batches):
        def only(self, numbers):
            yield from list(super().only(numbers))[:2]
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        table(Broken(), tmp_path)
    batches = Batches(batch_size=6)
    same(table(batches, tmp_path), table(Batches()))
    assert batches.asked == list(range(5))
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_and_missing_parts_are_named(tmp_path):
    class Hasty(Batches):
        def only(self, numbers):
            return list(super().only(numbers))[:-1]

    with pytest.raises(OSError, match=r"1 of 8 parts are missing, .*00000007"):
        table(Hasty(), tmp_path)
    (part,) = tmp_path.glob(".parts-*/00000002.npz")
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(OSError, match=r"00000002\.npz was damaged"):
        table(Batches(), tmp_path)
    batches = Batches()
    same(table(batches, tmp_path), table(Batches()))
    assert batches.asked == [2]


def test_the_transform_is_part_of_the_key(tmp_path):
    # here, because the processes above import this module and should be quick
    from jepa.datasets.batch_loaders import EvaluationLoader
    from jepa.datasets.images import InMemoryImages
    from jepa.datasets.loaders import EvaluationBatches

    pixels = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    images = InMemoryImages(pixels, torch.arange(6), classes=list("abcdef"), title="made")

    def loader(size=16, rows=None):
        batches = EvaluationBatches(images, batch_size=4, image_size=size, channels=1, rows=rows)
        return EvaluationLoader(batches)

    loaders = [loader(), loader(8), loader(rows=torch.tensor([0, 1, 2]))]
    tables = [table(each, tmp_path) for each in loaders]
    assert [len(one.labels) for one in tables] == [6, 6, 3]
    assert len(list(tmp_path.iterdir())) == 3
    for each, one in zip(loaders, tables, strict=True):
        same(one, table(list(each)))
    manifest = tables[1].manifest
    assert manifest["transform"]["image_size"] == 8
    assert manifest["poolings"] == {"last": ["norm"], "blocks.0": ["blocks.0"], "tokens": ["norm"]}
