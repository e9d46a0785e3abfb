"""Loaders alone: images and clips per second of each way to keep them, beside those of a step.

Images: photographs that come with scikit-learn and scikit-image, cut to 500 x 375 and written as
JPEG files, one folder a class; the same as WebDataset shards; and decoded once. Random crops of
224 px in batches of 64. Clips, where video files are given: 16 frames at 10 a second, random crops
of 224 px in batches of 4, out of the files and out of frames that were decoded once. One turn is a
number of batches after the first; each row has its turns one after the other; medians.

    jepa fetch --into data/clips
    python benchmarks/loaders.py data/clips
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torchvision.io import write_jpeg
from torchvision.transforms.v2.functional import resize

from jepa.datasets.clip_datamodule import ClipDataModule
from jepa.datasets.datamodule import ImageDataModule
from jepa.datasets.images import open_images
from jepa.recipes.sharding import shards

SIZE, BATCH, CLIP_BATCH = 224, 64, 4


def photographs(folder: Path, count: int) -> None:
    """JPEG files of 500 x 375 in two classes of a training and a test folder."""
    some = open_images("photographs", "train", image_size=500)
    for number in range(count):
        image = resize(some[number % len(some)][0], [375, 500])
        split = "train" if number % 10 else "test"
        place = folder / split / "ab"[number // 10 % 2] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(image.expand(3, -1, -1), str(place), quality=90)


def rates(loaders: dict[str, Callable[[], Any]], batches: int, turns: int) -> dict[str, float]:
    """Samples per second of each, a median of turns."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for name, make in loaders.items():
        for _ in range(turns):
            running = iter(make())
            next(running)
            began, samples = time.perf_counter(), 0
            for batch in itertools.islice(running, batches):
                samples += len(batch[0])
            found[name].append(samples / (time.perf_counter() - began))
            del running  # and its processes
    return {name: statistics.median(values) for name, values in found.items()}


def table(loaders: dict[str, Callable[[], Any]], noun: str, batches: int, turns: int) -> None:
    """Prints a line for each."""
    print(f"\n| {noun} | {noun} per second |\n|---|---|")
    for name, rate in rates(loaders, batches, turns).items():
        print(f"| {name} | {rate:.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Loaders alone, in samples per second.")
    parser.add_argument("videos", nargs="?", type=Path, help="a folder of video files")
    parser.add_argument("--images", type=int, default=800, help="files that are made")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=8, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photographs(place / "jpeg", options.images)
        with redirect_stdout(StringIO()):
            shards(data=f"folder:{place / 'jpeg'}", into=str(place / "tar"), per_shard=200)
        kinds: dict[str, dict[str, Any]] = {
            "JPEG files": {"source": f"folder:{place / 'jpeg'}"},
            "WebDataset shards": {"source": f"shards:{place / 'tar'}"},
            "decoded once": {
                "source": f"folder:{place / 'jpeg'}", "decoded": place / "decoded",
            },
        }  # fmt: skip
        loaders = {
            f"{kind}, {workers} workers": ImageDataModule(
                image_size=SIZE, batch_size=BATCH, workers=workers, **how
            ).train_loader
            for kind, how in kinds.items()
            for workers in options.workers
        }
        table(loaders, "images", options.batches, options.turns)
    if options.videos is not None:
        common: dict[str, Any] = {"fps": 10, "image_size": SIZE, "batch_size": CLIP_BATCH}
        kinds = {
            "video files": {"source": f"list:{listed(options.videos)}"},
            "decoded once": {"source": f"decoded:{options.videos}"},
        }
        loaders = {
            f"{kind}, {workers} workers": ClipDataModule(
                channels=3, workers=workers, **common, **how
            ).train_loader
            for kind, how in kinds.items()
            for workers in options.workers
        }
        table(loaders, "clips", options.batches, options.turns)


def listed(videos: Path) -> Path:
    """A list of the video files below a folder, as the releases of V-JEPA have them."""
    kinds = {".mp4", ".avi", ".mkv", ".webm", ".mov"}
    files = sorted(path for path in videos.rglob("*") if path.suffix in kinds)
    file = Path(tempfile.mkdtemp()) / "videos.txt"
    file.write_text("".join(f"{path.resolve()} 0\n" for path in files))
    return file


if __name__ == "__main__":
    main()
