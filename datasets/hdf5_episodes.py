"""Episodes in HDF5 files, one group each: Minari's data sets, and files as robomimic has them."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped
from PIL import Image

from jepa.optional import optional

from .trajectories import PER_ACTION, check_steps, per_action

log = logging.getLogger(__name__)

JPEG = b"\xff\xd8\xff"  # how such files begin


class HDF5Episodes:
    """Episodes that are groups of an HDF5 file. The file is opened for each reading, and closed.

    Args:
        path: the file.
        groups: of each episode, in their order.
        fields: the data sets in a group that make each field: their rows behind one another, of
            every one after the first the last row alone.
        final: whether there is an observation after the last action. If not, that action leads
            nowhere that is known, and is left out.

    Raises ValueError where an episode lacks a field, has another number of rows, or no action.
    """

    def __init__(
        self,
        path: Path,
        groups: Sequence[str],
        fields: Mapping[str, Sequence[str]],
        *,
        final: bool = True,
    ) -> None:
        self.path, self.groups, self.fields = path, list(groups), dict(fields)
        action = next(parts[0] for name, parts in fields.items() if per_action(name))
        lengths = []
        with opened(path) as file:
            for group in groups:
                count = row_count(path, file, f"{group}/{action}")
                for name, parts in fields.items():
                    found = [row_count(path, file, f"{group}/{part}") for part in parts]
                    wanted = count + (final and len(parts) == 1 and not per_action(name))
                    if set(found) != {wanted}:
                        raise ValueError(
                            f"{path}: {group} has {count} actions; `{name}` should have {wanted} "
                            f"rows, has {found[0]}"
                        )
                lengths.append(count - (not final))
                if lengths[-1] < 1:
                    raise ValueError(
                        f"{path}: {group} has {count} actions, none with an observation after it: "
                        "delete that group"
                    )
        self._lengths = np.array(lengths, dtype=np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Fields."""
        return tuple(self.fields)

    @property
    def lengths(self) -> Int64[np.ndarray, " E"]:
        """Actions of each episode."""
        return self._lengths

    def read(
        self, name: str, episodes: Int64[np.ndarray, " B"], steps: Int64[np.ndarray, "B n"]
    ) -> Shaped[np.ndarray, "B n ..."]:
        """See `Trajectories`."""
        check_steps(self, name, episodes, steps)
        with opened(self.path) as file:
            pairs = zip(episodes.tolist(), steps, strict=True)
            return np.stack([self._read(file, name, *pair) for pair in pairs])

    def _read(
        self, file: Any, name: str, episode: int, steps: Int64[np.ndarray, " n"]
    ) -> np.ndarray:
        group, (first, *more) = file[self.groups[episode]], self.fields[name]
        low, high = int(steps.min()), int(steps.max()) + 1
        found = group[first][low:high]  # one stretch: HDF5 is slow at picking rows
        if more and high > len(group[first]):
            found = np.concatenate([found, group[more[0]][-1:]])
        return decoded(found[steps - low])


def minari(folder: str | Path) -> HDF5Episodes:
    """A Minari data set stored as HDF5: `DIR/data/main_data.hdf5`.

    Fields have Minari's names: `observations`, `actions`, `rewards`, `terminations`,
    `truncations` and `infos`, dictionaries and tuples with dots. Text is left out; images that
    are kept as JPEG are decoded.
    """
    folder = Path(folder)
    path = next(
        (p for p in (folder / "data/main_data.hdf5", folder / "main_data.hdf5") if p.is_file()),
        None,
    )
    if path is None:
        raise FileNotFoundError(
            f"no data/main_data.hdf5 in {folder}: expected the folder of one Minari data set, "
            "stored with data_format='hdf5'"
        )
    with opened(path) as file:
        groups = numbered(file, "episode_")
        found = arrays_in(file[groups[0]]) if groups else {}
    if not groups:
        raise ValueError(f"{path} has no groups episode_0, episode_1, ...: is it Minari's?")
    known = ("observations", *PER_ACTION, "infos")
    names = {part: name.replace("._index_", ".") for part, name in found.items()}
    fields = {name: [part] for part, name in names.items() if name.partition(".")[0] in known}
    return HDF5Episodes(path, groups, fields)


def robomimic(path: str | Path) -> HDF5Episodes:
    """A file with groups `data/demo_0`, ...: `actions`, `obs/NAME`, perhaps `next_obs/NAME`.

    `obs/NAME` becomes `observations.NAME`, `dones` become `terminations`, and the simulator's
    `states` are left out. Where there is no `next_obs` the last action of an episode is left out:
    nobody knows what it led to. `terminations` tell no end then, as it was that action's.
    """
    path = Path(path)
    with opened(path) as file:
        if "data" not in file or not (groups := numbered(file["data"], "demo_")):
            raise ValueError(
                f"{path} has no groups data/demo_0, data/demo_1, ...: robomimic's form"
            )
        found = arrays_in(file["data"][groups[0]])
    groups = [f"data/{group}" for group in groups]
    after = {part for part in found if part.startswith("next_obs/")}
    names = {"actions": "actions", "rewards": "rewards", "dones": "terminations"}
    fields = {names[part]: [part] for part in found if part in names}
    for part in found:
        if part.startswith("obs/"):
            name = "observations." + part.removeprefix("obs/").replace("/", ".")
            fields[name] = [part, f"next_{part}"] if after else [part]
    if "actions" not in fields or not any(name.startswith("observations") for name in fields):
        raise ValueError(f"{path}: {groups[0]} needs `actions` and `obs/...`; has {sorted(found)}")
    return HDF5Episodes(path, groups, fields, final=bool(after))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file. Raises FileNotFoundError, and ValueError where it is damaged or no HDF5 file."""
    h5py = optional("h5py", extra="hdf5", purpose=f"reading {path}")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is damaged, or no HDF5 file: {error}") from error
    with file:
        yield file


def numbered(group: Mapping[str, Any], start: str) -> list[str]:
    """The keys that are `start` and a number, in the numbers' order."""
    keys = [key for key in group if re.fullmatch(start + r"\d+", key)]
    return sorted(keys, key=lambda key: int(key.removeprefix(start)))


def arrays_in(group: Any) -> dict[str, str]:
    """Places of all data sets of numbers, or of images, below a group, with dotted names."""
    found, left_out = {}, []

    def visit(place: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            bytes_of_images = (item.dtype.metadata or {}).get("vlen") == np.uint8
            if (item.dtype.kind in "biuf" or bytes_of_images) and item.shape:
                found[place] = place.replace("/", ".")
            else:
                left_out.append(place)

    group.visititems(visit)
    if left_out:
        log.info("%s: no numbers, left out: %s", group.name, ", ".join(left_out))
    return found


def decoded(found: np.ndarray) -> np.ndarray:
    """Rows as they are, or images [n, H, W, C] where the rows are the bytes of JPEG files."""
    encoded = found.dtype == object or (found.dtype == np.uint8 and found.ndim == 2)
    if not encoded or bytes(found[0][:3]) != JPEG:
        return found
    return np.stack([np.asarray(Image.open(io.BytesIO(row.tobytes()))) for row in found])


def row_count(path: Path, file: Any, place: str) -> int:
    """Rows of a data set."""
    if place not in file:
        raise ValueError(f"{path} lacks {place}, which other episodes have")
    return file[place].shape[0]
