"""Files that are whole or not there, and that cannot run code when read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


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


def load_tensors_only(path: str | Path, *, mapped: bool = False) -> Any:
    """A torch file on the CPU, without unpickling anything but tensors and plain containers.

    Before any of it is unpickled, what it holds is known to be as large as it says, and no larger
    than the file.

    Args:
        path: the file.
        mapped: tensors are parts of the file, and those that nobody looks at are never read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or it is a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain containers, or is damaged; loading it could "
            f"run code, so it is refused ({str(error).splitlines()[0]}). Where it came from, load "
            "it and save its state dicts alone"
        ) from error
    except (RuntimeError, EOFError, OSError, IndexError) as error:
        raise ValueError(f"{path} is damaged or no torch file: {error}") from error


def check_archive(path: Path) -> None:
    """Raises ValueError unless a file is an archive as torch writes them: nothing compressed, so
    that nothing in it is larger than it seems."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged or no torch file: {error}. Files of torch before 1.6 and bare "
            "pickles are not read: load them where they came from and torch.save them again"
        ) from error
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    total = sum(record.file_size for record in records)
    if packed or total > path.stat().st_size:
        raise ValueError(
            f"{path} claims {total} bytes of content in a file of {path.stat().st_size}, and has "
            f"{len(packed)} compressed records; torch writes neither: it is damaged or malicious"
        )


def read_safetensors(
    path: str | Path, keys: Collection[str] | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, whose format cannot run code and whose sizes are
    checked against the file's; `keys`: only these, None: all.

    Raises FileNotFoundError, and ValueError if it is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            wanted = file.keys() if keys is None else keys
            return file.metadata() or {}, {key: file.get_tensor(key) for key in wanted}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write_safetensors(
    path: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """A safetensors file, whole or not there, that whoever may read new files may read."""
    own = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(own, temporary, metadata=dict(metadata))
        order_metadata(temporary)
        temporary.chmod(mode)  # save_file's files are its owner's alone


def order_metadata(path: Path) -> None:
    """The metadata of a safetensors file by name: `save_file` leaves their order to chance, and
    the same content is to be the same file."""
    with open(path, "rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if found := header.get("__metadata__"):
            header["__metadata__"] = dict(sorted(found.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= length:
                file.seek(8)
                file.write(text.ljust(length))


def write_json(path: str | Path, content: Any) -> None:
    """A readable JSON file, whole or not there."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def sha256(path: str | Path) -> str:
    """64 hexadecimal digits over a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
