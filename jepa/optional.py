"""Packages that few need: imported late, with an error that says what to type."""

from __future__ import annotations

import importlib
from typing import Any


def optional(package: str, *, extra: str, purpose: str) -> Any:
    """The package. Raises ModuleNotFoundError that names the extra of this project it is in."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        root = package.partition(".")[0]
        raise ModuleNotFoundError(
            f"{purpose} needs {root}: pip install {root}, or pip install 'jepa-toolkit[{extra}]'"
        ) from error
