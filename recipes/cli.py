"""The command `jepa`: sub-commands, typed configuration, and errors that say what to type."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jepa.keys import FAULTS, KeyTable, MisfitError

from .adaptation import adapt
from .agent import agent
from .collect import collect
from .compare import compare
from .control import control
from .demo import demo
from .exporting import export
from .fetch import fetch
from .fit import StoppedError
from .futures import futures
from .hierarchy import hierarchy
from .importing import import_
from .models import models
from .parsing import did_you_mean, name_of, run, summary
from .pretrain import pretrain
from .probe import probe
from .report import report
from .results import results
from .rooms import rooms
from .serving import features, index, search
from .sharding import shards
from .study import study
from .task import task

COMMANDS: dict[str, Callable[..., Any]] = {
    name_of(command): command
    for command in (
        pretrain,
        probe,
        compare,
        collect,
        control,
        rooms,
        hierarchy,
        agent,
        futures,
        adapt,
        task,
        study,
        demo,
        report,
        results,
        fetch,
        shards,
        import_,
        export,
        models,
        features,
        index,
        search,
    )
}


EXPECTED = (ValueError, OSError, ModuleNotFoundError, StoppedError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name not in COMMANDS:
        print(f"jepa: no command {name!r}.{did_you_mean(name, COMMANDS)}\n\n{overview()}")
        return 2
    quiet()
    try:
        return run(COMMANDS[name], rest)
    except EXPECTED as error:
        print(f"jepa {name}: error: {error}", file=sys.stderr)
        if isinstance(error, MisfitError):
            print(KeyTable(tuple(error.table.of(*FAULTS))).text(), file=sys.stderr)
        return 1


def overview() -> str:
    """All commands, a line each."""
    lines = [f"  {name:10}{summary(command)}" for name, command in COMMANDS.items()]
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


def quiet() -> None:
    """Lightning's advertisements and expected warnings off; ours on."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*in eval mode at the start of training.*",
        ".*LeafSpec.*",
        ".*num_workers.*",
        ".*no `val_dataloader`.*",
        ".*FSDP2-wrapped module .* returned a view tensor.*",  # which is read, never written to
    ):
        warnings.filterwarnings("ignore", message=message)


if __name__ == "__main__":
    sys.exit(main())
