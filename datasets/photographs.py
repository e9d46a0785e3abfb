"""The embedded image set: crops of the photographs that ship inside scikit-image's wheel."""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from jepa.seeds import derive

from .images import InMemoryImages, Split

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cell": "cell.png",
    "chelsea": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "page": "page.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}
PER_CLASS = {"train": 1000, "test": 200}
TILE = 80  # least side of a tile, and the largest side of a crop, in pixels of the photograph
SMALLEST = 32  # least side of a crop
TEST_SHARE = 0.25  # of the tiles of a photograph
FLAT = 6.0  # grey-level standard deviation below which there is nothing to recognise
MEAN, CONTRAST = 128.0, 50.0  # of every crop, in grey levels

Box = tuple[int, int, int, int]  # top, left, height, width


def load_photograph(name: str) -> UInt8[np.ndarray, "H W"]:
    """A photograph in grey levels."""
    file = resources.files("skimage") / "data" / PHOTOGRAPHS[name]
    with file.open("rb") as stream:
        return np.asarray(Image.open(stream).convert("L"))


def tiles(pixels: UInt8[np.ndarray, "H W"], split: Split, rng: np.random.Generator) -> list[Box]:
    """The tiles of a photograph that belong to `split`; tiles of the two splits are disjoint.

    The photograph is cut into a grid of equal tiles; flat ones (sky, black borders) are left
    out, and a quarter of the others, drawn at random, is for testing.
    """
    rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    grid = [(r * height, c * width, height, width) for r in range(rows) for c in range(columns)]
    textured = [box for box in grid if cut(pixels, box).std() >= 2 * FLAT]
    order = rng.permutation(len(textured))
    tests = max(1, round(TEST_SHARE * len(textured)))
    chosen = order[:tests] if split == "test" else order[tests:]
    return [textured[i] for i in sorted(chosen)]


def cut(pixels: UInt8[np.ndarray, "H W"], box: Box) -> UInt8[np.ndarray, "h w"]:
    """The pixels inside a box."""
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def draw_boxes(
    pixels: UInt8[np.ndarray, "H W"], places: list[Box], count: int, rng: np.random.Generator
) -> list[Box]:
    """`count` square boxes, each inside one of the `places`, of log-uniform side, not flat."""
    boxes: list[Box] = []
    while len(boxes) < count:
        top, left, height, width = places[rng.integers(len(places))]
        side = round(SMALLEST * (TILE / SMALLEST) ** rng.random())
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        box = (int(top + y), int(left + x), side, side)
        if cut(pixels, box).std() >= FLAT:
            boxes.append(box)
    return boxes


def render(
    pixels: UInt8[np.ndarray, "H W"], box: Box, symmetry: int, image_size: int
) -> UInt8[np.ndarray, "S S"]:
    """One crop: resized, turned by one of the 8 symmetries of the square, contrast set.

    The crop is cut before it is resized, so no pixel outside the box has any influence.
    """
    crop = Image.fromarray(cut(pixels, box)).resize((image_size, image_size), Image.Resampling.BOX)
    turned = np.rot90(np.asarray(crop, dtype=np.float32), symmetry % 4)
    turned = turned[:, ::-1] if symmetry >= 4 else turned
    scaled = (turned - turned.mean()) * (CONTRAST / max(float(turned.std()), 1.0)) + MEAN
    return scaled.clip(0, 255).astype(np.uint8)


def crop_boxes(name: str, split: Split, seed: int = 0) -> list[Box]:
    """Where the crops of one photograph were taken, in the order of the set."""
    pixels = load_photograph(name)
    places = tiles(pixels, split, _rng(seed, "tiles", name))
    return draw_boxes(pixels, places, PER_CLASS[split], _rng(seed, "crops", name, split))


@functools.lru_cache(maxsize=4)
def photographs(split: Split, *, image_size: int = 32, seed: int = 0) -> InMemoryImages:
    """18 photographs and textures, one class each: 1,000 training and 200 test crops of each.

    What it is: grey crops of 32 to 80 pixels a side, resized, turned at random by the 8
    symmetries of the square, all with the same mean and contrast, so that neither colour nor
    brightness tells the label: texture and structure must. Training and test crops come from
    different tiles of the photographs and share no pixel.

    What it is not: a benchmark of recognition. A class is one photograph, a test crop shows an
    unseen place of a photograph that was seen, and crops of one split overlap one another, so
    they are worth fewer independent samples than their number says.
    """
    crops: list[UInt8[np.ndarray, "S S"]] = []
    for name in PHOTOGRAPHS:
        pixels = load_photograph(name)
        symmetries = _rng(seed, "symmetries", name, split).integers(8, size=PER_CLASS[split])
        boxes = crop_boxes(name, split, seed)
        crops += [
            render(pixels, box, int(turn), image_size)
            for box, turn in zip(boxes, symmetries, strict=True)
        ]
    images: UInt8[Tensor, "n 1 S S"] = torch.from_numpy(np.stack(crops))[:, None]
    labels = torch.arange(len(PHOTOGRAPHS)).repeat_interleave(PER_CLASS[split])
    title = f"photographs/{split}"
    return InMemoryImages(images, labels, classes=list(PHOTOGRAPHS), title=title)


def _rng(seed: int, *name: str | int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, "photographs", *name))
