"""Results are data: `result.json` of every run, and the page made from the published ones."""

from __future__ import annotations

import json
import math
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from jepa.files import atomic_path

PACKAGES = (
    "jepa-toolkit",
    "torch",
    "torchvision",
    "timm",
    "pytorch-lightning",
    "scikit-learn",
    "faiss-cpu",
    "numpy",
)


class Measured(TypedDict):
    """A number and its 95 % interval; both ends equal the value where there is none."""

    value: float
    low: float
    high: float


def exactly(value: float | int) -> Measured:
    """A number without an interval."""
    return Measured(value=float(value), low=float(value), high=float(value))


class Result(TypedDict):
    """What a recipe found, and how to find it again."""

    recipe: str
    command: str
    seed: int
    seconds: float
    versions: dict[str, str]
    metrics: dict[str, Measured]
    baselines: dict[str, Measured]


def versions() -> dict[str, str]:
    """Python's and the packages' that results depend on."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def command_line() -> str:
    """As it was typed, without the interpreter's path; `jepa` for `python -m jepa.recipes.cli`."""
    name = Path(sys.argv[0]).name
    return shlex.join(["jepa" if name == "cli.py" else name, *sys.argv[1:]])


def write_result(
    out: Path,
    *,
    recipe: str,
    seed: int,
    seconds: float,
    metrics: Mapping[str, Measured],
    baselines: Mapping[str, Measured],
) -> Result:
    """Write `out`/result.json atomically; returns it."""
    result = Result(
        recipe=recipe,
        command=command_line(),
        seed=seed,
        seconds=round(seconds, 1),
        versions=versions(),
        metrics=dict(metrics),
        baselines=dict(baselines),
    )
    with atomic_path(out / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    return result


def read_result(path: str | Path) -> Result:
    """One result file."""
    return json.loads(Path(path).read_text())


def rows_of(result: Result) -> list[tuple[str, Measured]]:
    """(name, number) rows: each metric followed by its baselines."""
    rows = []
    for name, value in result["metrics"].items():
        rows.append((name, value))
        rows += [
            (key, base) for key, base in result["baselines"].items() if key.endswith("/" + name)
        ]
    return rows


def shown(value: Measured) -> str:
    """0.8123 (0.8046 to 0.8198)."""
    if value["low"] == value["high"] or math.isnan(value["value"]):
        return f"{value['value']:.4g}"
    return f"{value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"


def results(*, docs: Path = Path("docs")) -> None:
    """Write RESULTS.md from the published results.

    Args:
        docs: folder with results/*.json; RESULTS.md is written beside them.
    """
    files = sorted((docs / "results").glob("*.json"))
    if not files:
        raise FileNotFoundError(f"no {docs}/results/*.json: publish a run's result.json there")
    parts = [
        "# Results\n\nMade by `make results` from `docs/results/`; 95 % intervals in brackets.\n"
    ]
    for result in map(read_result, files):
        rows = "\n".join(f"| {name} | {shown(value)} |" for name, value in rows_of(result))
        packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        parts.append(
            f"## {result['recipe']}\n\n`{result['command']}`, seed {result['seed']}, "
            f"{result['seconds'] / 60:.1f} minutes\n\n| number | value |\n|---|---|\n{rows}\n\n"
            f"{packages}\n"
        )
    with atomic_path(docs / "RESULTS.md") as temporary:
        temporary.write_text("\n".join(parts))
    print(f"{docs / 'RESULTS.md'}: {len(files)} results")
