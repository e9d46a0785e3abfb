"""Parts on disk: one safetensors file a module, with its constructor's arguments in the header."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from jepa.files import read_safetensors, write_safetensors
from jepa.keys import Given, count_blocks, fitted

Module = TypeVar("Module", bound=nn.Module)


def save_part(
    path: str | Path, kind: str, module: nn.Module, header: Mapping[str, Any] | None = None
) -> Path:
    """Write a module that tells its constructor's arguments as `config`.

    Args:
        path: the file, a `.safetensors`.
        kind: what it is, in a word: `encoder`, `predictor`.
        module: what is written.
        header: what else is to be known of it.
    """
    about = {"config": module.config} | dict(header or {})
    metadata = {"format": f"jepa-toolkit/{kind}/1", kind: json.dumps(about)}
    write_safetensors(path, module.state_dict(), metadata)
    return Path(path)


def load_part(
    path: str | Path, kind: str, build: Callable[[dict[str, Any]], Module]
) -> tuple[Module, dict[str, Any]]:
    """What `save_part` has written: the module, made by `build` from the header, and the header.

    Raises FileNotFoundError, and ValueError if the file is damaged or holds something else.
    """
    metadata, weights = read_safetensors(path)
    wanted = f"jepa-toolkit/{kind}/1"
    if metadata.get("format") != wanted:
        raise ValueError(
            f"{path} is no {kind} of jepa-toolkit: format {metadata.get('format')!r}, expected "
            f"{wanted!r}"
        )
    header = json.loads(metadata[kind])
    config = header["config"]
    blocks = max(count_blocks(weights, name) for name in ("blocks", "predictor_blocks"))
    if config.get("depth", 0) > max(blocks, len(weights)):
        raise ValueError(f"{path} claims a depth of {config['depth']}, but has {blocks} blocks")
    try:
        return fitted(lambda: build(header), Given(weights, str(path)))[0], header
    except TypeError as error:
        raise ValueError(f"{path}: its header does not make a {kind}: {error}") from error


def part_kind(path: str | Path, kinds: Collection[str]) -> str:
    """Which of these kinds a file holds. Raises as `load_part`."""
    told = read_safetensors(path, [])[0].get("format")
    for kind in kinds:
        if told == f"jepa-toolkit/{kind}/1":
            return kind
    raise ValueError(f"{path} is none of {sorted(kinds)} of jepa-toolkit: format {told!r}")


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's arguments out of JSON, which knows no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
