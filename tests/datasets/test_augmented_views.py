"""Views are functions of (seed, step, rank), and each distortion does what its name says."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from jepa.datasets.augmented_views import (
    GREY,
    ViewBatches,
    Views,
    distorted,
    distortions,
    gaussian_blur,
    luminance,
    recoloured,
)
from jepa.datasets.batch_loaders import TrainLoader
from jepa.datasets.datamodule import ImageDataModule, MadeImages
from jepa.datasets.images import InMemoryImages

N = 23
STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
NOTHING = Views(**STILL, greyed=0.0, blurred=0.0)


def pixels(*shape, seed=0):
    drawn = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.uint8)


def module(channels=1, **options):
    images = pixels(N, channels, 12, 12)
    made = InMemoryImages(
        images, torch.arange(N), classes=list("abcdefghijklmnopqrstuvw"), title=""
    )
    settings = {"batch_size": 6, "views": Views(), "flip": True, "crop_scale": (0.3, 1.0)}
    return MadeImages({"train": made, "test": made}, **settings | options)


def first(loader, count):
    return list(itertools.islice(iter(loader), count))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_start_at_any_step_gives_the_tail(channels):
    data = module(channels)
    whole = first(data.train_loader(), 6)
    tail = first(data.train_loader(start=lambda: 4), 2)
    for one, two in zip(whole[4:], tail, strict=True):
        assert torch.equal(one.views, two.views)
        assert torch.equal(one.labels, two.labels)
    assert tuple(whole[0].views.shape) == (6, 2, channels, 12, 12)
    assert whole[0].views.dtype == torch.uint8
    assert not torch.equal(whole[0].views[:, 0], whole[0].views[:, 1])


def test_ranks_share_out_the_global_batch():
    whole = module(batch_size=6).train_loader().batches
    halves = [module(batch_size=3).train_loader(rank=rank, world_size=2).batches for rank in (0, 1)]
    for step in (0, 5):
        together = torch.cat([half[step].views for half in halves])
        assert torch.equal(together, whole[step].views)


def test_without_changes_all_views_are_the_image():
    batch = module(views=NOTHING, flip=False, crop_scale=None).train_loader().batches[2]
    for view in batch.views.unbind(1):
        assert torch.equal(view, pixels(N, 1, 12, 12)[batch.labels])


def test_files_are_read_once_and_named_when_unreadable(tmp_path):
    rng = np.random.default_rng(0)
    for half, i in itertools.product(("train", "test"), range(8)):
        folder = tmp_path / half / "cat"
        folder.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    (tmp_path / "train/cat/3.png").write_bytes(b"")
    data = ImageDataModule(
        source=f"folder:{tmp_path}",
        image_size=12,
        batch_size=8,
        workers=0,
        max_unreadable=0.2,
        views=Views(count=3),
    )
    loader = data.train_loader()
    assert isinstance(loader, TrainLoader)
    batch = first(loader, 1)[0]
    assert tuple(batch.views.shape) == (8, 3, 3, 12, 12)
    assert len(batch.unreadable) == 1
    assert torch.equal(batch.views, loader.batches[0].views)


def changed(images, **options):
    views = Views(**STILL | {"jittered": 1.0, "greyed": 0.0, "blurred": 0.0} | options)
    return distorted(images, distortions(range(len(images))), views)


def test_brightness_is_a_factor_uniform_around_one():
    flat = torch.full((2000, 1, 2, 2), 100, dtype=torch.uint8)
    level = changed(flat, brightness=0.4)[:, 0, 0, 0].double()
    assert level.min() >= 60
    assert level.max() <= 140
    assert abs(level.mean() - 100) < 4 * (80 / math.sqrt(12)) / math.sqrt(2000)
    assert abs(level.std() - 80 / math.sqrt(12)) < 1
    half = changed(flat, brightness=0.4, jittered=0.5)[:, 0, 0, 0]
    assert 900 < (half == 100).sum() < 1120


def test_contrast_moves_pixels_from_their_mean():
    two = torch.tensor([80, 120], dtype=torch.uint8).expand(500, 1, 1, 2)
    out = changed(two, contrast=0.5).double()
    assert (out.mean(dim=-1) - 100).abs().max() <= 0.5
    apart = (out[..., 1] - out[..., 0]).flatten()
    assert 20 <= apart.min() < 22
    assert 58 < apart.max() <= 60


def test_saturation_is_torchvisions():
    images = pixels(5, 3, 6, 6)
    factors = torch.tensor([0.0, 0.3, 1.0, 1.2, 1.7])
    out = recoloured(images.float(), factors, torch.zeros(5)).clamp(0, 255)
    for image, factor, found in zip(images, factors.tolist(), out, strict=True):
        expected = F.adjust_saturation(image.float() / 255, factor) * 255
        assert (found - expected).abs().max() < 0.1


def test_a_third_of_a_turn_makes_red_green():
    images, one = pixels(4, 3, 5, 5).float(), torch.ones(4)
    turned = recoloured(images, one, torch.full((4,), 1 / 3))
    torch.testing.assert_close(turned, images[:, [2, 0, 1]], rtol=0, atol=1e-3)
    torch.testing.assert_close(recoloured(images, one, 0 * one), images, rtol=0, atol=1e-3)
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(recoloured(grey, one, 0.1 * one), grey, rtol=0, atol=1e-3)


def test_greyed_views_have_no_colour():
    images = pixels(50, 3, 4, 4)
    out = changed(images, greyed=1.0, saturation=0.5)
    assert (out == out[:, :1]).all()
    assert (out[:, :1].float() - luminance(images.float())).abs().max() <= 0.51
    assert sum(GREY) == pytest.approx(1)


def test_blur_is_a_normalised_gaussian():
    spike = torch.zeros(2, 1, 15, 15)
    spike[:, 0, 7, 7] = 1.0
    out = gaussian_blur(spike, torch.tensor([0.5, 1.2]))
    for image, sigma in zip(out[:, 0].double().numpy(), (0.5, 1.2), strict=True):
        row = np.exp(-((np.arange(15) - 7.0) ** 2) / (2 * sigma**2))
        row /= row.sum()
        np.testing.assert_allclose(image[5:10, 5:10], np.outer(row, row)[5:10, 5:10], rtol=1e-3)
    flat = torch.full((2, 3, 9, 7), 77.0)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([0.1, 3.0])), flat)
    images = pixels(300, 1, 6, 6)
    same = (changed(images, blurred=0.5, sigma=(1.0, 2.0)) == images).flatten(1).all(1).sum()
    assert 115 < same < 185


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"count": 1}, "two views"),
        ({"hue": 1.5}, r"\[0, 1\]"),
        ({"greyed": -0.1}, r"\[0, 1\]"),
        ({"sigma": (2.0, 1.0)}, "low <= high"),
    ],
)
def test_nonsense_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Views(**bad)


def test_what_is_left_to_the_device_is_what_was_left_out():
    batches = module(channels=3).train_loader().batches
    later = ViewBatches(batches.batches, batches.views, later=True)[3]
    plain = module(channels=3, views=NOTHING).train_loader().batches[3]
    assert torch.equal(later.views, plain.views)
    done = later.done(batches.views)
    assert done.undone is None
    assert torch.equal(done.views, batches[3].views)
    assert not torch.equal(done.views, later.views)


def test_blur_leaves_no_numbers_that_processors_are_slow_at():
    spike = torch.zeros(20, 1, 40, 40)
    spike[..., 20, 20] = 255
    out = gaussian_blur(spike, torch.linspace(0.1, 2.0, 20))
    assert ((out == 0) | (out > 1e-30)).all()
    torch.testing.assert_close(out.sum(dim=(1, 2, 3)), torch.full((20,), 255.0))
