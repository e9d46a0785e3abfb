"""`open_trajectories`: the door to episodes in every form."""

from __future__ import annotations

from pathlib import Path

from .trajectories import Trajectories
from .trajectory_store import StoredTrajectories


def open_trajectories(source: str) -> Trajectories:
    """Episodes of a source.

    Args:
        source: a folder that `jepa collect` or `TrajectoryWriter` writes, or one of what others
            have: `minari:DIR`, `robomimic:FILE` (groups data/demo_0, ...), `lerobot:DIR`
            (versions 2 and 3), `videos:DIR` (NAME.mp4 beside NAME.npz).

    Raises:
        FileNotFoundError: it is not there. ValueError: it is damaged, or of another form.
        ModuleNotFoundError: a package is needed to read it; says which.
    """
    from . import hdf5_episodes, lerobot_episodes, video_episodes

    openers = {
        "minari": hdf5_episodes.minari,
        "robomimic": hdf5_episodes.robomimic,
        "lerobot": lerobot_episodes.lerobot,
        "videos": video_episodes.video_folder,
    }
    form, colon, place = source.partition(":")
    if colon and form in openers:
        return openers[form](place)
    if colon and not Path(source).exists():
        raise ValueError(
            f"unknown form {form!r}: expected a folder, or {':..., '.join(openers)}:..."
        )
    return StoredTrajectories(source)
