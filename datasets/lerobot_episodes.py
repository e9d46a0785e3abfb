"""LeRobot's data sets, versions 2 and 3: parquet for numbers, mp4 or parquet for cameras."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from jepa.optional import optional

from .trajectories import EpisodeArrays, per_action
from .video_episodes import Pictures, Stretch, VideoEpisodes, indexed

log = logging.getLogger(__name__)

SPECIAL = {"action": "actions", "next.reward": "rewards", "next.done": "terminations"}
KEPT = ("timestamp", "task_index")  # of what LeRobot keeps about every frame


def lerobot(folder: str | Path) -> VideoEpisodes:
    """A LeRobot data set on disk: `meta/info.json`, `data/`, `videos/`.

    `action` becomes `actions`, `observation.NAME` `observations.NAME`, `next.reward` `rewards`,
    `next.done` `terminations`; `timestamp` and `task_index` are in `infos`. LeRobot keeps no
    observation after an episode's last action, so that action is left out, and with it the one
    `next.done` that is true: `terminations` tell no end. Matrices are left out, too.

    Raises FileNotFoundError for another folder or lost files, ValueError for damaged ones.
    """
    folder = Path(folder)
    info = read_info(folder)
    features: dict[str, dict[str, Any]] = info["features"]
    fields = {key: name for key in features if (name := field_of(key, features[key]))}
    table = read_parquet(folder / "data", ["episode_index", "frame_index", *fields])
    order = np.lexsort((table["frame_index"], table["episode_index"]))
    numbers, frames = np.unique(table["episode_index"], return_counts=True)
    if frames.min() < 2:
        raise ValueError(f"{folder}: episode {numbers[frames.argmin()]} has one frame, no action")
    last = np.zeros(len(order), dtype=bool)
    last[np.cumsum(frames) - 1] = True
    arrays, videos = {}, {}
    for key, name in fields.items():
        vector = name.startswith(("actions", "observations"))
        if features[key]["dtype"] == "image":
            files = np.split(table[key][order], np.cumsum(frames)[:-1])
            videos[name] = [Pictures(episode.tolist()) for episode in files]
            continue
        values = table[key][order].reshape(-1, *(features[key]["shape"] if vector else ()))
        arrays[name] = values[~last] if per_action(name) else values
    for key, feature in features.items():
        if feature["dtype"] == "video":
            name = key.replace("observation.", "observations.", 1)
            videos[name] = stretches(folder, info, key, numbers)
    return VideoEpisodes(EpisodeArrays(frames.astype(np.int64) - 1, arrays), videos)


def read_info(folder: Path) -> dict[str, Any]:
    """`meta/info.json`."""
    path = folder / "meta/info.json"
    if not path.is_file():
        raise FileNotFoundError(f"no meta/info.json in {folder}: is it a LeRobot data set?")
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
        if "action" not in info["features"]:
            raise ValueError("no feature `action`")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not LeRobot's: {error!r}") from error
    if not version.startswith(("v2.", "v3.")):
        raise ValueError(f"{path}: expected version v2.x or v3.x of the format, got {version}")
    return info


def field_of(key: str, feature: dict[str, Any]) -> str:
    """Our name of one of LeRobot's features; "" for what is no field or cannot be read."""
    if feature["dtype"] in ("video", "string"):
        return ""
    if feature["dtype"] != "image" and len(feature["shape"]) > 1:
        log.warning("%s is left out: it is a matrix inside of parquet files", key)
        return ""
    if key.startswith("observation."):
        return key.replace("observation.", "observations.", 1)
    return SPECIAL.get(key) or (f"infos.{key}" if key in KEPT else "")


def read_parquet(folder: Path, columns: list[str]) -> dict[str, np.ndarray]:
    """Columns of all parquet files below a folder, as arrays."""
    parquet = optional("pyarrow.parquet", extra="lerobot", purpose=f"reading {folder}")
    paths = sorted(folder.rglob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"no parquet files in {folder}")
    parts: dict[str, list[np.ndarray]] = {column: [] for column in columns}
    for path in paths:
        try:
            table = parquet.read_table(path, columns=columns)
            for column in columns:
                values = table[column].to_numpy()
                if values.dtype == object and isinstance(values[0], dict):  # images
                    values = np.array([value["bytes"] for value in values], dtype=object)
                    if None in values:
                        raise ValueError(f"the images of {column} are not in it")
                elif values.dtype == object:
                    values = np.stack(values)
                parts[column].append(values)
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are of these kinds
            raise ValueError(f"{path} is damaged, or lacks columns: {error}") from error
    return {column: np.concatenate(found) for column, found in parts.items()}


def stretches(
    folder: Path, info: dict[str, Any], camera: str, numbers: np.ndarray
) -> list[Stretch]:
    """Where the frames of each episode are: version 3 has several episodes in a file."""
    index_of = functools.cache(indexed)
    if info["codebase_version"].startswith("v2."):
        size = info.get("chunks_size", 1000)
        paths = [
            info["video_path"].format(video_key=camera, episode_index=n, episode_chunk=n // size)
            for n in numbers.tolist()
        ]
        return [Stretch(folder / path, index_of(folder / path)) for path in paths]
    keys = [f"videos/{camera}/{what}" for what in ("chunk_index", "file_index", "from_timestamp")]
    table = read_parquet(folder / "meta/episodes", ["episode_index", *keys])
    found = {}
    columns = [table[key].tolist() for key in ("episode_index", *keys)]
    for number, chunk, file, begin in zip(*columns, strict=True):
        place = info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
        index = index_of(folder / place)
        first = int(np.abs(index.seconds - begin).argmin())
        found[number] = Stretch(folder / place, index, first)
    if lost := set(numbers.tolist()) - set(found):
        raise ValueError(f"{folder}/meta/episodes does not tell of episodes {sorted(lost)[:5]}")
    return [found[number] for number in numbers.tolist()]
