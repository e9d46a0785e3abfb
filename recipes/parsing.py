"""Functions as commands: their parameters are the options, and errors say what to type."""

from __future__ import annotations

import inspect
import io
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser
from pytorch_lightning.utilities import rank_zero_only

from jepa import seeds

from ..datasets.datamodule import DataModule
from .commands import did_you_mean
from .folder import CONFIG, claim, stored_config, value_of

# What names data, and is neither null nor a file of options.
SOURCE = re.compile(r"(?!null$|.*\.(ya?ml|json)$)[^-{\[\s][^{\[]*")
YES, NO = ("true", "yes", "on"), ("false", "no", "off")  # as YAML has them
GROWING = ("compare", "features")  # commands that know what each part is of, and add to it


def run(command: Callable[..., Any], arguments: list[str]) -> int:
    """Parse, build the parts under the run's seed, claim the output folder, go.

    Where several processes run one command, the first claims the folder, and alone prints.
    """
    parser = parser_of(command)
    arguments = with_values(command, arguments)
    resumed = value_of("--resume", arguments).lower() in YES
    if resumed and not any(a.startswith("--config") for a in arguments):
        stored, out = stored_config(arguments), value_of("--out", arguments)
        said = {a.partition("=")[0] for a in arguments if a.startswith("-")}
        if out and not stored and said == {"--out", "--resume"}:
            raise ValueError(f"no run to go on with in {out}: there is no {Path(out) / CONFIG}")
        arguments = [*stored, *arguments]
    config = parser.parse_args(arguments)
    first = rank_zero_only.rank == 0  # pyright: ignore[reportFunctionMemberAccess]: Lightning's
    if "out" in config and first and not config.get("dry_run"):
        shown = parser.dump(config, skip_unset=False)
        grows = command.__name__ in GROWING
        claim(Path(config.out), resume=config.get("resume", False), grows=grows, config=shown)
    torch.manual_seed(seeds.derive(config.get("seed", 0), "init"))
    built = parser.instantiate(config)
    built.pop("config", None)
    parts = built.as_dict() if hasattr(built, "as_dict") else built
    with nullcontext() if first else redirect_stdout(io.StringIO()):
        return int(command(**parts) or 0)


def with_values(command: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a bare first one is the value of the first option, a bare flag, such
    as --resume, is given its value, and data that are named by their source alone, such as
    --data=photographs, by --data.source."""
    hints = typing.get_type_hints(command)
    if arguments and not arguments[0].startswith("-"):
        arguments = [f"--{first_option(command)}={arguments[0]}", *arguments[1:]]
    flags = {f"--{name}" for name, hint in hints.items() if hint is bool}
    sets = {
        f"--{name}"
        for name, hint in hints.items()
        if any(isinstance(k, type) and issubclass(k, DataModule) for k in typing.get_args(hint))
    }
    found = []
    for argument, following in pairwise([*arguments, ""]):
        key, equals, value = argument.partition("=")
        source = value if equals else following
        if key in sets and SOURCE.fullmatch(source):
            found.append(f"{key}.source{equals}{value}")
        else:
            bare = argument in flags and following.lower() not in (*YES, *NO)
            found.append(f"{argument}=true" if bare else argument)
    return found


def first_option(command: Callable[..., Any]) -> str:
    """What a bare first argument stands for, as in `jepa import FILE`."""
    return next(iter(inspect.signature(command).parameters))


def summary(command: Callable[..., Any]) -> str:
    """First line of a command's docstring."""
    return (inspect.getdoc(command) or "").partition("\n")[0]


def parser_of(command: Callable[..., Any]) -> Parser:
    """The options of a command are the parameters of its function."""
    says = f"{summary(command)} A bare first argument is --{first_option(command)}."
    parser = Parser(prog=f"jepa {name_of(command)}", description=says)
    parser.known = sorted(known_keys(command))
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    parser.add_function_arguments(command, fail_untyped=True)
    return parser


def name_of(command: Callable[..., Any]) -> str:
    """What a command is called; Python's own words end in an underscore: `import_`."""
    return command.__name__.rstrip("_")


class Parser(ArgumentParser):
    """Errors in one line, with the nearest known key."""

    known: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser of a part; its owner comes back here
            super().error(message, ex)
        unknown = re.search(
            r"[Oo]ption '([\w.]+)'|unrecognized arguments: --([\w.]+)|option: --([\w.]+)", message
        )
        owner = re.search(r"key \"([\w.]+)\"|Group '([\w.]+)'", message)
        words = [next(filter(None, found.groups())) for found in (owner, unknown) if found]
        hint = did_you_mean(".".join(words), self.known) if unknown else ""
        print(f"{self.prog}: error: {' '.join(message.split())}.{hint}", file=sys.stderr)
        print(f"Options: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def known_keys(command: Callable[..., Any], prefix: str = "") -> Iterator[str]:
    """Every key that the command's configuration may have, dotted."""
    hints = typing.get_type_hints(command.__init__ if isinstance(command, type) else command)
    for name in inspect.signature(command).parameters:
        yield prefix + name
        for part in classes_in(hints.get(name)):
            yield from known_keys(part, f"{prefix}{name}.")


def classes_in(hint: Any) -> Iterator[type]:
    """The classes of this project that a type names, e.g. in Callable[..., Predictor] | None."""
    if isinstance(hint, type) and hint.__module__.startswith("jepa."):
        yield hint
    for part in typing.get_args(hint):
        if not isinstance(part, list):
            yield from classes_in(part)
