"""Feature tables on disk: made in parts by one process or many, and whole or not there."""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import distributed

import jepa
from jepa.files import atomic_path
from jepa.ranks import rank, wait, world_size

log = logging.getLogger(__name__)

Said = TypeVar("Said")


@dataclass(frozen=True)
class FeatureTable:
    """Features by pooling, labels [n], and the manifest: whose features, of what.

    Features are float32 [n, D]; those of the pooling `tokens` are float16 [n, N, D]. From a folder
    the arrays are memory-mapped, read-only. `rows` is the index in the data set of whatever each
    row was made from, if the batches tell it: unreadable samples leave gaps, several views repeat.
    """

    features: dict[str, Float[np.ndarray, "n ..."]]
    labels: Int64[np.ndarray, "n"]
    manifest: dict
    rows: Int64[np.ndarray, "n"] | None = None


@runtime_checkable
class Numbered(Protocol):
    """A loader that makes its batches by number, alike each time.

    described: which samples it shows, and how they become pixels: part of a table's key.
    batch_size: how the samples are cut into batches.
    """

    @property
    def described(self) -> Mapping[str, int | str]: ...
    @property
    def batch_size(self) -> int: ...
    def __len__(self) -> int: ...
    def only(self, numbers: Sequence[int]) -> Iterable: ...


def kept(
    folder: Path,
    manifest: Mapping,
    loader: Iterable,
    compute: Callable[[Iterable, int | None], Iterable[dict[str, np.ndarray]]],
    *,
    also: Mapping,
) -> FeatureTable:
    """The table in `folder`, made and kept there if it is not.

    Each batch is a part of its own, a file that is whole or not there, beside the folder. The
    processes of a torch.distributed group share the batches; the first one puts the parts
    together, in the loader's order, and the others wait. After a crash or a kill the parts of a
    `Numbered` loader are taken up again; of any other loader the table is made anew.

    Args:
        folder: where; on a file system that all processes see.
        manifest: what the table must be of.
        loader: the batches.
        compute: (batches, how many, if known) -> the columns of each batch.
        also: what its manifest says besides.

    Raises:
        OSError: the table could not be written, or not be read again.
    """
    numbered = isinstance(loader, Numbered)
    cut = str(loader.batch_size) if numbered else secrets.token_hex(4)
    found = read(folder, manifest)
    parts = folder.parent / f".parts-{folder.name}-{cut}"
    there, parts = _as_the_first((found is not None, parts))
    if there and found is not None:
        log.info("reusing the table %s", folder)
        return found
    try:
        if not there:
            _compute_share(parts, loader, compute)
            wait()
            if rank() == 0:
                count = len(loader) if numbered else None
                _put_together(parts, count, folder, manifest, also)
            wait()
    finally:
        if not numbered:
            shutil.rmtree(parts, ignore_errors=True)
    if (table := read(folder, manifest)) is None:
        raise OSError(f"{folder} was written but cannot be read back; is the disk failing?")
    return table


def _compute_share(
    parts: Path,
    loader: Iterable,
    compute: Callable[[Iterable, int | None], Iterable[dict[str, np.ndarray]]],
) -> None:
    """Every world_size-th batch from the rank on; those that are there are left alone."""
    first, ranks = rank(), world_size()
    if isinstance(loader, Numbered):
        numbers = [n for n in range(first, len(loader), ranks) if not _part(parts, n).is_file()]
        blocks = compute(loader.only(numbers), len(numbers))
    else:
        numbers = itertools.count(first, ranks)
        blocks = compute(itertools.islice(loader, first, None, ranks), None)
    for block, number in zip(blocks, numbers, strict=False):  # to the end of the blocks
        with atomic_path(_part(parts, number)) as path, path.open("wb") as file:
            np.savez(file, **block)  # pyright: ignore[reportArgumentType]: names are no options


def _put_together(
    parts: Path, count: int | None, folder: Path, manifest: Mapping, also: Mapping
) -> None:
    """Parts to columns in a folder aside, which is then renamed into place."""
    try:
        _stream(parts, count, folder, {**manifest, **also})
    except OSError:
        if read(folder, manifest) is None:  # or else other processes were faster
            raise
    for left in folder.parent.glob(f".parts-{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _stream(parts: Path, count: int | None, folder: Path, manifest: Mapping) -> None:
    paths = sorted(parts.glob("*.npz"))
    if not paths and not count:
        raise ValueError("the loader gave no batch")
    wanted = [_part(parts, number) for number in range(count or len(paths))]
    if paths != wanted:
        missing = sorted(path.name for path in {*wanted} - {*paths})
        raise OSError(
            f"{parts}: {len(missing)} of {len(wanted)} parts are missing, {missing[:1]} first; "
            "the folder of tables must be one that all processes see"
        )
    aside = Path(tempfile.mkdtemp(dir=parts, prefix="whole-"))
    with ExitStack() as files:
        columns: dict[str, _Column] = {}
        for path in paths:
            for name, block in _read_part(path).items():
                if name not in columns:
                    columns[name] = files.enter_context(_Column(aside / f"{name}.npy", block))
                columns[name].append(block)
    full = {**manifest, "versions": _versions(), "count": columns["labels"].count}
    (aside / "manifest.json").write_text(json.dumps(full, indent=1))
    if folder.exists():  # it could not be read
        shutil.rmtree(folder)
    os.rename(aside, folder)


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:08d}.npz"


def _read_part(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as part:
            return dict(part)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        path.unlink()
        raise OSError(f"{path} was damaged ({error}) and is removed: run again") from error


class _Column:
    """An .npy file that grows by rows; numpy reserves the header's room for their number."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self.file, self.like, self.count = path.open("wb"), like, 0
        self._header()

    def __enter__(self) -> _Column:
        return self

    def append(self, rows: np.ndarray) -> None:
        rows.tofile(self.file)
        self.count += len(rows)

    def __exit__(self, *_) -> None:
        with self.file:
            self.file.seek(0)
            self._header()
            self.file.flush()
            os.fsync(self.file.fileno())

    def _header(self) -> None:
        shape = (self.count, *self.like.shape[1:])
        head = {"descr": self.like.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, head)


def read(folder: Path, expected: Mapping) -> FeatureTable | None:
    """The table in `folder`; None if there is none, or none that is whole."""
    if not (folder / "manifest.json").is_file():
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        columns = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in (*expected["poolings"], "labels", "rows")
            if name != "rows" or (folder / "rows.npy").exists()
        }
        whole = all(len(column) == manifest["count"] for column in columns.values())
    except (OSError, ValueError, KeyError) as error:
        log.warning("the table %s is damaged (%s); it is made again", folder, error)
        return None
    if not whole or any(manifest.get(key) != value for key, value in expected.items()):
        log.warning("the table %s does not match its manifest; it is made again", folder)
        return None
    return table_of(columns, manifest)


def table_of(columns: dict[str, np.ndarray], manifest: dict) -> FeatureTable:
    """Features apart from labels and rows, which are small and come into memory."""
    labels = np.asarray(columns.pop("labels"))
    rows = np.asarray(columns.pop("rows")) if "rows" in columns else None
    return FeatureTable(columns, labels, manifest, rows)


def _as_the_first(said: Said) -> Said:
    """What the first process of the group said, on all of them."""
    if world_size() == 1:
        return said
    box = [said]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "jepa": jepa.__version__,
    }
