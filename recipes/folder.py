"""The folder of a run: never two runs in one, never a run overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from jepa.files import atomic_path

CONFIG, STEPS_LOG = "config.yaml", "metrics.jsonl"
LAST = "last.ckpt"
LEAST_FREE_BYTES = 200 * 2**20


def claim(out: Path, *, resume: bool, config: str, grows: bool = False) -> None:
    """Make `out` this run's folder, and write the whole configuration into it.

    A folder with nothing but a configuration, and a log without a step, is of a run that failed
    before it began: free.
    One that `grows` may be given again, with any configuration, if it was this command's before.

    Raises:
        FileExistsError: the folder is not empty, and the run is not a resumed one, or it does not
            tell what run it holds.
        ValueError: a resumed run has another configuration than it began with, or the disk
            is full.
        OSError: the folder cannot be made or written in.
    """
    with told_where(out):
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(not says_nothing(path) for path in out.iterdir())
        free = shutil.disk_usage(out).free
    if occupied and not resume and not grows:
        raise FileExistsError(
            f"{out} is not empty. To go on with that run: --resume; for a new one: another --out"
        )
    if occupied and not (out / CONFIG).is_file():
        raise FileExistsError(
            f"{out} is not empty, and has no {CONFIG}: no run to go on with. "
            "Give another --out, or remove the folder"
        )
    if occupied and grows:
        old, new = (yaml.safe_load(text) for text in ((out / CONFIG).read_text(), config))
        if old.keys() != new.keys():
            raise FileExistsError(f"{out} holds another kind of run. Give another --out")
    elif occupied:
        changed = differences((out / CONFIG).read_text(), config)
        if changed:
            raise ValueError(
                f"the run in {out} began otherwise: {'; '.join(changed)}. Resume it "
                "as it was (--resume alone reads its own), or begin a new one: another --out "
                "(of jepa pretrain: and --init_from)"
            )
    if free < LEAST_FREE_BYTES:
        raise ValueError(f"only {free >> 20} MiB free for {out}; need {LEAST_FREE_BYTES >> 20} MiB")
    with told_where(out), atomic_path(out / CONFIG) as temporary:
        temporary.write_text(config)


def says_nothing(path: Path) -> bool:
    """Whether it is the configuration, or a log of metrics without any."""
    return path.name == CONFIG or (path.name == STEPS_LOG and not path.stat().st_size)


@contextmanager
def told_where(out: Path) -> Iterator[None]:
    """What the system refuses in the folder of a run is said so that it can be mended."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write in {out}: {error.strerror}. Give another --out") from error


def stored_config(arguments: Sequence[str]) -> list[str]:
    """`--config` of the run that `--out` names, if it has one."""
    out = value_of("--out", arguments)
    path = Path(out) / CONFIG
    return [f"--config={path}"] if out and path.is_file() else []


def value_of(option: str, arguments: Sequence[str]) -> str:
    """What is last said of an option, as `--key=value` or `--key value`; empty: nothing."""
    said = ""
    for argument, following in pairwise([*arguments, ""]):
        key, equals, value = argument.partition("=")
        if key == option:
            said = value if equals else following
    return said


def differences(before: str, now: str) -> list[str]:
    """What changed between two configurations, apart from what resuming changes: a resumed
    `jepa collect` may be asked for more episodes, not for fewer."""
    old, new = (flat(yaml.safe_load(text)) for text in (before, now))
    if "episodes" in old.keys() & new.keys():
        old["episodes"] = max(old["episodes"], new["episodes"])
    return [
        f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted({*old, *new} - {"resume", "out"})
        if old.get(key) != new.get(key)
    ]


def flat(tree: object, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows


def finished(out: Path) -> bool:
    """Whether the pretraining in `out` has ended: its encoder is written last."""
    return (out / "encoder.safetensors").is_file()
