"""Tables that many calls share: made once for each device, whoever asks first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

CPU = torch.device("cpu")

Arguments = ParamSpec("Arguments")
Table = TypeVar("Table")


def shared_table(make: Callable[Arguments, Table]) -> Callable[Arguments, Table]:
    """Keeps what `make` gives for its last 256 arguments, which are to be hashable; nobody may
    write to it.

    What is kept is made of ordinary tensors, also when it is first asked for in
    `torch.inference_mode`, whose tensors cannot be learnt with later, or in `torch.export`, whose
    tensors have no numbers. torch.compile makes it a part of its graph.
    """

    @functools.lru_cache(maxsize=256)
    def kept(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Table:
        with torch.inference_mode(False), _disable_current_modes():
            return make(*args, **kwargs)

    @functools.wraps(make)
    def table(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Table:
        if torch.compiler.is_dynamo_compiling():
            return make(*args, **kwargs)
        return kept(*args, **kwargs)

    return table
