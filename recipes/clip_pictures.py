"""Pictures of what a model of clips foresees: computed as a run ends, drawn by the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from jepa import seeds
from jepa.files import read_arrays, write_arrays
from jepa.frozen import Normalize
from jepa.masks import MaskSampler
from jepa.model import JEPA
from jepa.shapes import Masks

from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.clip_loaders import liveliest
from . import page
from .page import Html
from .pictures import channels_last, mask_picture, position_means, principal_axes, thumbnails

SHOWN = 2  # clips on the page
FITTED = 64  # clips over which positions are averaged and components found
SIDE = 96  # largest stored side of a frame, in pixels


@dataclass(frozen=True)
class Group:
    """One group of masks: raster indices of what is seen and hidden, and what was foreseen, as
    components of the targets."""

    context: Int64[np.ndarray, "n Nc"]
    targets: Int64[np.ndarray, "n Nt"]
    foreseen: Float32[np.ndarray, "n Nt 3"]


@dataclass(frozen=True)
class ClipPictures:
    """What the report shows of clips.

    frames: the first of each tubelet. components: of the target encoder's features, after the
    mean of each position is subtracted. explained: shares of the variance that remains.
    error: mean over groups of |foreseen - target|^2 over the targets' variance, all components.
    """

    frames: UInt8[np.ndarray, "n t s u C"]
    components: Float32[np.ndarray, "n t h w 3"]
    explained: Float32[np.ndarray, "3"]
    error: float
    groups: tuple[Group, ...]


@torch.no_grad()
def save_clip_pictures(
    path: Path,
    model: JEPA,
    normalize: Normalize,
    data: ClipDataModule,
    masks: MaskSampler,
    seed: int,
) -> None:
    """Compute the pictures of a model of clips, and write them to `path` (an .npz, under 2 MB).

    Of all that components are found over, the clips that move most are shown."""
    rows = data.draw("test", FITTED, "clip_pictures")
    parts = [batch.images for batch in data.evaluation_loader("test", rows=rows)]
    device = normalize.shift.device
    targets = torch.cat([model.target(normalize(p.to(device))).cpu() for p in parts])
    means, _ = position_means(targets)
    centred = (targets - means).double()
    axes, explained = principal_axes(centred)
    images = torch.cat(parts)
    each = max(1, len(images) // SHOWN)
    moving = liveliest(list(images[: each * SHOWN]), each)
    images, centred = images[moving], centred[moving]
    pixels = normalize(images.to(device))
    grid = model.encoder.grid(pixels)
    drawn = masks.sample(grid, len(images), seeds.generator(seed, "clip_pictures"))
    output = model(pixels, drawn)
    groups, errors = {}, []
    sampled = (drawn,) if isinstance(drawn, Masks) else drawn
    for number, (group, seen) in enumerate(zip(sampled, output.groups, strict=True)):
        index = group.targets.flatten(1)
        foreseen = seen.predicted.flatten(1, 2).double().cpu() - means[index]
        truth = centred.gather(1, index[..., None].expand_as(foreseen))
        errors.append((foreseen - truth).square().mean() / truth.square().mean())
        groups |= {
            f"context_{number}": group.context.numpy(),
            f"targets_{number}": index.numpy(),
            f"foreseen_{number}": (foreseen @ axes.T).float().numpy(),
        }
    tubelets = images[:, :, :: images.shape[2] // grid[0]].transpose(1, 2)
    small = thumbnails(tubelets.flatten(0, 1), SIDE).unflatten(0, tubelets.shape[:2])
    shown = {
        "frames": channels_last(small),
        "components": (centred @ axes.T).float().unflatten(1, grid).numpy(),
        "explained": explained.numpy(),
        "error": np.float32(torch.stack(errors).mean()),
    }
    write_arrays(path, shown | groups)


def read_clip_pictures(path: Path) -> ClipPictures:
    """The pictures that a run has left."""
    values = read_arrays(path)
    numbers = range(sum(name.startswith("context_") for name in values))
    return ClipPictures(
        frames=values["frames"],
        components=values["components"],
        explained=values["explained"],
        error=float(values["error"]),
        groups=tuple(
            Group(values[f"context_{i}"], values[f"targets_{i}"], values[f"foreseen_{i}"])
            for i in numbers
        ),
    )


def clip_sheets(pictures: ClipPictures) -> Html:
    """For each clip: its frames, what of it was seen, what was foreseen and what was there."""
    low, high = np.percentile(pictures.components, (1, 99), axis=(0, 1, 2, 3))

    def coloured(components: np.ndarray) -> np.ndarray:
        return (255 * ((components - low) / np.maximum(high - low, 1e-12)).clip(0, 1)).astype("u1")

    html = ""
    for clip, frames in enumerate(pictures.frames):
        there = coloured(pictures.components[clip])
        rows: list[tuple[str, list[np.ndarray]]] = [
            ("frames", list(frames)),
            ("target", list(there)),
        ]
        for number, group in enumerate(pictures.groups, start=1):
            rows.append((f"seen, group {number}", seen_frames(frames, there, group, clip)))
            rows.append((f"foreseen {number}", foreseen_frames(there, group, clip, coloured)))
        columns = f"grid-template-columns: 72px repeat({len(frames)}, 1fr)"
        cells = "".join(
            f"<span>{name}</span>" + "".join(page.picture(image, name) for image in row)
            for name, row in rows
        )
        sheet = f'<div class="scroll"><div class="sheet" style="{columns}">{cells}</div></div>'
        html += page.figure(sheet)
    share = " + ".join(f"{100 * part:.0f}" for part in pictures.explained)
    t, h, w = pictures.components.shape[1:4]
    return f"<h3>What is seen, what is foreseen, and what was there</h3>{html}" + page.figure(
        "",
        f"Clips of the test split, drawn at random; a column is one of {t} steps in time. Target: "
        f"first three principal components of the {t} × {h} × {w} features of the target encoder, "
        f"after the mean of each position is subtracted ({share} % of what remains). Foreseen: the "
        "predictor's features of the hidden patches, in the same colours. The squared error of "
        f"what is foreseen is {pictures.error:.2f} of the variance of what was there.",
    )


def seen_frames(frames: np.ndarray, there: np.ndarray, group: Group, clip: int) -> list[np.ndarray]:
    """The frames, RGBA, with the hidden patches coloured."""
    size = there.shape[1] * there.shape[2]
    context, targets = group.context[clip], group.targets[clip]
    return [
        mask_picture(
            frame,
            there.shape[1:3],
            context[context // size == time] % size,
            (targets[targets // size == time] % size)[None],
        )
        for time, frame in enumerate(frames)
    ]


def foreseen_frames(
    there: np.ndarray,
    group: Group,
    clip: int,
    coloured: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """The components foreseen at the hidden patches, RGBA; the others are left transparent."""
    picture = np.zeros((*there.shape[:3], 4), dtype=np.uint8)
    flat = picture.reshape(-1, 4)
    flat[group.targets[clip], :3] = coloured(group.foreseen[clip])
    flat[group.targets[clip], 3] = 255
    return [np.asarray(one) for one in picture]
