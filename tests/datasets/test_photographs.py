"""The embedded set: nothing leaks from training to test crops, and nothing gives the label away."""

import numpy as np
import pytest
import torch

from jepa.datasets import photographs as module
from jepa.datasets.images import open_images


@pytest.fixture(scope="module")
def halves():
    return {split: open_images("photographs", split) for split in ("train", "test")}


@pytest.mark.parametrize("name", module.PHOTOGRAPHS)
def test_no_pixel_is_in_a_training_and_in_a_test_crop(name):
    shape = module.load_photograph(name).shape
    seen = {}
    for split in ("train", "test"):
        seen[split] = np.zeros(shape, dtype=bool)
        for top, left, height, width in module.crop_boxes(name, split):
            assert 0 <= top <= top + height <= shape[0]
            assert 0 <= left <= left + width <= shape[1]
            seen[split][top : top + height, left : left + width] = True
    assert seen["train"].any()
    assert seen["test"].any()
    assert not (seen["train"] & seen["test"]).any()


def test_groups_are_places_of_one_photograph(halves):
    images = halves["train"]
    boxes = np.concatenate([module.crop_boxes(name, "train") for name in module.PHOTOGRAPHS])
    for group in images.groups.unique():
        rows = (images.groups == group).nonzero()[:, 0]
        assert len(images.labels[rows].unique()) == 1
        top, left, height, width = boxes[rows].T
        assert np.ptp(top + height) < 2 * module.TILE
        assert max((top + height).max() - top.min(), (left + width).max() - left.min()) < 2 * (
            module.TILE
        )
    first, second = (images.groups == g for g in images.groups[:1000].unique()[:2])
    covered = [np.zeros(module.load_photograph("astronaut").shape, dtype=bool) for _ in range(2)]
    for rows, seen in zip((first, second), covered, strict=True):
        for top, left, height, width in boxes[rows.numpy()]:
            seen[top : top + height, left : left + width] = True
    assert not (covered[0] & covered[1]).any(), "two groups share a pixel"


def test_moments_are_mean_and_standard_deviation():
    pixels = module.load_photograph("coins")
    boxes = module.crop_boxes("coins", "test")[:50]
    crops = [module.cut(pixels, box) for box in boxes]
    mean, spread = module.moments(pixels, boxes)
    np.testing.assert_allclose(mean, [crop.mean() for crop in crops], rtol=1e-9)
    np.testing.assert_allclose(spread, [crop.std() for crop in crops], rtol=1e-9)
    assert spread.min() >= module.FLAT


def test_a_crop_depends_on_no_pixel_outside_its_box():
    pixels = module.load_photograph("coffee")
    box = module.crop_boxes("coffee", "test")[0]
    other = np.zeros_like(pixels)
    top, left, height, width = box
    other[top : top + height, left : left + width] = module.cut(pixels, box)
    np.testing.assert_array_equal(
        module.render(pixels, box, True, 32), module.render(other, box, True, 32)
    )


def test_shape_labels_and_balance(halves):
    classes = len(module.PHOTOGRAPHS)
    for split, each in module.PER_CLASS.items():
        images = halves[split]
        assert tuple(images.images.shape) == (classes * each, 1, 32, 32)
        assert torch.equal(images.labels.bincount(), torch.full((classes,), each))
        assert len(images.classes) == classes


def test_brightness_and_contrast_are_the_same_for_all(halves):
    pixels = halves["train"].images.double().flatten(1)
    # Clipping moves the few crops with bright spots on black.
    assert (pixels.mean(1) - module.MEAN).abs().quantile(0.9) < 4
    assert (pixels.std(1) - module.CONTRAST).abs().quantile(0.9) < 8


def test_the_same_seed_gives_the_same_crops(halves):
    again = module.photographs.__wrapped__("test", image_size=32, seed=0)
    assert again.fingerprint == halves["test"].fingerprint
    other = module.photographs.__wrapped__("test", image_size=32, seed=1)
    assert other.fingerprint != halves["test"].fingerprint


def test_image_size(halves):
    assert open_images("photographs", "test", image_size=48).size == (48, 48)
