"""Files that are whole or not there, and that cannot run code when read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to; it takes the name only when all went well.

    A crash, a full disk or a kill leaves the previous file as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """A compressed .npz of named arrays and numbers, whole or not there."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """What `write_arrays` has written."""
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def load_tensors_only(path: str | Path) -> Any:
    """A torch file on the CPU, without unpickling anything but tensors and plain containers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or it is a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain containers, or is damaged; loading it could "
            f"run code, so it is refused ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or no torch file: {error}") from error


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict: every key has its place, every place its key.

    Raises:
        ValueError: keys are missing, unexpected or of a wrong shape; `what` and the first of each
            kind are named.
    """
    wanted = module.state_dict()
    kinds = (
        [f"missing {key!r}" for key in wanted if key not in weights],
        [f"unexpected {key!r}" for key in weights if key not in wanted],
        [
            f"{key!r} is {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
            for key, value in weights.items()
            if key in wanted and value.shape != wanted[key].shape
        ],
    )
    problems = [
        "; ".join(kind[:3]) + (f" and {len(kind) - 3} more" if len(kind) > 3 else "")
        for kind in kinds
        if kind
    ]
    if problems:
        raise ValueError(f"{what} does not fit: {'; '.join(problems)}")
    module.load_state_dict(dict(weights), strict=True)
