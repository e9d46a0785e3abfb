"""Pixels to pixels, uint8 to uint8, with torchvision.transforms.v2: images [..., C, H, W].

Normalisation is not done here: it happens on the device, in `jepa.frozen.Normalize`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torchvision.transforms import v2

ASPECT = (3 / 4, 4 / 3)


def to_channels(given: int, wanted: int) -> nn.Module:
    """The conversion between grey (1 channel) and RGB (3)."""
    for channels in (given, wanted):
        if channels not in (1, 3):
            raise ValueError(f"images have 1 (grey) or 3 (RGB) channels; got {channels}")
    if given == wanted:
        return nn.Identity()
    return v2.RGB() if wanted == 3 else v2.Grayscale()


def eval_transform(
    image_size: int, *, given: tuple[int, int] | None, channels: tuple[int, int]
) -> nn.Sequential:
    """Shorter side to `image_size`, centre crop, channels; empty where nothing is to be done.

    Args:
        image_size: side of the result, in pixels.
        given: (height, width) that all images have; None when they differ.
        channels: (of the images, of the result).
    """
    steps = nn.Sequential()
    if given != (image_size, image_size):
        steps.extend([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)])
    return steps.append(to_channels(*channels))


def pretrain_transform(
    image_size: int,
    *,
    given: tuple[int, int] | None,
    channels: tuple[int, int],
    crop_scale: tuple[float, float] | None = (0.3, 1.0),
    flip: bool = False,
) -> nn.Sequential:
    """I-JEPA's augmentation: a random resized crop and nothing else (mirroring on request).

    Assran et al. 2023, section 4 and appendix A: crop scale 0.3 to 1, no colour, no flips.

    Args:
        image_size, given, channels: as in `eval_transform`.
        crop_scale: share of the area, (low, high); None: as in evaluation.
        flip: mirror every second image, at random.
    """
    if crop_scale is None:
        steps = eval_transform(image_size, given=given, channels=channels)
    else:
        check_crop_scale(crop_scale)
        crop = v2.RandomResizedCrop(image_size, scale=crop_scale, ratio=ASPECT, antialias=True)
        steps = nn.Sequential(crop, to_channels(*channels))
    return steps.append(v2.RandomHorizontalFlip()) if flip else steps


def check_crop_scale(crop_scale: tuple[float, float]) -> None:
    """Raises ValueError unless it is a range of shares of an area."""
    low, high = crop_scale
    if not 0 < low <= high <= 1:
        raise ValueError(
            f"crop_scale must be (low, high) with 0 < low <= high <= 1; got {crop_scale}"
        )


def apply_seeded(
    transform: nn.Module, images: Iterable[Tensor], seeds: Iterable[int]
) -> list[UInt8[Tensor, "*T C S S"]]:
    """`transform` of each image, or of each clip with its frames first, under its own seed.

    torch's global generator is left as it was; torchvision's transforms draw from the
    processor's global one and from no other.
    """
    state = torch.get_rng_state()
    try:
        done: list[Tensor] = []
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            done.append(transform(image))
        return done
    finally:
        torch.set_rng_state(state)
