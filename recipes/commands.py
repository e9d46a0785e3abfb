"""The commands of `jepa`: where each one is, and what it says of itself, told without importing it.

What commands are made of takes seconds to import; a list of them is there at once.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

# By name: the module beside this one, and the function in it.
COMMANDS = {
    "pretrain": ("pretrain", "pretrain"),
    "probe": ("probe", "probe"),
    "compare": ("compare", "compare"),
    "collect": ("collect", "collect"),
    "control": ("control", "control"),
    "rooms": ("rooms", "rooms"),
    "hierarchy": ("hierarchy", "hierarchy"),
    "agent": ("agent", "agent"),
    "futures": ("futures", "futures"),
    "adapt": ("adaptation", "adapt"),
    "task": ("task", "task"),
    "study": ("study", "study"),
    "demo": ("demo", "demo"),
    "report": ("report", "report"),
    "results": ("results", "results"),
    "fetch": ("fetch", "fetch"),
    "shards": ("sharding", "shards"),
    "import": ("importing", "import_"),
    "export": ("exporting", "export"),
    "models": ("models", "models"),
    "features": ("serving", "features"),
    "index": ("serving", "index"),
    "search": ("serving", "search"),
}


def command(name: str) -> Callable[..., Any]:
    """The function of a command, imported."""
    module, function = COMMANDS[name]
    return getattr(import_module(f".{module}", __package__), function)


def summary(name: str) -> str:
    """First line of a command's docstring, read from its source."""
    module, function = COMMANDS[name]
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    found = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    return (ast.get_docstring(next(found)) or "").partition("\n")[0]


def overview() -> str:
    """All commands, a line each."""
    lines = [f"  {name:10}{summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: jepa COMMAND [--config FILE.yaml] [--key=value ...]",
            "",
            "Learn, measure and control with joint-embedding prediction.",
            "",
            *lines,
            "",
            "`jepa COMMAND --help` lists the options of a command; recipes/configs/ holds recipes.",
        ]
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' with the nearest of the known words, by whole name or by last part."""
    by_tail = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6) or [
        by_tail[tail]
        for tail in difflib.get_close_matches(
            word.rpartition(".")[2], list(by_tail), n=1, cutoff=0.5
        )
    ]
    return f" Did you mean {near[0]}?" if near else ""
