"""Corruptions against scipy, Pillow and numpy; and the same whatever the batch is cut into."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from jepa.datasets.corruptions import BLUR, HIDDEN, KINDS, NOISE, QUALITY, Corruption, corrupted
from jepa.datasets.datamodule import ImageDataModule

SHAPES = [(1, 28, 28), (3, 28, 41)]


def some(shape, count=6, seed=0):
    """Smooth images with structure: sums of random waves."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[: shape[1], : shape[2]]
    waves = [
        np.sin(
            random.uniform(0, 0.5) * down + random.uniform(0, 0.5) * across + random.uniform(0, 7)
        )
        for _ in range(count * shape[0])
    ]
    levels = 127.5 + 90 * np.stack(waves).reshape(count, *shape)
    return torch.from_numpy(levels.round().astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_severity_is_further_from_the_image_and_a_function_of_the_row_alone(kind, shape):
    images, rows = some(shape), [5, 0, 17, 3, 4, 9]
    before = images.clone()
    state = torch.get_rng_state()
    errors = []
    for severity in range(1, 6):
        corruption = Corruption(kind, severity)
        whole = corruption(images, rows)
        assert whole.dtype == torch.uint8
        assert whole.shape == images.shape
        pairs = zip(images, rows, strict=True)
        parts = [corruption(image[None], [row]) for image, row in pairs]
        assert torch.equal(torch.cat(parts), whole)
        errors.append((whole.float() - images.float()).square().mean().item())
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_strength_that_is_said_and_differs_between_rows_and_seeds(severity):
    grey = torch.full((2, 1, 64, 64), 128, dtype=torch.uint8)
    once = Corruption("gaussian_noise", severity)(grey, [0, 1])
    sigma = 255 * NOISE[severity - 1]
    drawn = np.random.default_rng(0).normal(128, sigma, 200_000).round().clip(0, 255)
    assert once.float().std().item() == pytest.approx(drawn.std(), rel=0.03)
    assert (once[0] != once[1]).float().mean() > 0.9
    again = Corruption("gaussian_noise", severity, seed=1)(grey, [0, 1])
    assert (again != once).float().mean() > 0.9


def test_blur_is_a_gaussian_of_a_share_of_the_shorter_side():
    image = some((3, 20, 33), count=1)
    sigma = BLUR[4] * 20
    expected = image[0].numpy().astype(float)
    for axis, size in ((1, 20), (2, 33)):
        places = np.arange(-size, size + 1)
        weights = np.exp(-(places**2) / (2 * sigma**2))
        seen = correlate1d(np.ones(size), weights, mode="constant")
        shape = [1, 1, 1]
        shape[axis] = size
        expected = correlate1d(expected, weights, axis=axis, mode="constant") / seen.reshape(shape)
    found = Corruption("gaussian_blur", 5)(image, [0])[0].numpy()
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_jpeg_quantises_the_mean_of_a_block_by_the_standards_table(severity):
    levels = torch.arange(0, 256, 5, dtype=torch.uint8)
    flat = levels[:, None, None, None].expand(-1, 1, 16, 24).clone()
    step = (16 * (5000 // QUALITY[severity - 1]) + 50) // 100  # the first entry is 16
    found = Corruption("jpeg", severity)(flat, range(len(flat)))
    assert (found == found[:, :, :1, :1]).all()
    mean = found[:, 0, 0, 0].numpy().astype(float)
    allowed = 128 + np.arange(-200, 200) * step / 8
    inside = (mean > 0) & (mean < 255)
    assert np.abs(mean[inside, None] - allowed).min(axis=1).max() <= 0.5
    assert np.abs(mean - levels.numpy()).max() <= step / 16 + 0.5


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_occlusion_is_a_whole_square_of_the_share_that_is_said_anywhere_in_the_image(severity):
    images = torch.zeros(300, 1, 28, 40, dtype=torch.uint8)
    hidden = Corruption("occlusion", severity)(images, range(300))[:, 0].numpy() == 128
    side = round((HIDDEN[severity - 1] * 28 * 40) ** 0.5)
    assert (hidden.sum(axis=(1, 2)) == side**2).all()
    assert (hidden.any(axis=2).sum(axis=1) == side).all()
    corners = [hidden[:, 0, :].any(axis=1), hidden[:, -1].any(axis=1), hidden[..., -1].any(axis=1)]
    assert all(0 < corner.sum() < 300 for corner in corners)


def test_contrast_and_brightness_are_the_formulae():
    image = some((3, 20, 33), count=1)
    levels = image.numpy().astype(float)
    mean = levels.mean(axis=(2, 3), keepdims=True)
    dim = Corruption("contrast", 2)(image, [0]).numpy()
    assert np.abs(dim - (mean + 0.3 * (levels - mean))).max() <= 0.51
    bright = Corruption("brightness", 4)(image, [0]).numpy()
    assert np.abs(bright - (levels + 102).clip(0, 255)).max() <= 0.51


def test_the_images_of_a_loader_keep_their_corruption_when_only_some_are_asked_for():
    data = ImageDataModule(source="photographs", image_size=28)
    noise = Corruption("gaussian_noise", 3)
    rows = torch.tensor([7, 300, 2])
    (few,) = corrupted(data.evaluation_loader("test", rows=rows), noise)
    batches = corrupted(data.evaluation_loader("test", batch_size=500), noise)
    assert torch.equal(few.images, next(batches).images[rows])
    assert torch.equal(few.labels, data.images("test").labels[rows])
    with pytest.raises(ValueError, match="for evaluation"):
        next(corrupted(data.train_loader(), noise))


@pytest.mark.parametrize("severity", [0, 6])
def test_severities_are_one_to_five(severity):
    with pytest.raises(ValueError, match="severity of 1 to 5"):
        Corruption("jpeg", severity)
