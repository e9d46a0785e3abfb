"""Pictures of an encoder: right neighbours, right components, masks where they belong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from jepa import seeds
from jepa.datasets.datamodule import ImageDataModule, MadeImages
from jepa.datasets.images import InMemoryImages
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.masks import MultiBlockMasks
from jepa.recipes import pictures
from jepa.recipes.report import report

CLASSES = ["a<b>", "c&d", "e"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> ImageDataModule:
    """3 classes, 7 training and 5 test images of each, 24 px, colour."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 5)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return ImageDataModule(source=f"folder:{root}", image_size=24, workers=0)


@pytest.fixture(scope="module")
def frozen() -> FrozenEncoder:
    torch.manual_seed(0)
    sizes = dict(image_size=24, patch_size=4, channels=3, dim=24, depth=2, heads=2)
    return FrozenEncoder(VisionTransformer(**sizes), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def saved(data, frozen, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "pictures.npz"
    pictures.save_pictures(path, frozen, data, MultiBlockMasks(), seed=1)
    return path


def drawn(data, split, count):
    """Images and labels of the rows that the data's seed draws for pictures."""
    pairs = [data.images(split)[int(i)] for i in data.draw(split, count, "pictures")]
    return torch.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])


def test_neighbours_are_the_nearest_training_images(saved, data, frozen):
    found = pictures.read_pictures(saved)
    bank, labels = drawn(data, "train", pictures.BANK)
    queries, own = drawn(data, "test", pictures.QUERIES)
    truth = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute")
    truth.fit(frozen(bank).mean(dim=1).numpy())
    distance, index = truth.kneighbors(frozen(queries).mean(dim=1).numpy())
    np.testing.assert_array_equal(found.images, queries[:8].movedim(1, 3))
    np.testing.assert_array_equal(found.labels, own[:8])
    np.testing.assert_array_equal(found.neighbour_labels, labels[index[:8]])
    np.testing.assert_allclose(found.similarity, 1 - distance[:8], atol=1e-5)
    np.testing.assert_array_equal(found.neighbour_images, bank[index[:8]].movedim(2, 4))
    assert found.same_class == pytest.approx((labels[index] == own[:, None]).mean())
    assert (found.queries, found.bank) == (15, 21)


def test_a_neighbour_is_not_the_query_where_both_splits_are_one_set(frozen, tmp_path):
    images = torch.randint(0, 256, (1300, 3, 24, 24), dtype=torch.uint8)
    labels = torch.zeros(1300, dtype=torch.int64)
    made = InMemoryImages(images, labels, classes=["frame"], title="frames")
    data = MadeImages({"train": made, "test": made})
    pictures.save_pictures(tmp_path / "p.npz", frozen, data, MultiBlockMasks(), seed=0)
    found = pictures.read_pictures(tmp_path / "p.npz")
    same = (found.neighbour_images == found.images[:, None]).all(axis=(2, 3, 4))
    assert not same.any()


def test_masks_are_those_of_the_named_seed(saved):
    found = pictures.read_pictures(saved)
    masks = MultiBlockMasks().sample((6, 6), 8, seeds.generator(1, "pictures"))
    np.testing.assert_array_equal(found.context, masks.context)
    np.testing.assert_array_equal(found.targets, masks.targets)


def test_components_are_those_of_the_features_without_their_place(saved, data, frozen):
    found = pictures.read_pictures(saved)
    tokens = frozen(drawn(data, "test", pictures.QUERIES)[0]).double()
    place = tokens.mean(dim=0)
    left = (tokens[:8] - place).flatten(0, 1).numpy()
    truth = PCA(3, svd_solver="full").fit(left)
    ours, theirs = found.components.reshape(-1, 3), truth.transform(left)
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours, signs * theirs, atol=2e-4)
    np.testing.assert_allclose(found.explained, truth.explained_variance_ratio_, atol=1e-5)
    everything = tokens.flatten(0, 1)
    share = place.var(dim=0, correction=0).sum() / everything.var(dim=0, correction=0).sum()
    assert found.placed == pytest.approx(share.item(), abs=1e-5)


def test_same_seed_same_file_and_small(saved, data, frozen, tmp_path):
    again = tmp_path / "pictures.npz"
    pictures.save_pictures(again, frozen, data, MultiBlockMasks(), seed=1)
    first, second = (vars(pictures.read_pictures(path)) for path in (saved, again))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert again.stat().st_size < 2e6


def test_constant_features_are_drawn_in_one_colour():
    components, explained = pictures.principal_components(torch.ones(2, 4, 5))
    assert not components.any()
    assert not explained.any()
    colours = pictures.as_colours(components.unflatten(1, (2, 2)).numpy())
    assert len(np.unique(colours)) == 1


def test_thumbnails_average_areas():
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    small = pictures.thumbnails(images, 16)
    mean = images.float().unflatten(2, (8, 4)).unflatten(4, (16, 4)).mean(dim=(3, 5))
    assert small.shape == (2, 3, 8, 16)
    assert (small.float() - mean).abs().max() <= 0.5 + 1e-4
    assert pictures.thumbnails(images, 64) is images


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 4), (32, 32)), ((2, 3), (20, 30)), ((3, 3), (10, 11))]
)
def test_tokens_cover_their_pixels(grid, size):
    tokens = np.array([1, grid[1], grid[0] * grid[1] - 1])
    found = pictures.on_pixels(tokens, grid, size)
    for y in range(size[0]):
        for x in range(size[1]):
            token = (y * grid[0] // size[0]) * grid[1] + x * grid[1] // size[1]
            assert found[y, x] == (token in tokens)


def test_mask_picture_shows_context_hides_the_rest_and_outlines_targets():
    image = np.full((16, 16, 1), 200, dtype=np.uint8)
    context, targets = np.array([0, 1]), np.array([[10, 11, 14, 15]])
    picture = pictures.mask_picture(image, (4, 4), context, targets, side=160)
    assert picture.shape == (160, 160, 4)
    assert (picture[:40, :80] == (200, 200, 200, 255)).all()
    assert (picture[:40, 80:, 3] == pictures.FAINT).all()
    assert (picture[80, 80:] == (*pictures.TARGET_COLOURS[0], 255)).all()
    assert (picture[100:140, 100:140, 3] == pictures.TINTED).all()


def test_the_page_shows_them_and_escapes_class_names(saved, tmp_path):
    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    result = {"recipe": "r", "command": "c", "seed": 0, "seconds": 1.0, "versions": {}}
    result |= {"metrics": {"knn_top1": number}, "baselines": {}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "pictures.npz").write_bytes(saved.read_bytes())
    report(run=tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<img") == 3 * 8 + 8 + 8 * 5
    assert "a&lt;b&gt;" in text
    assert "a<b>" not in text
    assert "c&amp;d" in text
