"""Weights by name: where every tensor of a file goes, in a table, and nothing silently random."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from jepa import seeds

Fate = Literal["loaded", "renamed", "dropped", "missing", "unexpected", "misshapen"]
FAULTS: tuple[Fate, ...] = ("missing", "unexpected", "misshapen")
Pieces: TypeAlias = Callable[[str], Sequence[str]]
"""Where a layout keeps one of our tensors: in one of its own, in several that stand below one
another (queries, keys, values), or in row i of one: `name[i]`."""

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Row:
    """One key of a file, or one that it lacks.

    key: as the file has it.
    note: our name of a loaded or renamed key; else the reason.
    """

    key: str
    fate: Fate
    note: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class KeyTable:
    """What became of every key."""

    rows: tuple[Row, ...] = ()

    @classmethod
    def whole(cls, module: nn.Module) -> KeyTable:
        """Of a module all of whose tensors were in the file, under its own names."""
        shapes = shapes_of(module).items()
        return cls(tuple(Row(key, "loaded", key, tuple(shape)) for key, shape in shapes))

    def __add__(self, other: KeyTable) -> KeyTable:
        return KeyTable(self.rows + other.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def of(self, *fates: Fate) -> list[Row]:
        """The rows of these fates."""
        return [row for row in self.rows if row.fate in fates]

    def summary(self) -> str:
        """How many keys met each fate."""
        counts = Counter(row.fate for row in self.rows)
        return ", ".join(f"{count} {fate}" for fate, count in counts.items())

    def text(self) -> str:
        """One line a key."""
        width = max((len(row.key) for row in self.rows), default=0)
        return "\n".join(
            f"{row.fate:10} {row.key:{width}}  {'x'.join(map(str, row.shape)):14} {row.note}"
            for row in self.rows
        )


class MisfitError(ValueError):
    """A file does not fit: keys are missing, unexpected or of a wrong shape; `table` has all."""

    def __init__(self, message: str, table: KeyTable) -> None:
        super().__init__(message)
        self.table = table


@dataclass(frozen=True)
class Given:
    """Tensors of one part of a file.

    weights: by the names of the layout, without the prefixes that wrappers leave.
    what: how messages call the part.
    prefix: what the keys have before these names in the file.
    """

    weights: Mapping[str, Tensor]
    what: str
    prefix: str = ""

    def row(self, key: str, fate: Fate, note: str) -> Row:
        """A row of the table about one of these keys, present or not."""
        shape = tuple(self.weights[key].shape) if key in self.weights else ()
        return Row(self.prefix + key, fate, note, shape)


def itself(key: str) -> Sequence[str]:
    """The pieces of a layout that names tensors as we do."""
    return (key,)


def match(
    wanted: Mapping[str, torch.Size],
    given: Given,
    *,
    pieces: Pieces = itself,
    dropped: Mapping[str, str] | None = None,
    allow: Sequence[str] = (),
) -> tuple[dict[str, Tensor], KeyTable]:
    """Our tensors, put together from those of a file.

    Args:
        wanted: shape of each of our tensors.
        given: what the file has.
        pieces: the file's names of each of them.
        dropped: keys of the file that are not ours, with the reason; not all need be there.
        allow: keys that may be missing or left over all the same, by the file's names or by
            patterns such as `head.*`.

    Raises:
        MisfitError: keys are missing, unexpected or of a wrong shape; the first of each kind are
            named.
    """
    dropped = dropped or {}
    state: dict[str, Tensor] = {}
    rows: list[Row] = []
    used: set[str] = set()
    for ours, shape in wanted.items():
        names = pieces(ours)
        used |= {name.partition("[")[0] for name in names}
        parts = list(located(ours, shape, given, names, rows))
        if len(parts) == len(names):
            state[ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
    for key in given.weights:
        if key in dropped:
            rows.append(given.row(key, "dropped", dropped[key]))
        elif key not in used:
            rows.append(given.row(key, "unexpected", "no place for it"))
    table = KeyTable(tuple(rows))
    if said := "; ".join(filter(None, (faults(given, table, f, allow) for f in FAULTS))):
        raise MisfitError(f"{given.what} does not fit: {said}", table)
    return state, table


def located(
    ours: str, shape: torch.Size, given: Given, names: Sequence[str], rows: list[Row]
) -> Iterator[Tensor]:
    """The pieces of one of our tensors that are there and of the right shape; adds their rows."""
    fate: Fate = "loaded" if list(names) == [ours] else "renamed"
    wanted = (shape[0] // len(names), *shape[1:]) if shape else ()
    for name in names:
        key = name.partition("[")[0]
        if key not in given.weights:
            rows.append(given.row(key, "missing", f"of our {ours}"))
            continue
        part = piece(given.weights, name)
        if ours.endswith("patch_embed.proj.weight") and len(wanted) == 2:
            part = part.flatten(1)  # of a convolution
        if part.shape == wanted:
            rows.append(given.row(key, fate, ours))
            yield part
        else:
            shapes = f"{tuple(given.weights[key].shape)}, expected {tuple(wanted)}"
            rows.append(given.row(key, "misshapen", shapes))


def faults(given: Given, table: KeyTable, fate: Fate, allow: Sequence[str]) -> str:
    """The first three keys of a fate that is a fault, in words, but for those that are allowed."""
    keys = {row.key.removeprefix(given.prefix): row for row in table.of(fate)}
    said = [
        f"{key!r} is {row.note}" if fate == "misshapen" else f"{fate} {key!r}"
        for key, row in keys.items()
        if fate == "misshapen" or not any(fnmatchcase(key, pattern) for pattern in allow)
    ]
    return "; ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")


def piece(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor `name`, or row i of it: `name[i]`; nothing, if it has no such row."""
    key, _, number = name.partition("[")
    if not number:
        return weights[key]
    return weights[key][int(number[:-1]) :][:1].squeeze(0)


def taken_apart(state: Mapping[str, Tensor], pieces: Pieces) -> dict[str, Tensor]:
    """Our tensors as a layout keeps them: what `match` undoes."""
    found: dict[str, Tensor] = {}
    rows: dict[str, dict[int, Tensor]] = {}
    for ours, value in state.items():
        names = pieces(ours)
        for name, part in zip(names, value.chunk(len(names)), strict=True):
            key, _, number = name.partition("[")
            if number:
                rows.setdefault(key, {})[int(number[:-1])] = part
            else:
                found[key] = part.contiguous()
    for key, parts in rows.items():
        found[key] = torch.stack([parts[i] for i in range(len(parts))])
    return found


def fitted(build: Callable[[], Module], given: Given, **options: Any) -> tuple[Module, KeyTable]:
    """A module with the weights of a file, and the table of keys; options as of `match`.

    Nothing is allocated before every key and shape is known to fit. Keys that are missing by
    permission keep the values of a fresh module, drawn from a named seed.

    Raises MisfitError.
    """
    with torch.device("meta"):
        module = build()
    state, table = match(shapes_of(module), given, **options)
    if len(state) == len(module.state_dict()):
        module.load_state_dict({key: owned(value) for key, value in state.items()}, assign=True)
        return module, table
    with seeds.weights(0, "missing keys"):
        module = build()
    module.load_state_dict(state, strict=False)
    return module, table


def owned(value: Tensor) -> Tensor:
    """A copy in memory of its own, numbers in float32."""
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict: every key has its place, every place its key. Raises MisfitError."""
    state, _ = match(shapes_of(module), Given(weights, what))
    module.load_state_dict(state)


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """Shape of each tensor of a module's state."""
    return {key: value.shape for key, value in module.state_dict().items()}


def shape_of(weights: Mapping[str, Tensor], key: str, what: str | object = "") -> torch.Size:
    """Shape of a tensor that the layout has; raises ValueError if this file lacks it."""
    if key not in weights:
        raise ValueError(f"{what}: missing {key!r}; the layout has it")
    return weights[key].shape


def require(given: Given, *keys: str, why: str) -> None:
    """Raises MisfitError unless keys that are not ours, but of the layout, are there."""
    if absent := [key for key in keys if key not in given.weights]:
        table = KeyTable(tuple(given.row(key, "missing", why) for key in absent))
        named = "; ".join(f"missing {key!r}" for key in absent)
        raise MisfitError(f"{given.what} does not fit: {named}", table)


def count_blocks(weights: Mapping[str, Tensor], blocks: str) -> int:
    """How many numbered blocks there are: one more than the largest number after `blocks`."""
    pattern = re.compile(re.escape(blocks) + r"\.(\d+)\.")
    numbers = [int(found.group(1)) for key in weights if (found := pattern.match(key))]
    return min(1 + max(numbers, default=-1), len(weights))
