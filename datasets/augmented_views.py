"""Views of an image that differ in crop, colour and sharpness, for joint embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from jepa.seeds import derive

from .crops import draws
from .loaders import Batches, TrainBatches

GREY = (0.299, 0.587, 0.114)  # of red, green and blue in the luminance (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class Views:
    """How many views each image has, and how they differ beyond crop and flip.

    The defaults are VICReg's and BYOL's, without solarisation. On grey images saturation, hue
    and greyed do nothing.

    Args:
        count: V, of each image.
        brightness, contrast, saturation: largest change of a factor that is uniform around 1.
        hue: largest turn of the colours about the grey axis, in full turns.
        jittered: share of views to which these four are done.
        greyed: share of views without colours.
        blurred: share of views that are blurred.
        sigma: of the Gaussian blur, (low, high), in pixels.
    """

    count: int = 2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jittered: float = 0.8
    greyed: float = 0.2
    blurred: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        changes = (self.brightness, self.contrast, self.saturation, self.hue)
        shares = (self.jittered, self.greyed, self.blurred)
        if self.count < 2:
            raise ValueError(f"joint embedding compares two views or more; got count {self.count}")
        if not all(0 <= value <= 1 for value in (*changes, *shares)):
            raise ValueError(f"changes and shares lie in [0, 1]; got {self}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is (low, high) with 0 < low <= high; got {self.sigma}")


class ViewBatch(NamedTuple):
    """views uint8; labels; what is wrong with each image that was skipped for this batch.

    undone: what `distorted` is still to be given, with these views: see `ViewBatches`.
    """

    views: UInt8[Tensor, "B V C S S"]
    labels: Int64[Tensor, " B"]
    unreadable: list[str]
    undone: Float[Tensor, "B V 8"] | None = None

    def done(self, views: Views) -> ViewBatch:
        """With everything done, where the views are."""
        if self.undone is None:
            return self
        pixels = distorted(self.views.flatten(0, 1), self.undone.flatten(0, 1), views)
        return self._replace(views=pixels.unflatten(0, self.views.shape[:2]), undone=None)


class ViewBatches(Batches):
    """The images of `batches`, each read once and augmented V times under seeds of its own.

    later: only draw how colours and sharpness change. An accelerator does that faster than the
        processes that read: `ViewBatch.done`.
    """

    noun = "images"

    def __init__(self, batches: TrainBatches, views: Views, *, later: bool = False) -> None:
        self.batches, self.views, self.later = batches, views, later

    @property
    def total(self) -> int:
        """Images in the set."""
        return self.batches.total

    def __getitem__(self, step: int) -> ViewBatch:
        indices, seeds = self.batches.samples.at(step)
        images, labels, unreadable = self.batches.read(indices)
        count = self.views.count
        each = [derive(seed, "view", view) for seed in seeds for view in range(count)]
        if isinstance(images, Tensor):
            repeated = images.repeat_interleave(count, dim=0)
        else:
            repeated = [image for image in images for _ in range(count)]
        pixels, numbers = (
            each_view.unflatten(0, (len(seeds), count))
            for each_view in (self.batches.augmented(repeated, each), distortions(each))
        )
        batch = ViewBatch(pixels, labels, unreadable, numbers)
        return batch if self.later else batch.done(self.views)


def distortions(seeds: Sequence[int]) -> Float[Tensor, "n 8"]:
    """What `distorted` is given: uniform numbers, each image's of its own seed."""
    return draws([derive(seed, "distort") for seed in seeds], 8)


def distorted(
    images: UInt8[Tensor, "n C H W"], numbers: Float[Tensor, "n 8"], views: Views
) -> UInt8[Tensor, "n C H W"]:
    """Brightness, contrast, colour and blur, each image by its own numbers."""
    change, (jittered, greyed, blurred, width) = 2 * numbers.T[:4] - 1, numbers.T[4:]
    jittered = jittered < views.jittered
    pixels = images.float()
    limits = (views.brightness, views.contrast, views.saturation, views.hue)
    change = torch.where(jittered, change * change.new_tensor(limits)[:, None], 0.0)
    pixels = (pixels * (1 + change[0])[:, None, None, None]).clamp(0, 255)
    mean = luminance(pixels).mean(dim=(1, 2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * (1 + change[1])[:, None, None, None]).clamp(0, 255)
    if images.shape[1] == 3:
        factor = torch.where(greyed < views.greyed, 0.0, 1 + change[2])
        pixels = recoloured(pixels, factor, change[3]).clamp(0, 255)
    some = blurred < views.blurred
    if some.any():
        low, high = views.sigma
        pixels[some] = gaussian_blur(pixels[some], (low + width * (high - low))[some])
    return pixels.round_().to(torch.uint8)


def luminance(images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n 1 H W"]:
    """Of RGB images; grey ones are their own."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(GREY)[:, None, None]).sum(dim=1, keepdim=True)


def recoloured(
    images: Float[Tensor, "n 3 H W"], saturation: Float[Tensor, " n"], hue: Float[Tensor, " n"]
) -> Float[Tensor, "n 3 H W"]:
    """Distances to the luminance times `saturation`, after a turn of the colours about grey.

    `hue` is in full turns: after a third, red is green, green is blue and blue is red.
    """
    angle = 2 * math.pi * hue
    same = (1 + 2 * angle.cos()) / 3
    third = 2 * math.pi / 3
    before, after = ((1 + 2 * (angle + shift).cos()) / 3 for shift in (third, -third))
    rows = [(same, before, after), (after, same, before), (before, after, same)]
    turn = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    keep = saturation[:, None, None]
    same_colours = torch.eye(3, device=images.device)
    mix = keep * same_colours + (1 - keep) * images.new_tensor(GREY).expand(3, 3)
    return torch.einsum("nij,njhw->nihw", mix @ turn, images)


def gaussian_blur(
    images: Float[Tensor, "n C H W"], sigma: Float[Tensor, " n"]
) -> Float[Tensor, "n C H W"]:
    """Each image with its own sigma, in pixels; at the edges the weights inside sum to 1."""

    def weights(size: int) -> Float[Tensor, "n size size"]:
        place = torch.arange(size, device=sigma.device)
        distance = (place[:, None] - place) / sigma[:, None, None]
        share = torch.softmax(-distance.square() / 2, dim=-1)
        return share.masked_fill_(share < 1e-12, 0)  # processors multiply 1e-40 ten times slower

    rows, columns = weights(images.shape[2]), weights(images.shape[3])
    return rows[:, None] @ images @ columns.transpose(1, 2)[:, None]
