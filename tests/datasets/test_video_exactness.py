"""Every way of storing a video that misleads readers: frame i must show the number i.

The files are made here, and their pictures say which frame they are, so the truth is no reader's.
"""

import contextlib
import itertools
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jepa.datasets.video_choice import ReadingPlan, doubts, plan
from jepa.datasets.video_index import VideoError, VideoIndex
from jepa.datasets.video_process import ask, read_planned
from jepa.datasets.video_readers import installed, read_frames

N = 60
B_FRAMES = {"bf": "3", "g": "20", "x264-params": "b-adapt=0:scenecut=0:b-pyramid=normal"}
OPEN_GOP = {"bf": "3", "g": "12", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}


def uneven(seed: int = 0) -> list[Fraction]:
    steps = np.random.default_rng(seed).integers(1, 6, N - 1)
    return [Fraction(int(t), 100) for t in np.cumsum([0, *steps])]


def patch(path: Path, box: bytes, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file, counted from the name of the one box of that name."""
    content = bytearray(path.read_bytes())
    assert content.count(box) == 1
    place = content.index(box) + offset
    content[place : place + len(data)] = data
    path.write_bytes(content)


def plain(make, folder):
    return make(folder / "plain.mp4", range(N), options={"bf": "0", "g": "20"})


def b_frames(make, folder):
    return make(folder / "b.mp4", range(N), options=B_FRAMES)


def long_group(make, folder):
    return make(folder / "long.mp4", range(N), options={"bf": "3", "g": "250"})


def open_gop(make, folder):
    return make(folder / "open.mp4", range(N), options=OPEN_GOP)


def variable_rate(make, folder):
    return make(folder / "vfr.mp4", range(N), options=B_FRAMES, times=uneven())


def matroska(make, folder):
    return make(folder / "b.mkv", range(N), options=B_FRAMES)


def transport_stream(make, folder):
    return make(folder / "b.ts", range(N), options=B_FRAMES)


def flash(make, folder):
    return make(folder / "b.flv", range(N), options=B_FRAMES)


def avi(make, folder):
    return make(folder / "b.avi", range(N), codec="mpeg4", options={"bf": "2", "g": "12"})


def mpeg2(make, folder):
    return make(folder / "b.mpg", range(N), codec="mpeg2video", options={"bf": "2", "g": "12"})


def vp9(make, folder):
    options = {"g": "20", "deadline": "realtime", "cpu-used": "8", "b": "1M"}
    return make(folder / "v.webm", range(N), codec="libvpx-vp9", options=options)


def av1(make, folder):
    options = {"preset": "12", "g": "20", "crf": "30", "svtav1-params": "lp=1"}
    return make(folder / "a.mp4", range(N), codec="libsvtav1", options=options)


def hevc(make, folder):
    options = {"g": "12", "preset": "veryfast", "x265-params": "bframes=3:open-gop=1:log-level=0"}
    return make(folder / "h.mp4", range(N), codec="libx265", options=options)


def ten_bit(make, folder):
    return make(folder / "ten.mp4", range(N), options=B_FRAMES, pixels="yuv420p10le")


def edit_list(make, folder):
    """The first 10 frames are stored and hidden: what is shown begins with the number 0."""
    path = make(folder / "edit.mp4", [*range(200, 210), *range(N)], options=B_FRAMES)
    content = path.read_bytes()
    place = content.index(b"elst")
    duration, media_time = struct.unpack(">Ii", content[place + 12 : place + 20])
    movie_scale = struct.unpack(">I", content[(at := content.index(b"mvhd") + 16) : at + 4])[0]
    media_scale = struct.unpack(">I", content[(at := content.index(b"mdhd") + 16) : at + 4])[0]
    hidden = Fraction(10, 30)
    edit = struct.pack(
        ">Ii", duration - round(hidden * movie_scale), media_time + int(hidden * media_scale)
    )
    patch(path, b"elst", 12, edit)
    return path


def turned(make, folder, matrix, turn, name):
    path = make(folder / name, range(N), options=B_FRAMES, turn=turn)
    patch(path, b"tkhd", 44, struct.pack(">9i", *matrix))
    return path


def turned_right(make, folder):
    """Shown turned by 90 degrees clockwise (ISO 14496-12: a point (x, y) goes to (-y, x))."""
    one = 1 << 16
    return turned(make, folder, (0, one, 0, -one, 0, 0, 0, 0, 1 << 30), 1, "right.mp4")


def turned_left(make, folder):
    one = 1 << 16
    return turned(make, folder, (0, -one, 0, one, 0, 0, 0, 0, 1 << 30), 3, "left.mp4")


def upside_down(make, folder):
    one = 1 << 16
    return turned(make, folder, (-one, 0, 0, 0, -one, 0, 0, 0, 1 << 30), 2, "down.mp4")


KINDS = [plain, b_frames, long_group, open_gop, variable_rate, edit_list]
KINDS += [turned_right, turned_left, upside_down, matroska, transport_stream, flash, avi, mpeg2]
KINDS += [vp9, av1, hevc, ten_bit]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def video(request, tmp_path_factory):
    make = request.getfixturevalue("write")
    return request.param.__name__, request.param(make, tmp_path_factory.mktemp("videos"))


def assert_exact(path: Path, how: ReadingPlan, shown) -> None:
    """Single frames in random order, and clips that go through the whole file, at two sizes."""
    draw = np.random.default_rng(1)
    asked = [np.array([i]) for i in draw.permutation(N)[:12]]
    asked += [np.arange(start, N, 4) for start in (0, 3)]
    for numbers, size in zip(asked, itertools.cycle((None, 48))):
        frames = read_frames(path, how.index, numbers, reader=how.reader, short_side=size)
        assert shown(frames) == numbers.tolist()
        assert frames.shape[1:] == ((96, 128, 3) if size is None else (48, 64, 3))


def test_pyav_reads_the_frame_that_is_asked_for(video, shown):
    _, path = video
    how = plan(path, "pyav")
    assert len(how.index) == N
    assert_exact(path, how, shown)
    everything = read_frames(path, how.index, np.arange(N), reader="pyav")
    assert shown(everything) == list(range(N))


@pytest.mark.skipif(not installed("torchcodec"), reason="torchcodec is not installed")
def test_torchcodec_reads_the_frame_that_is_asked_for(video, shown):
    name, path = video
    if name == "transport_stream":
        pytest.skip("torchcodec reads other frames of .ts files; auto never chooses it")
    fails = pytest.raises(VideoError, match="no more frames")  # at the end, and says so
    with fails if name in ("avi", "mpeg2") else contextlib.nullcontext():
        assert_exact(path, plan(path, "torchcodec"), shown)


def test_times_are_those_that_were_written(video):
    name, path = video
    index = plan(path, "pyav").index
    expected = uneven() if name == "variable_rate" else [Fraction(i, 30) for i in range(N)]
    np.testing.assert_allclose(index.seconds, [float(t) for t in expected], atol=2e-3)
    assert index.constant_rate == (name != "variable_rate")
    assert index.open_gop == (name in ("open_gop", "hevc", "avi"))
    restored = VideoIndex.from_json(index.to_json())
    np.testing.assert_array_equal(restored.ticks, index.ticks)
    np.testing.assert_array_equal(restored.keys, index.keys)
    assert restored.to_json() == index.to_json()


def test_the_choice_is_exact(video, shown):
    """Through the reading process, as clips are read."""
    name, path = video
    how = ask(path, 60.0, plan, "auto")
    safe = name in ("plain", "b_frames", "long_group")
    assert (how.reader == "decord") == (safe and installed("decord")), how.why
    for numbers in ([7], [59], [31], list(range(2, 60, 5))):
        frames = ask(path, 60.0, read_planned, how, np.array(numbers), 48)
        assert shown(frames) == numbers
    assert bool(doubts(how.index)) != safe
