"""Video files decoded once, small, and kept on disk: every second of them is trained on.

decoded_clips("DIR", "train", times=ClipTimes(16, fps=10), size=88)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jepa.files import atomic_path
from jepa.progress import track

from .clip_times import ClipTimes
from .clips import ClipSet, UnreadableVideoError
from .images import Split, fingerprint, label_tensor
from .video_lists import Listing, natural, video_paths
from .video_manifest import VideoManifest, of
from .videos import VideoClips

log = logging.getLogger(__name__)

PLACE = "~/.cache/jepa/decoded"
TEST_SHARE = 0.2  # of each video, its end
BLOCK = 256  # frames decoded at a time
BLOCK_LIMIT = 300.0  # seconds for one block


def decoded_clips(
    place: str | Path,
    split: Split,
    *,
    times: ClipTimes,
    size: int,
    reader: str = "auto",
    cache: str | Path = PLACE,
) -> DecodedClips:
    """The first four fifths, or the last fifth, of every video file below a folder.

    Each file is decoded once, all its frames, at `size` pixels of the shorter side, to an array
    on disk; from then on a clip costs no decoding. A file that cannot be read is skipped and named.

    Args:
        place: a folder; files are found at any depth, by their names.
        split: train: the beginning of each video; test: its end. Videos that are too short for
            a clip in both are for training alone.
        times: which frames make a clip.
        size: pixels of the shorter side; smaller videos stay as they are.
        reader: auto, decord, pyav or torchcodec.
        cache: folder of the arrays: one byte per pixel and colour of every frame.

    Raises:
        FileNotFoundError: no folder, or no readable video in it.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root.absolute()} is not a folder")
    paths = sorted(video_paths(root), key=lambda path: natural(str(path)))
    labels = list(range(len(paths)))
    listing = Listing(paths, labels, [str(p.relative_to(root)) for p in paths], None, "")
    videos = VideoClips(
        listing, times, size, reader=reader, manifest=VideoManifest(), limit=BLOCK_LIMIT
    )
    stores = [Store(Path(cache).expanduser(), path, reader, size) for path in paths]
    missing = [number for number, store in enumerate(stores) if not store.ready]
    for number in track(missing, f"decoding {place}", "video", shown=bool(missing)):
        try:
            stores[number].fill(videos, number)
        except UnreadableVideoError as problem:
            log.warning("unreadable video skipped: %s", problem)
    if not any(store.ready for store in stores):
        raise FileNotFoundError(
            f"no readable video file below {root.absolute()}: {len(paths)} have the name of one"
        )
    return DecodedClips(stores, listing.classes, split, times)


class Store:
    """The frames of one file at one size: `frames` [n, H, W, 3] and `seconds` [n], on disk.

    The place changes with the file's size and time of change, the reader and the wanted size.
    """

    def __init__(self, cache: Path, path: Path, reader: str, size: int) -> None:
        self.path = path
        key = json.dumps(of(path, reader) | {"size": size}, sort_keys=True)
        self.frames_at = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
        self.seconds_at = self.frames_at.with_suffix(".seconds.npy")

    @property
    def ready(self) -> bool:
        """Whether the file has been decoded."""
        return self.frames_at.is_file()

    def fill(self, videos: VideoClips, number: int) -> None:
        """Decode all frames of the video `number`, in blocks. Raises UnreadableVideoError."""
        with videos.named(number):
            how = videos.plan(number)
        count = len(how.index)
        with atomic_path(self.seconds_at) as path, open(path, "wb") as file:
            np.save(file, how.index.seconds)
        with atomic_path(self.frames_at) as temporary:
            stored = None
            for first in range(0, count, BLOCK):
                wanted = np.arange(first, min(first + BLOCK, count))
                with videos.named(number):
                    frames = videos.read(number, how, wanted)
                if stored is None:
                    stored = np.lib.format.open_memmap(
                        temporary, mode="w+", dtype=np.uint8, shape=(count, *frames.shape[1:])
                    )
                stored[wanted] = frames

    def frames(self) -> UInt8[np.ndarray, "n H W 3"]:
        """All frames, memory-mapped."""
        return np.load(self.frames_at, mmap_mode="r")

    def seconds(self) -> Float[np.ndarray, " n"]:
        """When each frame is shown."""
        return np.load(self.seconds_at)


class DecodedClips(ClipSet):
    """Stretches of decoded videos: in each a clip begins at will, so that one pass over the set
    is one over the videos' time, however long each of them is.

    The label of a stretch is the number of its video.

    Args:
        stores: one per file; those that are not ready are left out.
        classes: names of the files.
        split: see `decoded_clips`.
        times: which frames make a clip.
    """

    channels = 3
    size = None

    def __init__(
        self, stores: Sequence[Store], classes: Sequence[str], split: Split, times: ClipTimes
    ) -> None:
        self.stores, self.classes, self.times = list(stores), list(classes), times
        self.frames, self.targets = times.frames, {}
        self.seconds = {n: store.seconds() for n, store in enumerate(stores) if store.ready}
        self.stretches = [
            (video, first, last)
            for video, seconds in self.seconds.items()
            for first, last in stretches(seconds, times, split)
        ]
        self.labels = label_tensor([video for video, _, _ in self.stretches])
        files = " ".join(store.frames_at.stem for store in stores if store.ready)
        self.fingerprint = fingerprint(files, f"{split} {times}")

    def clip(self, index: int, position: float) -> UInt8[Tensor, "3 T H W"]:
        video, first, last = self.stretches[index]
        numbers = first + self.times.pick(self.seconds[video][first:last], position)
        frames = self.stores[video].frames()[numbers]
        return torch.from_numpy(frames).permute(3, 0, 1, 2)

    def name(self, index: int) -> str:
        video, first, last = self.stretches[index]
        return f"{self.stores[video].path}, frames {first} to {last - 1}"


def stretches(
    seconds: Float[np.ndarray, " n"], times: ClipTimes, split: Split
) -> list[tuple[int, int]]:
    """First frame, and one past the last, of each stretch of one half of a video.

    A stretch is two clips long and begins a clip after the one before it, so that every start of
    a clip belongs to one stretch.
    """
    cut = round(len(seconds) * (1 - TEST_SHARE))
    longest = times.pick(seconds, 0.0)  # one that is too short repeats its last frame
    span = int(longest[-1]) + 1
    if len(seconds) - cut < span:
        cut = len(seconds)
    first, last = (0, cut) if split == "train" else (cut, len(seconds))
    starts = range(first, max(last - span, first) + 1, span) if first < last else range(0)
    return [(start, min(start + 2 * span - 1, last)) for start in starts]
