"""Video files as labelled clips: `video_files` opens folders, lists and folders of frames.

video_files("videos", "DIR", "train", times=ClipTimes(16, step=4), size=128)
video_files("list", "lists/{split}.csv", "test", times=ClipTimes(64, fps=8), reader="pyav")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from .clip_times import ClipTimes
from .clips import ClipSet, UnreadableVideoError
from .frame_folders import FrameFolderClips
from .images import Split, fingerprint, label_tensor
from .video_choice import ReadingPlan, plan
from .video_index import VideoError
from .video_lists import Listing, csv_files, listed_files, tree_of_frames, tree_of_videos
from .video_manifest import PLACE, VideoManifest
from .video_process import TIME_LIMIT, GivenUpError, ask, read_planned
from .video_readers import Frames, check_reader

Kind = Literal["videos", "list", "csv", "frames"]


def video_files(
    kind: Kind,
    place: str | Path,
    split: Split,
    *,
    times: ClipTimes | None = None,
    size: int | None = None,
    reader: str = "auto",
    manifest: str | Path = PLACE,
    time_limit: float = TIME_LIMIT,
) -> ClipSet:
    """The training or test videos of a place.

    Args:
        kind: what `place` is. `videos`: a folder with one folder per class, optionally below
            train/ and test/ or val/. `frames`: the same with one folder of images per video,
            in natural order. `list`: a text file, each line a path, a space and a label, as the
            V-JEPA repositories have them. `csv`: a file with the header path,label or
            path,label,group. Relative paths are relative to the list.
        place: a folder or a file. In the name of a list `{split}` stands for train and for
            test or val; a list or a tree without halves is split by a hash of each path, or of
            each group.
        split: which half; no video, and no group, is in both.
        times: which frames make a clip; None: 16 frames, every 4th one.
        size: pixels of the shorter side to which larger frames are shrunk while being read;
            None: as stored.
        reader: auto, decord, pyav or torchcodec; see `video_choice.plan`.
        manifest: folder in which is kept what was found out about each file.
        time_limit: seconds after which a file is given up.

    Raises:
        FileNotFoundError: the place, or all videos of it, are not there.
        ValueError: malformed lists; a frame rate is asked for where frames have no times.
        ModuleNotFoundError: the reader is not installed.
    """
    check_reader(reader)
    times = times or ClipTimes(16, step=4)
    list_of: dict[Kind, Callable[[str | Path, Split], Listing]] = {
        "videos": tree_of_videos,
        "frames": tree_of_frames,
        "list": listed_files,
        "csv": csv_files,
    }
    listing = list_of[kind](place, split)
    if kind == "frames":
        return FrameFolderClips(listing, times, size)
    return VideoClips(
        listing, times, size, reader=reader, manifest=VideoManifest(manifest), limit=time_limit
    )


class VideoClips(ClipSet):
    """Video files with labels, decoded when asked for, in RGB and at their own aspect.

    Args:
        listing: paths, labels, classes and groups.
        times: which frames make a clip.
        short_side: as `size` of `video_files`.
        reader, manifest: who reads, and where the choice is remembered.
        limit: seconds for one clip.
    """

    channels = 3
    size = None

    def __init__(
        self,
        listing: Listing,
        times: ClipTimes,
        short_side: int | None,
        *,
        reader: str,
        manifest: VideoManifest,
        limit: float,
    ) -> None:
        self.paths, self.classes = listing.paths, listing.classes
        self.labels, self.groups = label_tensor(listing.labels), listing.groups
        self.targets, self.frames = {}, times.frames
        self.times, self.short_side = times, short_side
        self.reader, self.manifest, self.limit = reader, manifest, limit
        self.fingerprint = fingerprint(listing.content, f"{times} {short_side} {reader}")
        self.given_up: dict[int, str] = {}  # by this process, so that each stalls it only once

    def clip(self, index: int, position: float) -> UInt8[Tensor, "3 T H W"]:
        with self.named(index):
            how = self.plan(index)
            frames = self.read(index, how, self.times.pick(how.index.seconds, position))
        return torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous()

    @contextmanager
    def named(self, index: int) -> Iterator[None]:
        """Whatever is wrong with a video becomes an UnreadableVideoError that says which."""
        path = str(self.paths[index])
        if index in self.given_up:
            raise UnreadableVideoError(path, self.given_up[index])
        try:
            yield
        except GivenUpError as problem:
            self.given_up[index] = str(problem)
            raise UnreadableVideoError(path, str(problem)) from problem
        except (VideoError, OSError) as problem:
            raise UnreadableVideoError(path, str(problem)) from problem

    def read(self, index: int, how: ReadingPlan, numbers: Int64[np.ndarray, " T"]) -> Frames:
        """Frames of a video, read as planned. Raises VideoError."""
        return ask(self.paths[index], self.limit, read_planned, how, numbers, self.short_side)

    def plan(self, index: int) -> ReadingPlan:
        """How a video is read: as remembered, or found out now and remembered."""
        path = self.paths[index]
        known = self.manifest.get(path, self.reader)
        if known is None:
            known = ask(path, self.limit, plan, self.reader)
            self.manifest.put(path, self.reader, known)
        return known

    def name(self, index: int) -> str:
        return str(self.paths[index])
