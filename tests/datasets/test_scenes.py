"""Scenes: masks fit their images, shapes are what they are called, halves share no photograph."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from skimage.measure import label, regionprops

from jepa.datasets import scenes as module
from jepa.datasets import views
from jepa.datasets.scenes import CLASSES

scenes = module.scenes.__wrapped__


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(module, "IMAGES", {"train": 60, "test": 40})
    monkeypatch.setattr(views, "PHOTOGRAPHS", ("brick", "camera", "coins", "grass"))


def test_the_mask_is_where_something_lies_over_the_background(monkeypatch):
    monkeypatch.setattr(module, "TEXTURE", 0.0)
    found = scenes("train")
    images, masks = found.images[:, 0].numpy(), found.masks.numpy()
    assert images.shape == masks.shape == (60, 64, 64)
    assert (np.abs(images[masks > 0].astype(int) - 128) > 10).mean() > 0.99
    edge = binary_dilation(masks > 0, np.ones((1, 5, 5)))
    assert (images[~edge] == 128).all()
    assert set(np.unique(masks)) == set(range(len(CLASSES)))
    assert set(np.unique([len(set(m.ravel())) for m in masks])) == {2, 3, 4}


def test_shapes_are_what_they_are_called(monkeypatch):
    monkeypatch.setattr(module, "MOST", 1)
    monkeypatch.setattr(module, "RADIUS", (0.2, 0.4))
    seen = set()
    for mask in scenes("train", image_size=96).masks.numpy():
        (region,) = regionprops(label(mask > 0))
        name, filled = CLASSES[mask.max()], region.area / region.feret_diameter_max**2
        seen.add(name)
        assert region.euler_number == (0 if name == "ring" else 1)
        # disc, square (its diagonal), triangle (its side); ring: a hole of 0.4; cross: 5 of 9
        expected = {
            "disc": math.pi / 4,
            "ring": math.pi / 4 * (1 - 0.4**2),
            "square": 1 / 2,
            "triangle": math.sqrt(3) / 4,
            "cross": 5 / 10,
        }
        assert filled == pytest.approx(expected[name], rel=0.1)
        assert (region.solidity > 0.9) == (name in ("disc", "square", "triangle"))
    assert seen == set(CLASSES[1:])


def test_training_and_test_share_no_place(monkeypatch):
    """Neither as backgrounds nor as fillings."""
    drawn = {}

    def remembered(split, *args, **options):
        found = draw_views(split, *args, **options)
        drawn.setdefault(split, []).append(set(found.groups.tolist()))
        return found

    draw_views = module.draw_views
    monkeypatch.setattr(module, "draw_views", remembered)
    assert set(scenes("train").groups.tolist()) <= drawn["train"][0]
    scenes("test")
    train, test = (set.union(*drawn[split]) for split in ("train", "test"))
    assert len(drawn["train"]) == len(drawn["test"]) == 2
    assert train
    assert not train & test


def test_a_seed_is_all_that_chance_depends_on_and_texture_tells_nothing(monkeypatch):
    one = scenes("test")
    monkeypatch.setattr(module, "STANDS_OUT", (0.0, 0.0))
    again = scenes("test")
    np.testing.assert_array_equal(again.masks, one.masks)
    lain_over = binary_dilation(one.masks.numpy() > 0, np.ones((1, 5, 5)))
    with_contrast, without = one.images[:, 0].numpy(), again.images[:, 0].numpy()
    np.testing.assert_array_equal(with_contrast[~lain_over], without[~lain_over])
    assert (with_contrast != without).any()
    behind, ahead = without[again.masks == 0], without[again.masks > 0]
    assert behind.mean() == pytest.approx(ahead.mean(), abs=6)
    assert behind.std() == pytest.approx(ahead.std(), rel=0.2)
    assert (scenes("test", seed=1).masks != one.masks).any()
