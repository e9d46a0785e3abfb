"""Fixed views: the training augmentation of chosen samples, under seeds that never change."""

import pytest
import torch

from jepa.datasets.clip_datamodule import ClipDataModule
from jepa.datasets.datamodule import ImageDataModule
from jepa.seeds import derive

ROWS = torch.tensor([7, 2, 9])
IMAGES = {"source": "photographs", "image_size": 32}
CLIPS = {"source": "sprites", "frames": 4, "image_size": 16}


def made(data, count=3):
    return torch.cat([batch.views for batch in data.views_loader(ROWS, count)])


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (ImageDataModule(flip=True, **IMAGES), (3, 3, 1, 32, 32)),
        (ClipDataModule(**CLIPS), (3, 3, 1, 4, 16, 16)),
    ],
)
def test_each_view_is_one_training_augmentation_of_its_sample(data, shape):
    views = made(data)
    assert views.shape == shape
    assert torch.equal(views, made(data))
    for i, row in enumerate(ROWS.tolist()):
        for view in range(3):
            seed = derive(data.seed, "views", row, view)
            alone = data.train_batches().of(torch.tensor([row]), [seed]).images[0]
            assert torch.equal(views[i, view], alone)
        assert not torch.equal(views[i, 0], views[i, 1])


def test_where_training_has_no_augmentation_views_are_crops():
    plain = ImageDataModule(crop_scale=None, **IMAGES)
    assert torch.equal(made(plain), made(ImageDataModule(crop_scale=(0.3, 1.0), **IMAGES)))
    flipped = ImageDataModule(crop_scale=None, flip=True, **IMAGES)
    (plainly,) = plain.evaluation_loader("train", rows=ROWS)
    for image, views in zip(plainly.images, made(flipped, 8), strict=True):
        mirrored = [torch.equal(view, image.flip(-1)) for view in views]
        same = [torch.equal(view, image) for view in views]
        assert all(a != b for a, b in zip(same, mirrored, strict=True))
        assert any(same)
        assert any(mirrored)
