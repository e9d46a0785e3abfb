"""What a video file holds: the time of every frame, and what makes reading it by number hard."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, Int64

LEAST_SHARE = 0.9  # of the promised length, or a file counts as cut off
USUAL_RATE = 25  # frames per second, where a file says nothing about time
NO_VIDEOS = ("image2", "tty", "hls", "dash", "concat", "sdp", "rtsp", "lavfi")  # or ..._pipe


class VideoError(Exception):
    """A file that cannot be read as a video; says why."""


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a video in the order in which they are shown.

    ticks: when each of the n frames is shown, in units of `time_base` seconds, increasing.
    keys: `ticks` of the frames at which decoding can begin.
    time_base: seconds of a tick.
    container, codec, pixels: FFmpeg's names of the formats.
    height, width: of the decoded frames, before rotation.
    rotation: degrees, counter-clockwise, by which the frames are to be turned; a multiple of 90.
    hidden: the file holds frames that an edit list hides, or does not begin at zero.
    open_gop: frames are stored after a key frame that need what was before it.
    seekable: frames are found by seeking to their ticks; else by counting from the first on.
    """

    ticks: Int64[np.ndarray, " n"]
    keys: Int64[np.ndarray, " keys"]
    time_base: Fraction
    container: str
    codec: str
    pixels: str
    height: int
    width: int
    rotation: int
    hidden: bool
    open_gop: bool
    seekable: bool

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def seconds(self) -> Float[np.ndarray, " n"]:
        """When each frame is shown, from 0 on."""
        return (self.ticks - self.ticks[0]) * float(self.time_base)

    @property
    def constant_rate(self) -> bool:
        """Frames follow each other evenly, up to the rounding of times to ticks."""
        even = np.linspace(self.ticks[0], self.ticks[-1], len(self))
        return bool(np.abs(self.ticks - even).max() <= 1)

    @property
    def margin(self) -> int:
        """Groups of pictures to decode before the one that a frame is in.

        MP4 and Matroska mark as key frames only those that stand alone, so that what follows one
        needs nothing before it, unless the group is open. In other files one group is added.
        """
        return 0 if self.container.startswith(("mov", "matroska")) and not self.open_gop else 1

    def to_json(self) -> dict[str, Any]:
        """Plain values; the ticks are packed, since most of them repeat one difference."""
        return asdict(self) | {
            "ticks": pack(self.ticks),
            "keys": pack(self.keys),
            "time_base": str(self.time_base),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VideoIndex:
        """The inverse of `to_json`."""
        return cls(
            **values
            | {
                "ticks": unpack(values["ticks"]),
                "keys": unpack(values["keys"]),
                "time_base": Fraction(values["time_base"]),
            }
        )


def pack(ticks: Int64[np.ndarray, " n"]) -> str:
    """Differences of the ticks, compressed, as text."""
    differences = np.diff(ticks, prepend=0).astype("<i8").tobytes()
    return base64.b64encode(zlib.compress(differences)).decode()


def unpack(text: str) -> Int64[np.ndarray, " n"]:
    """The inverse of `pack`."""
    differences = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8")
    return np.cumsum(differences, dtype=np.int64)


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its video stream, decoded by one thread. Raises VideoError if there is none."""
    with av.open(f"file:{path}") as container:
        form = container.format.name
        if form in NO_VIDEOS or form.endswith("_pipe"):
            raise VideoError(f"this is no video file; its content looks like {form}")
        streams = [s for s in container.streams.video if not is_cover(s)]
        if not streams:
            found = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"no video in this file, only {found}")
        streams[0].thread_type = "NONE"
        yield container, streams[0]


def is_cover(stream: VideoStream) -> bool:
    """Whether a stream is a picture attached to music."""
    return bool(stream.disposition & Disposition.attached_pic)


def demuxed_index(path: Path) -> VideoIndex:
    """The index from the packets' times, decoding nothing but the first frame.

    Where packets have no times, or share them, the whole file is decoded instead.
    Raises VideoError, or FFmpeg's errors, for a file that is no video or is cut off.
    """
    first: VideoFrame | None = None
    shown, keys, hidden, open_gop, end = [], [], False, False, 0.0
    with opened(path) as (container, stream):
        for packet in container.demux():
            if packet.dts is not None and packet.size:
                latest = max(packet.dts, packet.dts if packet.pts is None else packet.pts)
                end = max(end, float((latest + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if first is None:
                first = next(iter(stream.codec_context.decode(packet)), None)
            if not packet.size:
                continue
            if packet.pts is None:
                return decoded_index(path)
            open_gop = open_gop or (bool(keys) and packet.pts < keys[-1])
            if packet.is_keyframe:
                keys.append(packet.pts)
            if packet.is_discard:
                hidden = True
            else:
                shown.append(packet.pts)
        refuse_cut(container, end)
        if len(set(shown)) < len(shown):
            return decoded_index(path)
        index = describe(container, stream, first, shown)
    return replace(
        index,
        keys=np.array(sorted(keys), dtype=np.int64),
        hidden=hidden or min(shown) != 0,
        open_gop=open_gop,
        seekable=bool(keys),
    )


def decoded_index(path: Path) -> VideoIndex:
    """The index from decoding every frame: slow, and right for any file that can be decoded."""
    first, ticks = None, []
    with opened(path) as (container, stream):
        for frame in container.decode(stream):
            first = first or frame
            ticks.append(frame.pts)
        index = describe(container, stream, first, range(len(ticks)))
        rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
    if None in ticks or any(after <= before for before, after in pairwise(ticks)):
        return replace(index, seekable=False, time_base=1 / Fraction(rate))
    return replace(index, seekable=False, ticks=np.array(ticks, dtype=np.int64))


def describe(
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame | None,
    ticks: Sequence[int],
) -> VideoIndex:
    """An index with frames at `ticks` and without key frames."""
    if first is None or not ticks:
        raise VideoError("not one frame can be decoded")
    assert stream.time_base is not None
    return VideoIndex(
        ticks=np.array(sorted(ticks), dtype=np.int64),
        keys=np.zeros(0, dtype=np.int64),
        time_base=stream.time_base,
        container=container.format.name,
        codec=stream.codec_context.name,
        pixels=first.format.name,
        height=first.height,
        width=first.width,
        rotation=round(first.rotation / 90) * 90 % 360,
        hidden=False,
        open_gop=False,
        seekable=True,
    )


def refuse_cut(container: InputContainer, end: float) -> None:
    """Raise VideoError if the file lacks a part that its header promises.

    MP4 lists where each frame is stored; Matroska says how long it is, of which a tenth may be
    missing. Other files promise nothing that can be relied on: what is there is the video.

    Args:
        container: after its packets were read.
        end: seconds at which the last packet of any stream ends.
    """
    form = container.format.name
    if form.startswith("mov"):
        needed = max(
            (e.pos + e.size for s in container.streams for e in s.index_entries), default=0
        )
        if needed > container.size:
            raise VideoError(f"cut off: has {container.size} bytes of at least {needed}")
    elif form.startswith("matroska") and container.duration:
        promised = container.duration / av.time_base
        if end < LEAST_SHARE * promised:
            raise VideoError(f"cut off: {end:.1f} of {promised:.1f} seconds are there")
