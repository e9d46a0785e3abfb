"""Choices: words that stand for one of a few things, checked where they are given."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(name: str, word: str, words: Any) -> None:
    """Raises ValueError unless `word` is one of a Literal."""
    if word not in get_args(words):
        raise ValueError(f"{name} is one of {list(get_args(words))}; got {word!r}")
