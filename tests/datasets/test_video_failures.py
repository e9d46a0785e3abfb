"""Files that are no videos, are damaged, stall or crash: named, given up, and nobody is stuck."""

import os
import shutil
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from jepa.datasets import video_choice, video_process
from jepa.datasets.clip_times import ClipTimes
from jepa.datasets.clips import UnreadableVideoError
from jepa.datasets.video_choice import ReadingPlan, plan
from jepa.datasets.video_index import VideoError
from jepa.datasets.video_process import GivenUpError, ask, read_planned
from jepa.datasets.video_readers import installed, read_frames
from jepa.datasets.videos import video_files

OPTIONS = {"bf": "2", "g": "10"}
NOISE = np.random.default_rng(0).bytes(9999)
DECORD = pytest.param("decord", marks=pytest.mark.skipif(not installed("decord"), reason="absent"))
READERS = ["auto", "pyav", DECORD]


@pytest.fixture(scope="module")
def good(write, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("good") / "good.mp4", range(40), options=OPTIONS)


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        samples = np.zeros((1, 1024), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cut_late_header(good: Path, path: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def rewrap(good: Path, path: Path, **options: str) -> bytes:
    with av.open(str(good)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path.read_bytes()


def cut_early_header(good: Path, path: Path) -> None:
    data = rewrap(good, path, movflags="faststart")
    path.write_bytes(data[: len(data) * 2 // 3])


def cut_matroska(good: Path, path: Path) -> None:
    whole = path.with_name("whole.mkv")
    data = rewrap(good, whole)
    whole.unlink()
    path.write_bytes(data[: len(data) // 2])


def zeroed(good: Path, path: Path) -> None:
    data = bytearray(rewrap(good, path, movflags="faststart"))
    data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    path.write_bytes(data)


def picture(good: Path, path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path, format="jpeg")


BAD = {
    "empty": (lambda good, path: path.touch(), "InvalidDataError"),
    "text": (lambda good, path: path.write_text("no video\n" * 99), "InvalidDataError"),
    "noise": (lambda good, path: path.write_bytes(NOISE), "InvalidDataError|no video"),
    "head": (
        lambda good, path: path.write_bytes(good.read_bytes()[:100]),
        "InvalidDataError|no video",
    ),
    "missing": (lambda good, path: None, "No such file"),
    "folder": (lambda good, path: path.mkdir(), "Is a directory"),
    "sound": (lambda good, path: sound(path), "no video in this file, only audio"),
    "picture": (picture, "no video file; its content looks like jpeg_pipe"),
    "late header, cut": (cut_late_header, "InvalidDataError"),
    "early header, cut": (cut_early_header, "cut off"),
    "cut": (cut_matroska, r"cut off: 0\.5 of 1\.3 seconds"),
}


@pytest.mark.parametrize("reader", READERS)
def test_bad_files_are_named_and_the_next_one_is_read(good, tmp_path, reader):
    lines = []
    for number, (spoil, _) in enumerate(BAD.values()):
        path = tmp_path / f"bad {number}{'.mkv' if spoil is cut_matroska else '.mp4'}"
        spoil(good, path)
        lines += [f"{path.name} 0", f"{good} 1"]
    for half in ("train", "test"):
        (tmp_path / f"{half}.txt").write_text("\n".join(lines))
    videos = video_files(
        "list", tmp_path / "{split}.txt", "train", reader=reader, manifest=tmp_path / "manifest"
    )
    for number, (_, reason) in enumerate(BAD.values()):
        with pytest.raises(UnreadableVideoError, match=reason) as caught:
            videos.clip(2 * number, 0.5)
        assert f"bad {number}.m" in str(caught.value)
        assert videos.clip(2 * number + 1, 0.5).shape == (3, 16, 96, 128)


def test_a_short_matroska_file_whose_frames_are_decoded_before_they_are_shown_is_whole(
    write, tmp_path
):
    how = plan(write(tmp_path / "short.mkv", range(12), options=OPTIONS), "pyav")
    assert len(how.index) == 12


def read_all(path: Path, reader: str) -> None:
    how = plan(path, reader)
    read_frames(path, how.index, np.arange(len(how.index)), reader=how.reader)


@pytest.mark.parametrize("reader", READERS)
def test_damage_inside_a_file_is_an_error_where_it_is_met(good, tmp_path, reader):
    zeroed(good, tmp_path / "zeroed.mp4")
    with pytest.raises(VideoError):
        read_all(tmp_path / "zeroed.mp4", reader)


def test_frames_outside_and_unknown_readers_are_refused(good):
    index = plan(good, "pyav").index
    for numbers in ([40], [-1], []):
        with pytest.raises(IndexError, match=r"has frames 0 \.\.\. 39"):
            read_frames(good, index, np.array(numbers, dtype=np.int64), reader="pyav")
    with pytest.raises(ValueError, match="one of auto, decord, pyav, torchcodec; got 'cv2'"):
        plan(good, "cv2")
    if not installed("torchcodec"):
        with pytest.raises(ModuleNotFoundError, match="pip install torchcodec"):
            plan(good, "torchcodec")


def test_without_decord_pyav_reads(good, monkeypatch):
    monkeypatch.setattr(video_choice, "installed", lambda reader: reader != "decord")
    how = plan(good)
    assert (how.reader, how.why) == ("pyav", "decord is not installed")


@pytest.mark.skipif(not installed("decord"), reason="absent")
def test_the_check_finds_what_the_rules_miss(write, tmp_path, monkeypatch):
    """decord on a variant of each doubtful file: where it gives other frames, it is not chosen."""
    path = write(tmp_path / "b.ts", range(60), options={"bf": "3", "g": "12"})
    monkeypatch.setattr(video_choice, "doubts", lambda index: "")
    how = plan(path)
    assert how.reader == "pyav"
    assert "decord" in how.why


def test_where_seeking_is_wrong_frames_are_counted(write, shown, tmp_path, monkeypatch):
    """All frames marked as key frames, as in some AVI files: a seek lands between them."""
    path = write(tmp_path / "long.mp4", range(60), options={"g": "60", "bf": "0"})
    honest = video_choice.demuxed_index(path)
    wrong = video_choice.VideoIndex(**{**vars(honest), "ticks": honest.ticks + 1})
    monkeypatch.setattr(video_choice, "demuxed_index", lambda path: wrong)
    how = plan(path, "pyav")
    assert not how.index.seekable
    assert "counted" in how.why
    numbers = np.array([50, 3, 3, 17])
    assert shown(read_frames(path, how.index, numbers, reader="pyav")) == numbers.tolist()


def test_a_file_that_stalls_is_given_up(good, tmp_path):
    """A named pipe that nobody writes to: to open it waits for ever, inside C."""
    (tmp_path / "train" / "x").mkdir(parents=True)
    (tmp_path / "test" / "x").mkdir(parents=True)
    os.mkfifo(tmp_path / "train" / "x" / "1.mp4")
    for place in ("train/x/2.mp4", "test/x/1.mp4"):
        shutil.copy(good, tmp_path / place)
    videos = video_files("videos", tmp_path, "train", manifest=tmp_path / "manifest")
    videos.clip(1, 0.0)
    stalled = video_process._helpers.helper.process
    videos.limit = 1.0
    began = time.monotonic()
    with pytest.raises(UnreadableVideoError, match=r"1\.mp4: given up after 1 seconds"):
        videos.clip(0, 0.0)
    assert time.monotonic() - began < 30
    assert stalled.poll() is not None, "the process that hangs in the pipe is gone"
    videos.limit = 60.0
    began = time.monotonic()
    with pytest.raises(UnreadableVideoError, match="given up after 1 seconds"):
        videos.clip(0, 0.0)
    assert time.monotonic() - began < 1, "a file stalls a process only once"
    assert videos.clip(1, 0.0).shape == (3, 16, 96, 128)


def test_a_reading_process_that_dies_is_replaced(good):
    how = ask(good, 60.0, plan, "pyav")
    os.kill(video_process._helpers.helper.process.pid, signal.SIGKILL)
    frames = ask(good, 60.0, read_planned, how, np.array([3]), None)
    assert frames.shape == (1, 96, 128, 3)


def test_a_file_whose_reading_crashes_is_given_up(good, monkeypatch):
    def crash(helper, limit, *request):
        os.kill(helper.process.pid, signal.SIGKILL)
        return helper.connection.recv()

    monkeypatch.setattr(video_process.Helper, "ask", crash)
    with pytest.raises(GivenUpError, match="crashes"):
        ask(good, 60.0, plan, "pyav")


class Clips(Dataset):
    """What is read, or why not."""

    def __init__(self, videos):
        self.videos = videos

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        try:
            return self.videos.clip(index, 0.5).float().mean().item()
        except UnreadableVideoError as problem:
            return str(problem)


@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_forked_workers_read_although_their_parent_has_read(good, tmp_path, reader):
    """decord hangs for ever if a reader of it crosses a fork; here none ever does."""
    lines = []
    for number in range(6):
        if number % 3 == 2:
            (tmp_path / f"{number}.mp4").write_text("no video")
        else:
            shutil.copy(good, tmp_path / f"{number}.mp4")
        lines.append(f"{number}.mp4 0")
    for half in ("train", "test"):
        (tmp_path / f"{half}.txt").write_text("\n".join(lines))
    videos = video_files(
        "list", tmp_path / "{split}.txt", "train", reader=reader, manifest=tmp_path / "manifest"
    )
    expected = [Clips(videos)[index] for index in range(6)]
    if reader == "auto" and installed("decord"):
        assert videos.plan(0).reader == "decord"
    loader = DataLoader(
        Clips(videos), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=300
    )
    assert list(loader) == expected
    assert [isinstance(row, str) for row in expected] == [i % 3 == 2 for i in range(6)]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_memory_is_flat(good, write, tmp_path, reader):
    """Of the reading process, over 40 further reads of a long file and of a short one."""
    long = write(tmp_path / "long.mp4", range(250), options=OPTIONS)
    plans: list[tuple[Path, ReadingPlan]] = [
        (path, ask(path, 60.0, plan, reader)) for path in (good, long)
    ]

    def read() -> float:
        for path, how in plans:
            ask(path, 60.0, read_planned, how, np.array([len(how.index) - 9]), None)
        pid = video_process._helpers.helper.process.pid
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6

    before = max(read() for _ in range(10))
    after = max(read() for _ in range(20))
    assert after - before < 10, f"{before:.0f} MB grew to {after:.0f} MB"


def test_the_limit_is_part_of_no_fingerprint(good, tmp_path):
    (tmp_path / "train.txt").write_text(f"{good} 0\n")
    (tmp_path / "test.txt").write_text(f"{good} 0\n")
    place, manifest = tmp_path / "{split}.txt", tmp_path / "manifest"
    quick = video_files("list", place, "train", manifest=manifest, time_limit=1.0)
    slow = video_files("list", place, "train", manifest=manifest)
    other = video_files("list", place, "train", manifest=manifest, times=ClipTimes(16, fps=5.0))
    assert quick.fingerprint == slow.fingerprint != other.fingerprint
    assert torch.equal(quick.labels, slow.labels)
