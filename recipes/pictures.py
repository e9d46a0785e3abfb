"""Pictures of what an encoder sees and has learnt: computed as a run ends, drawn by the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from jepa import seeds
from jepa.files import read_arrays, write_arrays
from jepa.frozen import FrozenEncoder, device_of
from jepa.masks import MultiBlockMasks
from jepa.masks_reference import ReferenceMultiBlockMasks
from jepa.shapes import Grid, Masks

from ..datasets.datamodule import ImageDataModule
from ..probes.features import Encoder
from ..probes.knn import nearest

SHOWN = 8  # test images on the page
NEIGHBOURS = 5  # of each of them
QUERIES, BANK = 200, 1000  # images over which the neighbours are scored and searched
SIDE, SMALL_SIDE = 128, 64  # largest stored side of a shown image, and of a neighbour, in px

TARGET_COLOURS = ((226, 88, 62), (58, 134, 214), (232, 170, 40), (52, 164, 110), (150, 98, 190))
FAINT, TINTED = 36, 150  # opacity of a patch that nobody sees, and of a target's, of 255


@dataclass(frozen=True)
class Pictures:
    """What `pictures.npz` holds.

    images: test images. labels: theirs; `classes` names them.
    context, targets: masks of these images, raster indices on the grid of patches; no targets
        where the training had no masks.
    components: first three principal components of their patch features, fitted over all of
        them, after the mean feature of each position has been subtracted.
    explained: the share of the remaining variance that each component has.
    placed: the share of the variance of patch features that the position alone explains.
    neighbour_images, neighbour_labels, similarity: the nearest training images by cosine of
        mean-pooled features, nearest first.
    bank: how many training images were searched.
    queries, same_class: share of neighbours of the query's class, over so many test images.
    """

    images: UInt8[np.ndarray, "n H W C"]
    labels: Int64[np.ndarray, " n"]
    classes: np.ndarray
    context: Int64[np.ndarray, "n Nc"]
    targets: Int64[np.ndarray, "n M Nt"]
    components: Float32[np.ndarray, "n h w 3"]
    explained: Float32[np.ndarray, "3"]
    placed: float
    neighbour_images: UInt8[np.ndarray, "n k s t C"]
    neighbour_labels: Int64[np.ndarray, "n k"]
    similarity: Float32[np.ndarray, "n k"]
    bank: int
    queries: int
    same_class: float


def save_pictures(
    path: Path,
    encoder: Encoder,
    data: ImageDataModule,
    masks: MultiBlockMasks | ReferenceMultiBlockMasks | None,
    seed: int,
) -> None:
    """Compute the pictures of an encoder, and write them to `path` (an .npz, at most ~2 MB).

    The images are drawn at random under the data's seed; where both splits are the same large
    set, queries and bank are different images of it. Raw pixels are one patch.
    """
    rows = data.draw("test", QUERIES, "pictures")
    images, labels, tokens = seen(encoder, data.evaluation_loader("test", rows=rows))
    grid = encoder.grid(images)[-2:] if isinstance(encoder, FrozenEncoder) else (1, 1)
    place, placed = position_means(tokens)
    components, explained = principal_components(tokens[:SHOWN] - place)
    masked = no_masks(grid, len(components))
    if masks is not None:
        masked = masks.sample(grid, len(components), seeds.generator(seed, "pictures"))

    bank_features, bank_labels, bank_images = [], [], []
    rows = data.draw("train", QUERIES + BANK, "pictures")[-BANK:]
    for batch in data.evaluation_loader("train", rows=rows):
        bank_features.append(features_of(encoder, batch.images).mean(dim=1))
        bank_labels.append(batch.labels)
        bank_images.append(thumbnails(batch.images, SMALL_SIDE))
    bank = torch.cat(bank_features).numpy()
    similarity, index = nearest(tokens.mean(dim=1).numpy(), bank, min(NEIGHBOURS, len(bank)))
    neighbour_labels = torch.cat(bank_labels).numpy()[index]
    pictures = Pictures(
        images=channels_last(thumbnails(images[:SHOWN], SIDE)),
        labels=labels[:SHOWN].numpy(),
        classes=np.array(data.images("test").classes),
        context=masked.context.cpu().numpy(),
        targets=masked.targets.cpu().numpy(),
        components=components.unflatten(1, grid).numpy(),
        explained=explained.numpy(),
        placed=placed,
        neighbour_images=channels_last(torch.cat(bank_images)[torch.from_numpy(index[:SHOWN])]),
        neighbour_labels=neighbour_labels[:SHOWN],
        similarity=similarity[:SHOWN].astype(np.float32),
        bank=len(bank),
        queries=len(labels),
        same_class=float((neighbour_labels == labels[:, None].numpy()).mean()),
    )
    write_arrays(path, vars(pictures))


def no_masks(grid: Grid, batch: int) -> Masks:
    """Everything is seen and nothing is to be foreseen."""
    everything = torch.arange(math.prod(grid)).expand(batch, -1)
    return Masks(everything, torch.empty(batch, 0, 0, dtype=torch.int64))


def read_pictures(path: Path) -> Pictures:
    """The pictures that a run has left."""
    values = read_arrays(path)
    scalars = {
        name: values.pop(name).item() for name in ("placed", "bank", "queries", "same_class")
    }
    return Pictures(**values, **scalars)


def seen(
    encoder: Encoder, batches: Iterable
) -> tuple[UInt8[Tensor, "n C H W"], Int64[Tensor, " n"], Float32[Tensor, "n N D"]]:
    """Images, labels and patch features of all batches."""
    parts = [(b.images, b.labels, features_of(encoder, b.images)) for b in batches]
    images, labels, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
    return images, labels, tokens


def features_of(encoder: Encoder, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B N D"]:
    """Patch features of the last layer, computed where the encoder is."""
    last = encoder.layer_names[-1]
    return encoder.layers(images.to(device_of(encoder)), [last])[last].float().cpu()


def position_means(tokens: Float32[Tensor, "n N D"]) -> tuple[Float32[Tensor, "N D"], float]:
    """Mean feature of each position over the images, and its share of the variance."""
    means = tokens.mean(dim=0)
    centre = means.mean(dim=0)
    share = (means - centre).square().mean() / (tokens - centre).square().mean().clamp_min(1e-30)
    return means, share.item()


def thumbnails(images: UInt8[Tensor, "B C H W"], side: int) -> UInt8[Tensor, "B C s t"]:
    """Images whose longer side is at most `side`, by averaging areas."""
    height, width = images.shape[2:]
    longer = max(height, width)
    if longer <= side:
        return images
    size = (max(1, height * side // longer), max(1, width * side // longer))
    return F.interpolate(images.float(), size=size, mode="area").round().to(torch.uint8)


def channels_last(images: UInt8[Tensor, "*n C H W"]) -> UInt8[np.ndarray, "*n H W C"]:
    """For numpy and Pillow."""
    return images.movedim(-3, -1).contiguous().numpy()


def principal_components(
    tokens: Float[Tensor, "n N D"],
) -> tuple[Float32[Tensor, "n N 3"], Float32[Tensor, "3"]]:
    """First three principal components over all tokens, and their shares of the variance."""
    centred = tokens.double() - tokens.double().mean(dim=(0, 1))
    axes, share = principal_axes(centred)
    return (centred @ axes.T).float(), share


def principal_axes(
    centred: Float[Tensor, "n N D"],
) -> tuple[Float[Tensor, "3 D"], Float32[Tensor, "3"]]:
    """Directions of most variance over tokens of mean 0, and their shares of it.

    The sign of each makes its largest loading positive.
    """
    _, spread, axes = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False)
    axes = axes[:3]
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    share = spread[:3] ** 2 / (spread**2).sum().clamp_min(1e-30)
    return axes, share.float()


def as_colours(components: Float32[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Each component from its 1st to its 99th percentile over all images to a colour channel."""
    low, high = np.percentile(components, (1, 99), axis=(0, 1, 2))
    scaled = (components - low) / np.maximum(high - low, 1e-12)
    return (255 * scaled.clip(0, 1) + 0.5).astype(np.uint8)


def enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel as a square of `scale` pixels."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def mask_picture(
    image: UInt8[np.ndarray, "H W C"],
    grid: Grid,
    context: Int64[np.ndarray, " Nc"],
    targets: Int64[np.ndarray, "M Nt"],
    side: int = 192,
) -> UInt8[np.ndarray, "S T 4"]:
    """RGBA, about `side` pixels: the context as it is, each target in a colour, the rest faint."""
    scale = max(1, round(side / max(image.shape[:2])))
    pixels = np.broadcast_to(enlarged(image, scale), (*enlarged(image[..., 0], scale).shape, 3))
    size = (pixels.shape[0], pixels.shape[1])
    visible = on_pixels(context, grid, size)
    picture = np.dstack([pixels, np.where(visible, 255, FAINT).astype(np.uint8)])
    blocks = [on_pixels(target, grid, size) for target in targets]
    for i, block in enumerate(blocks):
        colour = np.array(TARGET_COLOURS[i % len(TARGET_COLOURS)])
        picture[block, :3] = (0.45 * pixels[block] + 0.55 * colour).astype(np.uint8)
        picture[block, 3] = TINTED
    for i, block in enumerate(blocks):
        picture[outline(block)] = (*TARGET_COLOURS[i % len(TARGET_COLOURS)], 255)
    return picture


def on_pixels(
    tokens: Int64[np.ndarray, " K"], grid: Grid, size: tuple[int, int]
) -> Bool[np.ndarray, "H W"]:
    """True on the pixels of the given patches of an image of `size` pixels."""
    inside = np.zeros(grid[0] * grid[1], dtype=bool)
    inside[tokens] = True
    rows, columns = (np.arange(s) * g // s for s, g in zip(size, grid, strict=True))
    return inside.reshape(grid)[np.ix_(rows, columns)]


def outline(region: Bool[np.ndarray, "H W"], width: int = 2) -> Bool[np.ndarray, "H W"]:
    """The pixels of a region that are within `width` pixels of its edge."""
    inner = region
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner
