"""Clips per second of each video reader, and memory after 1,000 files: see `--help`.

Prints the Markdown tables that stand in benchmarks/README.md, of the given files and of one that
it makes: 960 frames, 320x240, 30 per second, with B-frames and a key frame every 250. Clips per
second are of processor time, all threads together, and of the clock through the reading process.

    jepa fetch --into data/clips
    python benchmarks/video_readers.py data/clips/*/*
"""

# The type checker does not see the folders that `jepa/__init__.py` joins.
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from jepa.datasets.clip_times import ClipTimes
from jepa.datasets.video_choice import plan
from jepa.datasets.video_index import VideoError
from jepa.datasets.video_process import TIME_LIMIT, ask, read_planned
from jepa.datasets.video_readers import installed, read_frames

READERS = [name for name in ("decord", "pyav", "torchcodec") if installed(name)]
RESIDENT = 1  # field of /proc/PID/statm: pages in memory
PAGE_MB = 4096 / 1e6


def made_file(folder: Path) -> Path:
    """A drifting texture as an MP4 file."""
    path = folder / "made.mp4"
    texture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "2", "g": "250"})
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for number in range(960):
            shown = np.ascontiguousarray(texture[number // 6 :][:240, number // 4 :][:, :320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown)))
        container.mux(stream.encode(None))
    return path


def rates(path: Path, reader: str, times: ClipTimes, size: int, clips: int) -> tuple[float, float]:
    """Clips per second, opening included: of processor time in this process, and of the clock
    through the reading process."""
    how = plan(path, reader)
    places = np.random.default_rng(0).uniform(size=clips)
    picked = [times.pick(how.index.seconds, place) for place in places]
    ask(path, TIME_LIMIT, read_planned, how, picked[0], size)  # starts the process
    began = time.process_time()
    for frames in picked:
        read_frames(path, how.index, frames, reader=how.reader, short_side=size)
    here = time.process_time() - began
    began = time.perf_counter()
    for frames in picked:
        ask(path, TIME_LIMIT, read_planned, how, frames, size)
    return clips / here, clips / (time.perf_counter() - began)


def memory(paths: list[Path], reader: str, reads: int) -> None:
    """Print the resident memory in MB after a tenth of `reads` openings and after all of them."""
    plans = [(path, plan(path, reader)) for path in paths]
    for number in range(1, reads + 1):
        path, how = plans[number % len(plans)]
        middle = np.array([len(how.index) // 2])
        read_frames(path, how.index, middle, reader=how.reader, short_side=128)
        if number in (reads // 10, reads):
            pages = int(Path("/proc/self/statm").read_text().split()[RESIDENT])
            print(f"{pages * PAGE_MB:.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="video files, beside the made one")
    parser.add_argument("--clips", type=int, default=10, help="timed per file and reader")
    parser.add_argument("--frames", type=int, default=16, help="of a clip, every 4th one")
    parser.add_argument("--size", type=int, default=128, help="pixels of the shorter side")
    parser.add_argument("--reads", type=int, default=1000, help="for the memory")
    parser.add_argument("--memory-of", choices=READERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        memory(given.files, given.memory_of, given.reads)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [made_file(Path(folder)), *given.files]
        print(f"{given.clips} clips of {given.frames} frames each\n")
        print("| file | reader | clips/s | through the reading process |\n|---|---|---|---|")
        for path in files:
            for reader in READERS:
                try:
                    times = ClipTimes(given.frames, step=4)
                    here, there = rates(path, reader, times, given.size, given.clips)
                except VideoError as problem:
                    print(f"| {path.name} | {reader} | {problem} | |", flush=True)
                    continue
                print(f"| {path.name} | {reader} | {here:.1f} | {there:.1f} |", flush=True)
        tenth = given.reads // 10
        print(f"\n| reader | files | MB after {tenth} reads | MB after {given.reads} |")
        print("|---|---|---|---|")
        for reader in READERS:
            readable = [path for path in files if can_read(path, reader)]
            command = [sys.executable, __file__, "--memory-of", reader, "--reads", str(given.reads)]
            done = subprocess.run([*command, *readable], stdout=subprocess.PIPE, text=True)
            print(f"| {reader} | {len(readable)} | {' | '.join(done.stdout.split())} |", flush=True)


def can_read(path: Path, reader: str) -> bool:
    """Whether a reader reads the middle of a file."""
    try:
        how = plan(path, reader)
        read_frames(path, how.index, np.array([len(how.index) // 2]), reader=how.reader)
    except VideoError:
        return False
    return True


if __name__ == "__main__":
    main()
