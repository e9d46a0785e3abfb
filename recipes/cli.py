"""The command `jepa`: sub-commands, typed configuration, and errors that say what to type."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

from .commands import COMMANDS, command, did_you_mean, overview


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
    # These take seconds, for which what is above need not wait.
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from jepa.keys import FAULTS, KeyTable, MisfitError

    from .fit import StoppedError
    from .parsing import run

    quiet()
    try:
        return run(command(name), rest)
    except (
        ValueError,
        OSError,
        ModuleNotFoundError,
        StoppedError,
        MisconfigurationException,
    ) as error:
        print(f"jepa {name}: error: {error}", file=sys.stderr)
        if isinstance(error, MisfitError):
            print(KeyTable(tuple(error.table.of(*FAULTS))).text(), file=sys.stderr)
        return 1


def quiet() -> None:
    """What is ours is told; of others only warnings, less Lightning's and the expected ones."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("jepa").setLevel(logging.INFO)
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
