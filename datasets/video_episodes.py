"""Episodes whose pictures are in video files: folders of `NAME.mp4` and `NAME.npz`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from jaxtyping import Int64, Shaped
from PIL import Image

from jepa.files import read_arrays

from .trajectories import EpisodeArrays, check_steps, per_action
from .video_index import VideoError, VideoIndex, demuxed_index
from .video_readers import read_frames


@dataclass(frozen=True)
class Stretch:
    """Where an episode's frames are: in a file, from frame number `first` on."""

    path: Path
    index: VideoIndex
    first: int = 0

    def __len__(self) -> int:
        """Frames from there to the end of the file."""
        return len(self.index) - self.first

    def frames(self, steps: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n H W 3"]:
        """RGB frames, decoded exactly. Raises ValueError where they cannot be."""
        try:
            return read_frames(self.path, self.index, self.first + steps, reader="pyav")
        except VideoError as error:
            raise ValueError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class Pictures:
    """An episode's frames as image files in memory, decoded when they are asked for."""

    files: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.files)

    def frames(self, steps: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n H W 3"]:
        """RGB frames."""
        images = [Image.open(io.BytesIO(self.files[step])) for step in steps]
        return np.stack([np.asarray(image.convert("RGB")) for image in images])


class VideoEpisodes:
    """Episodes with frames in video files, and all other fields in memory.

    Args:
        arrays: the other fields.
        videos: by field, the T + 1 frames of each episode.

    Raises ValueError where there are fewer frames.
    """

    def __init__(
        self, arrays: EpisodeArrays, videos: Mapping[str, Sequence[Stretch | Pictures]]
    ) -> None:
        self.arrays, self.videos = arrays, dict(videos)
        for name, stretches in videos.items():
            for number, (stretch, length) in enumerate(zip(stretches, arrays.lengths, strict=True)):
                if len(stretch) <= length:
                    where = stretch.path if isinstance(stretch, Stretch) else name
                    raise ValueError(
                        f"{where} has {len(stretch)} frames for episode {number}; its {length} "
                        f"actions need {length + 1}"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """Fields."""
        return (*self.arrays.names, *self.videos)

    @property
    def lengths(self) -> Int64[np.ndarray, " E"]:
        """Actions of each episode."""
        return self.arrays.lengths

    def read(
        self, name: str, episodes: Int64[np.ndarray, " B"], steps: Int64[np.ndarray, "B n"]
    ) -> Shaped[np.ndarray, "B n ..."]:
        """See `Trajectories`."""
        check_steps(self, name, episodes, steps)
        if name in self.arrays.names:
            return self.arrays.read(name, episodes, steps)
        stretches = [self.videos[name][episode] for episode in episodes]
        return np.stack([s.frames(which) for s, which in zip(stretches, steps, strict=True)])


def video_folder(folder: str | Path) -> VideoEpisodes:
    """A folder with `NAME.mp4` and `NAME.npz` for each episode, in the order of the names.

    The arrays must have the names of fields, `actions` [T, A] among them; the frames, T + 1,
    become `observations.pixels`. If there are T frames only, the last action is left out.

    Raises FileNotFoundError where there are no pairs, ValueError for damaged or unlike ones.
    """
    videos = sorted(Path(folder).glob("*.mp4"))
    lone = [p.name for p in videos if not p.with_suffix(".npz").is_file()]
    if not videos or lone:
        raise FileNotFoundError(
            f"{folder} should have NAME.npz for every NAME.mp4; it has {len(videos)} .mp4"
            + (f", and none for {', '.join(lone[:3])}" if lone else "")
        )
    episodes, stretches = [], []
    for path in videos:
        stretch = Stretch(path, indexed(path))
        fields = arrays_of(path.with_suffix(".npz"))
        if "actions" not in fields:
            raise ValueError(f"{path.with_suffix('.npz')} has no `actions`; has {sorted(fields)}")
        if len(stretch.index) == len(fields["actions"]):
            fields = without_last_action(fields)
        episodes.append(fields)
        stretches.append(stretch)
    return VideoEpisodes(joined(episodes, videos), {"observations.pixels": stretches})


def without_last_action(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """T observations and T actions: nobody knows what the last action led to."""
    return {name: array[:-1] if per_action(name) else array for name, array in fields.items()}


def joined(episodes: Sequence[Mapping[str, np.ndarray]], whose: Sequence[Path]) -> EpisodeArrays:
    """Flat arrays of episodes that all have the fields, and right numbers of rows."""
    for episode, path in zip(episodes, whose, strict=True):
        length = len(episode["actions"])
        counts = {name: len(array) - (not per_action(name)) for name, array in episode.items()}
        if episode.keys() != episodes[0].keys() or set(counts.values()) != {length}:
            raise ValueError(
                f"the episode of {path} should have the fields {sorted(episodes[0])}, with T rows "
                f"of actions and rewards and T + 1 of others; it has "
                f"{ {name: len(array) for name, array in episode.items()} }"
            )
    lengths = np.array([len(episode["actions"]) for episode in episodes], dtype=np.int64)
    return EpisodeArrays(
        lengths, {n: np.concatenate([e[n] for e in episodes]) for n in episodes[0]}
    )


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """An .npz. Raises ValueError where it is damaged or holds objects."""
    try:
        return read_arrays(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, or holds more than arrays: {error}") from error


def indexed(path: Path) -> VideoIndex:
    """The frames of a video file. Raises ValueError where it is damaged or no video."""
    try:
        return demuxed_index(path)
    except (VideoError, FFmpegError) as error:
        raise ValueError(f"{path} cannot be read as a video: {error}") from error
