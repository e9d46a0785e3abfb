"""Which videos there are: trees with a folder per class, lists of paths and labels, csv files."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from jaxtyping import Int64
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from .folders import TEST_NAMES, own_halves, side
from .images import Split, fingerprint, label_tensor

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".f4v", ".3gp", ".avi", ".mkv", ".webm", ".flv", ".wmv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m1v", ".vob", ".mxf", ".ogv", ".rm", ".gif"),
)
ENCODING = "utf-8-sig"  # UTF-8, perhaps with the byte-order mark that spreadsheets put before it
MOST_CLASSES = 100_000  # a larger label is no class but something else in the wrong column


@dataclass(frozen=True)
class Listing:
    """Videos of one split: their paths and labels, the names of all labels, and their groups.

    content: changes with the paths, and with the sizes and times of change of what they lead to.
    """

    paths: list[Path]
    labels: list[int]
    classes: list[str]
    groups: Int64[Tensor, " n"] | None
    content: str


class Row(NamedTuple):
    """One video of a list, as written."""

    path: str
    label: str
    group: str | None = None


def content(paths: Sequence[Path], labels: Sequence[int]) -> str:
    """A fingerprint of files or folders that may be missing."""
    lines = []
    for path, label in zip(paths, labels, strict=True):
        try:
            stat = path.stat()
            lines.append(f"{path} {label} {stat.st_size} {stat.st_mtime_ns}")
        except OSError:
            lines.append(f"{path} {label} missing")
    return fingerprint("\n".join(lines))


def natural(text: str) -> list[str | int]:
    """A key that sorts `frame 10` behind `frame 9`."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return name.lower().endswith(IMG_EXTENSIONS)


def video_paths(root: Path) -> Iterator[Path]:
    """The video files below a folder, by their names."""
    for folder, _, names in os.walk(root, followlinks=True):
        yield from (Path(folder, n) for n in names if Path(n).suffix.lower() in VIDEO_SUFFIXES)


def frame_folders(root: Path) -> Iterator[Path]:
    """The folders below a folder that hold images."""
    for folder, _, names in os.walk(root, followlinks=True):
        if any(is_image(name) for name in names):
            yield Path(folder)


def tree_of_videos(place: str | Path, split: Split) -> Listing:
    """The video files of DIR/train or DIR/test (or DIR/val), each with one folder per class."""
    return tree(place, split, video_paths, "videos in it, as in {}/run/1.mp4")


def tree_of_frames(place: str | Path, split: Split) -> Listing:
    """The same with one folder of images per video."""
    return tree(place, split, frame_folders, "folders of frames in it, as in {}/run/1/001.jpg")


def tree(
    place: str | Path, split: Split, find: Callable[[Path], Iterator[Path]], holds: str
) -> Listing:
    """One half of a tree; without train/ about a fifth is for testing, by a hash of each path.

    Raises FileNotFoundError for an empty tree or half of one, ValueError when the two halves differ
    in classes.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root.absolute()} is not a folder")
    halves = own_halves(root)
    found: dict[str, list[tuple[Path, str]]] = {}
    for name, top in (halves or {"all": root}).items():
        kinds = sorted(entry.name for entry in top.iterdir() if entry.is_dir())
        found[name] = [
            (path, kind)
            for kind in kinds
            for path in sorted(find(top / kind), key=lambda path: natural(str(path)))
        ]
        if not found[name]:
            raise FileNotFoundError(
                f"{top} must hold one folder per class with {holds.format(top)}"
            )
    classes = sorted({kind for half in found.values() for _, kind in half})
    if halves and (extra := {kind for _, kind in found["train"]} ^ {k for _, k in found["test"]}):
        raise ValueError(
            f"{halves['train']} and {halves['test']} must have the same class folders; only one "
            f"of them has {', '.join(sorted(extra))}"
        )
    chosen = found.get(split) or [
        (path, kind) for path, kind in found["all"] if side(path.relative_to(root)) == split
    ]
    paths, labels = [path for path, _ in chosen], [classes.index(kind) for _, kind in chosen]
    return Listing(paths, labels, classes, None, content(paths, labels))


def listed_files(place: str | Path, split: Split) -> Listing:
    """Lines of a path, a space and a whole number; the path may have spaces, or `::` may part them.

    Raises FileNotFoundError, and ValueError that names the first malformed line.
    """
    return listing(place, split, rows_of_list)


def csv_files(place: str | Path, split: Split) -> Listing:
    """A file with the columns path, label and optionally group; labels may be words.

    Raises FileNotFoundError, and ValueError that names what is malformed.
    """
    return listing(place, split, rows_of_csv)


def rows_of_list(path: Path) -> list[Row]:
    """The rows of a list as the V-JEPA repositories have them."""
    rows = []
    for number, line in enumerate(path.read_text(ENCODING).splitlines(), 1):
        if not line.strip():
            continue
        parts = line.strip().rsplit("::" if "::" in line else None, 1)
        if len(parts) != 2 or not parts[1].isdecimal():
            raise ValueError(
                f"{path}, line {number}: expected a path, a space and a whole number, as in "
                f"'clips/1.mp4 0'; got {line!r}"
            )
        rows.append(Row(*parts))
    return rows


def rows_of_csv(path: Path) -> list[Row]:
    """The rows of a csv file."""
    with open(path, newline="", encoding=ENCODING) as file:
        reader = csv.DictReader(file, restval="")
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} must begin with the header path,label or path,label,group; "
                f"got {','.join(reader.fieldnames or ['nothing'])}"
            )
        rows = [Row(row["path"], row["label"], row.get("group")) for row in reader]
    for number, row in enumerate(rows, 2):
        if not row.path or not row.label:
            raise ValueError(f"{path}, row {number}: path or label is missing")
        if row.group == "":
            raise ValueError(
                f"{path}, row {number}: group is missing; a video that shares none has one of "
                "its own, such as its path"
            )
    return rows


def listing(place: str | Path, split: Split, rows_of: Callable[[Path], list[Row]]) -> Listing:
    """One half of a list; classes and groups are numbered over both halves."""
    halves = {half: list_path(str(place), half) for half in get_args(Split)}
    all_rows = {path: rows_of(path) for path in set(halves.values())}
    chosen = all_rows[halves[split]]
    if len(all_rows) == 1:
        chosen = [row for row in chosen if side(Path(row.group or row.path)) == split]
    every = [row for rows in all_rows.values() for row in rows]
    classes, numbers = numbered({row.label for row in every}, place)
    labels = [numbers[row.label] for row in chosen]
    paths = [halves[split].parent / Path(row.path).expanduser() for row in chosen]
    if paths and not any(path.exists() for path in paths):
        raise FileNotFoundError(
            f"none of the {len(paths)} {split} videos of {place} is there; relative paths are "
            f"looked for in {halves[split].absolute().parent}"
        )
    names = sorted({row.group for row in every if row.group is not None})
    places = {name: number for number, name in enumerate(names)}
    grouped = bool(chosen) and all(row.group is not None for row in chosen)
    groups = label_tensor([places[row.group or ""] for row in chosen]) if grouped else None
    return Listing(paths, labels, classes, groups, content(paths, labels))


def list_path(place: str, split: Split) -> Path:
    """The file of one half. Raises FileNotFoundError."""
    names = ("train",) if split == "train" else TEST_NAMES
    paths = [Path(place.replace("{split}", name)).expanduser() for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"there is no list {' or '.join(str(p.absolute()) for p in paths)}")


def numbered(labels: set[str], place: str | Path) -> tuple[list[str], dict[str, int]]:
    """Names of all classes, and the class of each label: where all labels are whole numbers these
    are the classes, 0 ... the largest one, else they are sorted words.

    Raises ValueError for numbers too large for classes.
    """
    if not all(label.isdecimal() for label in labels):
        words = sorted(labels)
        return words, {word: number for number, word in enumerate(words)}
    numbers = {label: int(label) for label in labels}
    largest = max(numbers.values(), default=0)
    if largest >= MOST_CLASSES:
        raise ValueError(f"{place} has the label {largest}; labels are numbers of classes from 0")
    return [str(number) for number in range(largest + 1)], numbers
