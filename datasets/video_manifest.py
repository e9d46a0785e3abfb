"""What was found out about video files, kept on disk: each is looked into once."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jepa.files import atomic_path

from .video_choice import ReadingPlan

log = logging.getLogger(__name__)

FORMAT = 1  # of the entries; to be raised when plans are made in another way
PLACE = "~/.cache/jepa/videos"


class VideoManifest:
    """A folder with one small JSON file per video, so that any number of processes can add to it.

    An entry holds for one size and time of change of its file, and for one version of the readers.

    Args:
        folder: made when the first entry is written; one that cannot be written to is read only.
    """

    def __init__(self, folder: str | Path = PLACE) -> None:
        self.folder = Path(folder).expanduser()

    def get(self, path: Path, reader: str) -> ReadingPlan | None:
        """How to read a file, when `reader` was asked for; None if that is not known.

        Raises FileNotFoundError if there is no such file.
        """
        wanted = of(path, reader)
        try:
            entry = json.loads(self._entry(path, reader).read_text())
            return ReadingPlan.from_json(entry["plan"]) if entry["of"] == wanted else None
        except (OSError, ValueError, KeyError, TypeError, zlib.error):  # none, or a damaged one
            return None

    def put(self, path: Path, reader: str, plan: ReadingPlan) -> None:
        """Remember how to read a file."""
        try:
            with atomic_path(self._entry(path, reader)) as temporary:
                temporary.write_text(json.dumps({"of": of(path, reader), "plan": plan.to_json()}))
        except OSError as problem:
            log.warning("what is known of %s is not remembered: %s", path, problem)

    def _entry(self, path: Path, reader: str) -> Path:
        name = hashlib.sha256(f"{reader} {path.absolute()}".encode()).hexdigest()[:24]
        return self.folder / name[:2] / f"{name}.json"


def of(path: Path, reader: str) -> dict[str, Any]:
    """What an entry depends on."""
    stat = path.stat()
    return {
        "format": FORMAT,
        "path": str(path.absolute()),
        "bytes": stat.st_size,
        "changed_ns": stat.st_mtime_ns,
        "reader": reader,
        "av": installed_version("av"),
        "decord": installed_version("decord"),
    }


def installed_version(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
