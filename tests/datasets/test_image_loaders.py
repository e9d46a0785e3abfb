"""Order and augmentation are functions of (seed, step, rank); unreadable images are survived."""

import itertools
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torchvision.transforms.v2 import functional as F

from jepa.datasets.batch_loaders import TrainLoader
from jepa.datasets.crops import draw_crops, resized_crops
from jepa.datasets.datamodule import ImageDataModule
from jepa.datasets.folders import folder_images
from jepa.datasets.images import InMemoryImages
from jepa.datasets.loaders import EvaluationBatches, TrainBatches
from jepa.datasets.reading import TooManyUnreadableError, UnreadableTally, scan
from jepa.datasets.samples import order
from jepa.datasets.transforms import apply_seeded, eval_transform, pretrain_transform

N = 23


def in_memory(n=N, channels=1, height=12, width=12):
    pixels = torch.randint(
        0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(0)
    )
    return InMemoryImages(
        pixels.to(torch.uint8), torch.arange(n), classes=[str(i) for i in range(n)], title="made"
    )


@pytest.fixture
def tree(tmp_path):
    """40 images of growing size in train/, of which 3 cannot be read; 4 in test/."""
    rng = np.random.default_rng(0)
    for half, each in (("train", 20), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / half / name).mkdir(parents=True)
            for i in range(each):
                pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / half / name / f"{i:02}.png")
    whole = (tmp_path / "train/cat/00.png").read_bytes()
    (tmp_path / "train/cat/03.png").write_bytes(b"")
    (tmp_path / "train/dog/07.png").write_bytes(b"text")
    (tmp_path / "train/dog/19.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


BAD = ("cat/03.png", "dog/07.png", "dog/19.png")


def batches(images, **options):
    settings = {"batch_size": 5, "image_size": 12, "channels": images.channels, "seed": 3}
    return TrainBatches(images, **(settings | options))


def first(loader, count):
    return list(itertools.islice(iter(loader), count))


def same(left, right):
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and a.unreadable == b.unreadable
        for a, b in zip(left, right, strict=True)
    )


def test_each_pass_shows_each_image_once_in_a_new_order():
    passes = [order(0, epoch * N, N, N) for epoch in range(4)]
    for indices in passes:
        assert sorted(indices.tolist()) == list(range(N))
    assert len({tuple(indices.tolist()) for indices in passes}) == 4
    whole = torch.cat(passes)
    for start, count in ((0, 1), (20, 7), (3, 80), (45, 1)):
        assert torch.equal(order(0, start, count, N), whole[start : start + count])
    assert not torch.equal(order(1, 0, N, N), passes[0])


def test_a_start_at_any_step_gives_the_tail():
    made = batches(in_memory(), crop_scale=(0.3, 1.0), flip=True)
    whole = first(TrainLoader(made), 12)
    for start in (1, 4, 11):
        tail = first(TrainLoader(made, start=lambda start=start: start), 12 - start)
        assert same(tail, whole[start:])


def test_a_new_iteration_asks_for_the_step_again():
    step = [0]
    loader = TrainLoader(batches(in_memory()), start=lambda: step[0])
    whole = first(loader, 6)
    step[0] = 4
    assert same(first(loader, 2), whole[4:])


def test_ranks_share_out_the_global_batch():
    images = in_memory()
    options = {"crop_scale": (0.3, 1.0), "flip": True}
    alone = batches(images, batch_size=15, **options)
    ranks = [batches(images, rank=r, world_size=3, **options) for r in range(3)]
    for step in range(9):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([p.labels for p in parts]), alone[step].labels)
        assert torch.equal(torch.cat([p.images for p in parts]), alone[step].images)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tree, workers):
    made = batches(folder_images(tree, "train"), crop_scale=(0.3, 1.0), flip=True)
    alone = first(TrainLoader(made), 10)
    assert any(batch.unreadable for batch in alone)
    assert same(first(TrainLoader(made, workers=workers), 10), alone)
    assert same(first(TrainLoader(made, workers=workers, start=lambda: 6), 4), alone[6:])


def test_batches_can_be_sent_to_spawned_workers():
    made = batches(in_memory(), crop_scale=(0.3, 1.0))
    assert same([pickle.loads(pickle.dumps(made))[3]], [made[3]])


def test_global_randomness_is_neither_used_nor_moved(tree):
    made = batches(folder_images(tree, "train"), crop_scale=(0.3, 1.0), flip=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = first(TrainLoader(made), 2)
    first(TrainLoader(made, workers=1), 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert same(first(TrainLoader(made), 2), one)


def test_unreadable_images_are_replaced_counted_and_named(tree, caplog):
    images = folder_images(tree, "train")
    loader = TrainLoader(batches(images), workers=2)
    with caplog.at_level(logging.WARNING):
        got = first(loader, 16)  # two passes
    assert sorted(m.split("train/")[1].split(":")[0] for m in loader.unreadable.found) == list(BAD)
    assert len(caplog.records) == 3
    wanted = order(3, 0, 80, 40).tolist()
    bad = [i for i in range(40) if images.name(i).endswith(BAD)]
    shown = [next(j % 40 for j in range(i, i + 9) if j % 40 not in bad) for i in wanted]
    expected = [int(images.labels[i]) for i in shown]
    assert torch.cat([batch.labels for batch in got]).tolist() == expected
    transform = eval_transform(12, given=None, channels=(3, 3))
    for image, i in zip(torch.cat([batch.images for batch in got]), shown, strict=True):
        assert torch.equal(image, transform(images[i][0]))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_unreadable_rows_out(tree, workers):
    data = ImageDataModule(
        source=f"folder:{tree}", image_size=12, workers=workers, max_unreadable=0.1
    )
    loader = data.evaluation_loader("train", batch_size=8)
    got = list(loader)
    assert len(got) == len(loader) == 5
    assert sum(len(batch.labels) for batch in got) == 37
    assert torch.cat([batch.labels for batch in got]).tolist() == [0] * 19 + [1] * 18
    assert len(loader.unreadable.found) == 3


def test_a_batch_without_a_readable_row_is_empty(tree):
    made = EvaluationBatches(folder_images(tree, "train"), batch_size=1, image_size=12, channels=3)
    assert tuple(made[3].images.shape) == (0, 3, 12, 12)


def test_too_many_unreadable_are_refused_before_and_while_training(tree):
    images = folder_images(tree, "train")
    assert len(scan(images, 0.1)) == 3
    with pytest.raises(TooManyUnreadableError, match=r"3 of 40 images.*accepted 5%(.|\n)*03\.png"):
        scan(images, 0.05)
    with pytest.raises(TooManyUnreadableError):
        ImageDataModule(source=f"folder:{tree}", image_size=12, max_unreadable=0.05).setup("fit")
    with pytest.raises(TooManyUnreadableError):
        first(TrainLoader(batches(images), max_unreadable=0.05), 8)
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        UnreadableTally(10, 1.0)
    for path in (tree / "train").glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(TooManyUnreadableError, match="none of the 40"):
        batches(images)[0]


def test_crops_equal_torchvisions_resized_crop():
    images = in_memory(channels=3, height=14, width=20)
    for size in (8, 12, 33):
        boxes = draw_crops(range(N), (14, 20), (0.1, 1.0))
        got = resized_crops(images.images, boxes, size)
        for image, box, out in zip(images.images, boxes, got, strict=True):
            expected = F.resized_crop(image.float(), *box.tolist(), [size, size], antialias=True)
            assert (out - expected).abs().max() <= 0.501


def test_crops_have_the_stated_area_and_aspect_and_fit():
    size, scale = (96, 64), (0.3, 0.6)
    boxes = draw_crops(range(4000), size, scale)
    top, left, height, width = boxes.double().unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]
    area = height * width / (96 * 64)
    assert 0.29 < area.min() < 0.32
    assert area.max() < 0.62
    assert 0.74 < (width / height).min() < 0.78
    assert (width / height).max() < 1.35
    # torchvision's own draws, for the same image: the same mean area and position.
    reference = [pretrain_transform_box(scale, size) for _ in range(4000)]
    theirs = torch.tensor(reference, dtype=torch.float64)
    for ours, other in zip((top, left, height, width), theirs.unbind(1), strict=True):
        error = (ours.var() / 4000 + other.var() / 4000).sqrt()
        assert abs(ours.mean() - other.mean()) < 4.5 * error


def pretrain_transform_box(scale, size):
    crop = pretrain_transform(8, given=size, channels=(1, 1), crop_scale=scale)[0]
    drawn = crop.make_params([torch.empty(1, *size, dtype=torch.uint8)])
    return [drawn[key] for key in ("top", "left", "height", "width")]


def test_without_augmentation_training_and_evaluation_see_the_same():
    images = in_memory(channels=3, height=14, width=20)
    made = batches(images, image_size=9, channels=1)
    plain = EvaluationBatches(images, batch_size=N, image_size=9, channels=1)[0].images
    for step in range(4):
        batch = made[step]
        assert torch.equal(batch.images, plain[batch.labels])
    untouched = batches(in_memory())[0]
    assert torch.equal(untouched.images, in_memory().images[untouched.labels])


def test_flips_without_crops_are_mirror_images():
    images = in_memory()
    batch = batches(images, flip=True, batch_size=N)[0]
    original = images.images[batch.labels]
    mirrored = (batch.images == original.flip(-1)).flatten(1).all(1)
    kept = (batch.images == original).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert mirrored.any()
    assert kept.any()


def test_seeded_transforms_repeat():
    transform = pretrain_transform(8, given=None, channels=(1, 3), flip=True)
    images = in_memory().images[:6]
    once = apply_seeded(transform, images, range(6))
    assert torch.equal(
        torch.stack(once[2:4]), torch.stack(apply_seeded(transform, images[2:4], (2, 3)))
    )
    assert tuple(once[0].shape) == (3, 8, 8)


def test_evaluation_of_chosen_rows():
    made = EvaluationBatches(
        in_memory(), batch_size=4, image_size=12, channels=3, rows=torch.tensor([3, 0, 7, 7, 1, 19])
    )
    labels = [label for k in range(len(made)) for label in made[k].labels.tolist()]
    assert labels == [3, 0, 7, 7, 1, 19]
    assert made[0].images.shape[1] == 3


def test_bad_settings_say_what_was_given(tree):
    with pytest.raises(ValueError, match="rank 2 of 2"):
        batches(in_memory(), rank=2, world_size=2)
    with pytest.raises(ValueError, match="0 < low <= high <= 1; got"):
        batches(in_memory(), crop_scale=(0.5, 0.3))
    with pytest.raises(ValueError, match="grey"):
        batches(in_memory(), channels=4)
    with pytest.raises(ValueError, match="give image_size"):
        ImageDataModule(source=f"folder:{tree}").train_loader()


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = True
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        assert batch.images.dtype == torch.uint8
        self.seen += batch.labels.tolist()
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(**options):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_trainer_goes_on_with_the_same_batches(tree, tmp_path):
    def run(steps, checkpoint=None):
        module = Recorder()
        data = ImageDataModule(source=f"folder:{tree}", image_size=12, batch_size=6, workers=0)
        trainer = quiet_trainer(max_steps=steps, accumulate_grad_batches=2)
        trainer.fit(module, data, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.seen

    whole, head = run(9), run(4)
    tail = run(9, tmp_path / "4.ckpt")
    assert head + tail == whole
    assert len(whole) == 9 * 2 * 6
