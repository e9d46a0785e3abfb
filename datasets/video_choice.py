"""Which reader for which file: rules from what the file is, and one check of the decision."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from .video_index import VideoError, VideoIndex, decoded_index, demuxed_index, opened
from .video_readers import (
    Reader,
    check_reader,
    in_rgb,
    installed,
    read_frames,
    shrunk,
    sought,
    turn,
)

DECORD_CODECS = ("h264", "mpeg4")
CHECKED_PIXELS = 100_000_000  # decoded for the check: 300 frames of 640x480
CHECKED_FRAMES = (32, 300)  # fewest, most
SAMPLED = 4  # of them, read one by one with the reader under test; and as many near key frames
NEAR_KEY = (-3, 4)  # frames before and after a key frame that count as near
SMALL = 64  # pixels of the shorter side, on which frames are compared
NEIGHBOURS = 8  # frames before and after, to one of which a wrong frame is more alike
TOLERANCE = 4.0  # mean difference of 8-bit levels that another scaler's RGB may have
TIE = 0.5  # mean difference by which the right frame may be beaten: still pictures are all alike


@dataclass(frozen=True)
class ReadingPlan:
    """How to read a file.

    index: its frames.
    reader: who decodes it.
    why: the reason for that reader and not the one before it in the order of preference.
    """

    index: VideoIndex
    reader: Reader
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"reader": self.reader, "why": self.why, "index": self.index.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ReadingPlan:
        return cls(VideoIndex.from_json(values["index"]), values["reader"], values["why"])


def doubts(index: VideoIndex) -> str:
    """Why decord may read other frames of this file than those that are asked for; "" if none.

    Measured against FFmpeg's own order of frames: decord is off by the hidden frames of an edit
    list, wrong in .ts files and at open groups of pictures, and cannot open AV1.
    """
    if not index.container.startswith("mov"):
        return f"container {index.container}"
    if index.codec not in DECORD_CODECS or index.pixels not in ("yuv420p", "yuvj420p"):
        return f"codec {index.codec} {index.pixels}"
    if not index.seekable:
        return "cannot be sought in"
    if index.hidden:
        return "edit list"
    if index.open_gop:
        return "open groups of pictures"
    if not index.constant_rate:
        return "variable frame rate"
    if index.rotation:
        return "rotated"
    return ""


def plan(path: str | Path, reader: str = "auto") -> ReadingPlan:
    """Index a file and choose its reader.

    `auto` prefers decord where there are no doubts, then PyAV; a named reader is taken as it is.
    decord and PyAV's seeking are checked against decoding from the beginning, on some of the first
    300 frames (fewer of large ones). Where seeking fails the check, frames are counted instead.

    Raises VideoError for whatever is wrong with the file; ValueError and ModuleNotFoundError for
    what is wrong with the reader.
    """
    check_reader(reader)
    path = Path(path)
    try:
        index = demuxed_index(path)
        if reader == "decord" or reader == "torchcodec":
            return ReadingPlan(index, reader, "asked for")
        return choose(path, index, decord=reader == "auto")
    except VideoError:
        raise
    except Exception as problem:  # FFmpeg's errors and the operating system's
        raise VideoError(f"{type(problem).__name__}: {problem}") from problem


def choose(path: Path, index: VideoIndex, *, decord: bool) -> ReadingPlan:
    """The first reader that passes the check: decord if it may be, PyAV seeking, PyAV counting."""
    truth = first_frames(path, index)
    why = "asked for"
    if decord:
        why = doubts(index) or ("" if installed("decord") else "decord is not installed")
        if not why:
            why = failure(path, index, "decord", truth)
            if not why:
                return ReadingPlan(index, "decord", "exact")
    if not index.seekable:
        return ReadingPlan(index, "pyav", f"{why}; no usable times, frames are counted")
    wrong = failure(path, index, "pyav", truth)
    if not wrong:
        return ReadingPlan(index, "pyav", why)
    return ReadingPlan(decoded_index(path), "pyav", f"{why}; {wrong}, frames are counted")


def first_frames(path: Path, index: VideoIndex) -> UInt8[np.ndarray, "F h w 3"]:
    """The first frames, small, from decoding without a seek."""
    fewest, most = CHECKED_FRAMES
    count = min(max(CHECKED_PIXELS // (index.height * index.width), fewest), most, len(index))
    height, width = shrunk(index.height, index.width, SMALL)
    scaler = VideoReformatter()
    with opened(path) as (container, stream):
        frames = [
            scaler.reformat(frame, width, height, "rgb24").to_ndarray()
            for frame in islice(container.decode(stream), count)
        ]
    return turn(np.stack(frames), index.rotation)


def failure(
    path: Path, index: VideoIndex, reader: Reader, truth: UInt8[np.ndarray, "F h w 3"]
) -> str:
    """What is wrong with frames that `reader` finds, read one by one; "" if nothing is.

    PyAV is tested by seeking alone: `read_frames` would count where that fails, each time anew.
    """
    size = shrunk(index.height, index.width, SMALL)
    for number in samples(index, len(truth)):
        low, high = max(number - NEIGHBOURS, 0), number + NEIGHBOURS + 1
        wanted = np.array([number])
        try:
            if reader == "pyav":
                (read,) = in_rgb(sought(path, index, wanted), size, index.rotation)
            else:
                (read,) = read_frames(path, index, wanted, reader=reader, short_side=SMALL)
        except (VideoError, FFmpegError) as problem:
            return str(problem)
        difference = np.abs(truth[low:high].astype(np.int16) - read).mean(axis=(1, 2, 3))
        own = difference[number - low]
        alike = own == 0 if reader == "pyav" else own <= min(TOLERANCE, difference.min() + TIE)
        if not alike:
            return f"{reader} gives another frame for number {number}"
    return ""


def samples(index: VideoIndex, count: int) -> list[int]:
    """Numbers among the first `count` frames at which a reader is tested."""
    draw = np.random.default_rng(0)
    near = np.searchsorted(index.ticks, index.keys[1:])
    near = near + draw.integers(*NEAR_KEY, len(near))
    near = draw.permutation(near[(near >= 0) & (near < count)])[:SAMPLED]
    return [*draw.permutation(count)[:SAMPLED].tolist(), *near.tolist()]
