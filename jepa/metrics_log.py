"""Curves as JSON lines, one row a logged step; a resumed run continues the same file."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from jepa.files import atomic_path


def read_metrics(path: str | Path) -> list[dict[str, int | float]]:
    """The rows of a file, oldest first; a last row cut short by a kill is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsLog(Logger):
    """Appends `{"step", "seconds", <metric>: value, ...}` rows to `path`.

    Seconds count the time of all processes that worked on the run. Rows at or after
    `start_step` are dropped first: a resumed run makes them again.
    """

    def __init__(self, path: str | Path, *, start_step: int = 0) -> None:
        super().__init__()
        self.path = Path(path)
        kept = [r for r in read_metrics(path) if r["step"] < start_step] if start_step else []
        self._began = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)
        self._start_file("".join(json.dumps(row) + "\n" for row in kept))

    @rank_zero_only
    def _start_file(self, rows: str) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text(rows)

    @property
    def name(self) -> str:
        """Of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @property
    def seconds(self) -> float:
        """Time since the run began, in s."""
        return time.monotonic() - self._began

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row; Lightning's own counters are left out."""
        values = {k: float(v) for k, v in metrics.items() if k != "epoch"}
        if values:
            row = {"step": step or 0, "seconds": round(self.seconds, 3), **values}
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the run folder has its configuration beside this file."""
