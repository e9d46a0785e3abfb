"""The embedded image set: crops of the photographs that ship inside scikit-image's wheel."""

from __future__ import annotations

import functools
from importlib import resources
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
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
SMALLEST = 48  # least side of a crop
TEST_SHARE = 0.25  # of the tiles of a photograph
FLAT = 6.0  # grey-level standard deviation below which there is nothing to recognise
MEAN, CONTRAST = 128.0, 40.0  # of every crop, in grey levels

Boxes: TypeAlias = Int64[np.ndarray, "_ 4"]  # top, left, height, width, in pixels


@functools.cache
def load_photograph(name: str) -> UInt8[np.ndarray, "H W"]:
    """A photograph in grey levels. Shared by all callers and read-only."""
    file = resources.files("skimage") / "data" / PHOTOGRAPHS[name]
    with file.open("rb") as stream:
        return np.asarray(Image.open(stream).convert("L"))


def moments(
    pixels: UInt8[np.ndarray, "H W"], boxes: Boxes
) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """Mean and standard deviation of the grey levels inside each box, from summed-area tables."""
    top, left, height, width = boxes.T
    bottom, right = top + height, left + width

    def mean(values: np.ndarray) -> np.ndarray:
        table = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        total = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return total / (height * width)

    levels = pixels.astype(np.float64)
    first = mean(levels)
    return first, np.sqrt(np.maximum(mean(levels**2) - first**2, 0))


def tiling(pixels: UInt8[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Rows and columns of tiles, and the height and width of one in pixels."""
    rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    return rows, columns, pixels.shape[0] // rows, pixels.shape[1] // columns


def tiles(pixels: UInt8[np.ndarray, "H W"], split: Split, rng: np.random.Generator) -> Boxes:
    """The tiles of a photograph that belong to `split`; tiles of the two splits are disjoint.

    The photograph is cut into a grid of equal tiles; flat ones (sky, black borders) are left
    out, and a quarter of the others, drawn at random, is for testing.
    """
    rows, columns, height, width = tiling(pixels)
    grid = np.array(
        [(r * height, c * width, height, width) for r in range(rows) for c in range(columns)]
    )
    textured = grid[moments(pixels, grid)[1] >= 2 * FLAT]
    textured = rng.permutation(textured)
    tests = max(1, round(TEST_SHARE * len(textured)))
    return textured[:tests] if split == "test" else textured[tests:]


def draw_boxes(
    pixels: UInt8[np.ndarray, "H W"],
    places: Boxes,
    count: int,
    rng: np.random.Generator,
    *,
    sides: tuple[int, int] = (SMALLEST, TILE),
    margin: float = 0.0,
) -> Boxes:
    """`count` square boxes, each inside one of the `places`, of log-uniform side, not flat.

    Around each box, `margin` times its side is in the same place too.
    """
    boxes = np.empty((0, 4), dtype=np.int64)
    while len(boxes) < count:
        top, left, height, width = rng.choice(places, count).T
        side = np.rint(sides[0] * (sides[1] / sides[0]) ** rng.random(count)).astype(np.int64)
        edge = np.ceil(margin * side).astype(np.int64)
        room = side + 2 * edge - 1
        y, x = edge + rng.integers(height - room), edge + rng.integers(width - room)
        drawn = np.stack([top + y, left + x, side, side], axis=1)
        boxes = np.concatenate([boxes, drawn[moments(pixels, drawn)[1] >= FLAT]])
    return boxes[:count]


def cut(pixels: UInt8[np.ndarray, "H W"], box: Int64[np.ndarray, "4"]) -> np.ndarray:
    """The pixels inside a box."""
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def render(
    pixels: UInt8[np.ndarray, "H W"], box: Int64[np.ndarray, "4"], mirrored: bool, image_size: int
) -> UInt8[np.ndarray, "S S"]:
    """One crop: resized, mirrored left to right or not, mean and contrast set.

    The crop is cut before it is resized, so no pixel outside the box has any influence.
    """
    crop = Image.fromarray(cut(pixels, box)).resize((image_size, image_size), Image.Resampling.BOX)
    levels = np.asarray(crop, dtype=np.float32)[:, :: -1 if mirrored else 1]
    levels = (levels - levels.mean()) * (CONTRAST / max(float(levels.std()), 1.0)) + MEAN
    return levels.clip(0, 255).astype(np.uint8)


def places_of(name: str, split: Split, seed: int = 0) -> Boxes:
    """The tiles of one photograph that belong to `split`, under a seed."""
    return tiles(load_photograph(name), split, _rng(seed, "tiles", name))


def crop_boxes(name: str, split: Split, seed: int = 0) -> Boxes:
    """Where the crops of one photograph were taken, in the order of the set."""
    rng = _rng(seed, "crops", name, split)
    return draw_boxes(load_photograph(name), places_of(name, split, seed), PER_CLASS[split], rng)


def tile_numbers(pixels: UInt8[np.ndarray, "H W"], boxes: Boxes) -> Int64[np.ndarray, " _"]:
    """The tile, in raster order, that each box lies in."""
    _, columns, height, width = tiling(pixels)
    return boxes[:, 0] // height * columns + boxes[:, 1] // width


@functools.lru_cache(maxsize=4)
def photographs(split: Split, *, image_size: int = 32, seed: int = 0) -> InMemoryImages:
    """17 photographs and textures, one class each: 1,000 training and 200 test crops of each.

    What it is: grey crops of 48 to 80 pixels a side, resized, mirrored at random, all with the
    same mean and contrast (up to clipping), so that neither colour nor brightness tells the
    label: texture and structure must. Training and test crops come from different tiles of the
    photographs and share no pixel; `groups` are the tiles.

    What it is not: a benchmark of recognition. A class is one photograph, a test crop shows an
    unseen place of a photograph that was seen, and crops of one split overlap one another, so
    they are worth fewer independent samples than their number says.
    """
    crops: list[UInt8[np.ndarray, "S S"]] = []
    groups: list[Int64[np.ndarray, " _"]] = []
    for name in PHOTOGRAPHS:
        pixels = load_photograph(name)
        mirrored = _rng(seed, "mirrored", name, split).random(PER_CLASS[split]) < 0.5
        boxes = crop_boxes(name, split, seed)
        groups.append(tile_numbers(pixels, boxes) + 1000 * len(groups))
        crops += [
            render(pixels, box, bool(flip), image_size)
            for box, flip in zip(boxes, mirrored, strict=True)
        ]
    images: UInt8[Tensor, "n 1 S S"] = torch.from_numpy(np.stack(crops))[:, None]
    labels = torch.arange(len(PHOTOGRAPHS)).repeat_interleave(PER_CLASS[split])
    title = f"photographs/{split}"
    return InMemoryImages(
        images,
        labels,
        classes=list(PHOTOGRAPHS),
        title=title,
        groups=torch.from_numpy(np.concatenate(groups)),
    )


def _rng(seed: int, *name: str | int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, "photographs", *name))
