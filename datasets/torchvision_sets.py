"""The classification data sets of torchvision, by name."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .images import (
    ImageSet,
    InMemoryImages,
    Split,
    UnreadableImageError,
    fingerprint,
    label_tensor,
)

ROOT = "~/.cache/jepa/torchvision"


class TorchvisionImages(ImageSet):
    """A torchvision data set that decodes when asked; images in RGB and at their own size."""

    channels = 3
    size = None

    def __init__(self, images: Any, title: str) -> None:
        self.images, self.title = images, title
        self.labels = labels_of(images, title)
        self.classes = classes_of(images, self.labels)
        self.fingerprint = fingerprint(title, self.labels.numpy().tobytes())

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        try:
            image, _ = self.images[index]
            assert isinstance(image, Image.Image)
            pixels = F.pil_to_tensor(image.convert("RGB"))
        except IndexError:
            raise
        except (
            Exception
        ) as problem:  # decoders raise anything: OSError, SyntaxError, struct.error...
            reason = f"{type(problem).__name__}: {problem}"
            raise UnreadableImageError(self.name(index), reason) from problem
        return pixels, int(self.labels[index])

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"


def torchvision_images(place: str, split: Split) -> ImageSet:
    """The set NAME or NAME:ROOT of torchvision.datasets, downloaded to ROOT if it is not there.

    Sets that torchvision keeps decoded in memory (MNIST, CIFAR, SVHN, STL10...) are taken as
    one tensor.

    Raises ValueError for an unknown name, RuntimeError when it can neither be found nor
    downloaded.
    """
    name, _, root = place.partition(":")
    images = construct(name, Path(root or ROOT).expanduser(), split)
    title = f"{name}/{split}"
    pixels = getattr(images, "data", None)
    if pixels is None or not hasattr(pixels, "ndim"):
        return TorchvisionImages(images, title)
    labels = labels_of(images, title)
    return InMemoryImages(
        channels_first(torch.as_tensor(pixels)),
        labels,
        classes=classes_of(images, labels),
        title=title,
    )


def construct(name: str, root: Path, split: Split) -> Any:
    """The torchvision object; its split is chosen by `train=` or by `split=`."""
    known = [n for n in torchvision.datasets.__all__ if "root" in parameters(n)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise ValueError(f"torchvision has no data set {name!r}; nearest: {', '.join(near)}")
    options: dict[str, Any] = {"root": str(root)}
    if "train" in parameters(name):
        options["train"] = split == "train"
    elif "split" in parameters(name):
        options["split"] = split
    else:
        raise ValueError(
            f"torchvision's {name} has no training and test split: store it as folders and use "
            "folder:DIR"
        )
    if "download" in parameters(name):
        options["download"] = True
    try:
        root.mkdir(parents=True, exist_ok=True)
        return getattr(torchvision.datasets, name)(**options)
    except (OSError, RuntimeError, ValueError, TypeError) as problem:
        raise RuntimeError(
            f"torchvision's {name} is not below {root} and could not be made ready "
            f"({type(problem).__name__}: {problem}). Without a network, copy its files there "
            f"yourself and use torchvision:{name}:ROOT, or use another source"
        ) from problem


def parameters(name: str) -> frozenset[str]:
    """The constructor's parameters of a torchvision data set."""
    return frozenset(inspect.signature(getattr(torchvision.datasets, name)).parameters)


def labels_of(images: Any, title: str) -> Tensor:
    """Labels without decoding, from where torchvision keeps them."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(images, attribute):
            return label_tensor(getattr(images, attribute))
    for attribute in ("samples", "_samples"):
        if hasattr(images, attribute):
            return label_tensor([label for _, label in getattr(images, attribute)])
    raise ValueError(f"{title} does not say its labels: is it a classification data set?")


def classes_of(images: Any, labels: Tensor) -> list[str]:
    """Names of the classes; numbers where torchvision knows none."""
    named = getattr(images, "classes", None)
    return [str(c) for c in named] if named else [str(i) for i in range(int(labels.max()) + 1)]


def channels_first(pixels: Tensor) -> UInt8[Tensor, "n C H W"]:
    """[n, H, W], [n, H, W, C] or [n, C, H, W] to [n, C, H, W]."""
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels if pixels.shape[1] == 3 else pixels.permute(0, 3, 1, 2).contiguous()
