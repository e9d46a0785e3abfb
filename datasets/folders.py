"""Trees of image files with one folder per class (ImageFolder)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder

from .images import ImageSet, Split, UnreadableImageError, fingerprint, label_tensor

TEST_NAMES = ("test", "val")
TEST_SHARE = 0.2  # of the files of a tree without its own split
SIXTEEN_BITS = ("PNG", "PPM")  # whose numbers are opened with 32 bits


def decode(path: Path) -> UInt8[Tensor, "3 H W"]:
    """An image file as RGB, upright. Raises UnreadableImageError, whatever is wrong with it."""
    return _decoded(path, str(path))


def decode_bytes(content: bytes, name: str) -> UInt8[Tensor, "3 H W"]:
    """The same of an image file's bytes."""
    return _decoded(io.BytesIO(content), name)


def _decoded(file: Path | io.BytesIO, name: str) -> UInt8[Tensor, "3 H W"]:
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F" or (upright.mode == "I" and image.format not in SIXTEEN_BITS):
                raise ValueError(
                    "32 bits a number, whose range it does not tell: save it with 8 or 16"
                )
            if upright.mode.startswith("I"):
                levels = np.asarray(upright, dtype=np.float64) * (255 / 65535)
                upright = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
            pixels = np.asarray(upright.convert("RGB"))
    except Exception as problem:  # decoders raise anything: OSError, SyntaxError, struct.error...
        raise UnreadableImageError(name, f"{type(problem).__name__}: {problem}") from problem
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


class FolderImages(ImageSet):
    """Image files with labels, decoded when asked for, in RGB and at their own size."""

    channels = 3
    size = None

    def __init__(self, root: Path, files: Sequence[tuple[str, int]], classes: list[str]) -> None:
        self.root, self.classes = root, classes
        self.paths = [Path(path) for path, _ in files]
        self.labels = label_tensor([label for _, label in files])
        stats = ((path, path.stat()) for path in self.paths)
        self.fingerprint = fingerprint(
            *(f"{p.relative_to(root)} {s.st_size} {s.st_mtime_ns}" for p, s in stats)
        )

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        return decode(self.paths[index]), int(self.labels[index])

    def name(self, index: int) -> str:
        return str(self.paths[index])


def folder_images(place: str | Path, split: Split) -> FolderImages:
    """The images of DIR/train or of DIR/test (or DIR/val), each with one folder per class.

    A tree without those folders is split by a hash of each file's relative path: a file keeps
    its side when others come or go; about a fifth is for testing.

    Raises FileNotFoundError for an empty tree or half of one, ValueError when the two halves differ
    in classes.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder:{place}: {root.absolute()} is not a folder")
    places = own_halves(root)
    if not places:
        tree = list_tree(root)
        files = [f for f in tree.samples if side(Path(f[0]).relative_to(root)) == split]
        return FolderImages(root, files, tree.classes)
    halves = {name: list_tree(place) for name, place in places.items()}
    extra = set(halves["train"].classes) ^ set(halves["test"].classes)
    if extra:
        raise ValueError(
            f"{places['train']} and {places['test']} must have the same class folders; only one of "
            f"them has {', '.join(sorted(extra))}"
        )
    return FolderImages(root, halves[split].samples, halves[split].classes)


def own_halves(root: Path) -> dict[str, Path]:
    """DIR/train and DIR/test (or DIR/val) as `train` and `test`; nothing where a tree has neither.

    Raises FileNotFoundError where it has one alone.
    """
    train, tests = root / "train", [root / n for n in TEST_NAMES if (root / n).is_dir()]
    if train.is_dir() and not tests:
        raise FileNotFoundError(f"{root} has train/ but neither {' nor '.join(TEST_NAMES)}/")
    if tests and not train.is_dir():
        raise FileNotFoundError(f"{root} has {tests[0].name}/ but no train/")
    return {"train": train, "test": tests[0]} if tests else {}


def list_tree(root: Path) -> ImageFolder:
    """The image files below `root` by class, sorted; raises FileNotFoundError if there are none."""
    try:
        return ImageFolder(str(root))
    except FileNotFoundError as problem:
        raise FileNotFoundError(
            f"{root} must hold one folder per class with images in it, as in {root}/cat/1.jpg: "
            f"{problem}"
        ) from None


def side(relative: Path) -> Split:
    """The split of a file, by a hash of its path relative to the tree."""
    digest = hashlib.blake2b(relative.as_posix().encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") < TEST_SHARE * 2**64 else "train"
