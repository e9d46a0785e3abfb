"""The attentive classifiers of the V-JEPA and V-JEPA 2 releases, read strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jepa.files import load_tensors_only
from jepa.keys import Given, KeyTable, count_blocks, fitted, require, shape_of
from jepa.official import plain

from .attentive import AnticipationHead, AttentiveHead

RELEASED_WIDTHS = (1024, 1280, 1408)  # all of their classifiers have 16 attention heads

QUESTIONS = ("verb", "noun", "action")  # of EPIC-KITCHENS, in the order of their queries

_UNUSED = tuple(f"pooler.cross_attention_block.xattn.proj.{part}" for part in ("weight", "bias"))


def load_attentive_classifier(
    path: str | Path, *, heads: int | None = None, index: int = 0
) -> AttentiveHead | AnticipationHead:
    """A classifier of an official file: logits [B, classes] from encoder tokens [B, N, D].

    Those of EPIC-KITCHENS give a dictionary of logits for `verb`, `noun` and `action`, or for
    `action` alone; their tokens are the encoder's and then the predictor's.

    Args:
        path: V-JEPA 1 files hold one `classifier`, V-JEPA 2 files a list of `classifiers`, one
            for each learning rate and weight decay that was tried.
        heads: attention heads, which no tensor shape tells; 16 for the released widths.
        index: of the classifier in the list.

    Raises:
        ValueError: a key is missing, unexpected or of a wrong shape; each is named.
    """
    return official_classifier(
        load_tensors_only(path, mapped=True), path, heads=heads, index=index
    )[0]


def official_classifier(
    checkpoint: object,
    path: str | Path,
    *,
    heads: int | None = None,
    index: int = 0,
    allow: Sequence[str] = (),
) -> tuple[AttentiveHead | AnticipationHead, KeyTable]:
    """`load_attentive_classifier` of a file that has been read, and what became of its keys."""
    given = _section(checkpoint, index, path)
    weights = given.weights
    several = "action_classifier.weight" in weights
    last = "action_classifier" if several else "linear"
    dim = shape_of(weights, f"{last}.weight", given.what)[1]
    if heads is None and dim not in RELEASED_WIDTHS:
        raise ValueError(
            f"width {dim} is none of the released {RELEASED_WIDTHS}, and no tensor tells the "
            "number of attention heads: pass heads=... (--heads N)"
        )
    deeper = count_blocks(weights, "pooler.blocks")
    unused = {} if deeper else dict.fromkeys(_UNUSED, "in V-JEPA 1's file, and never applied")
    require(given, *unused, why="in V-JEPA 1's file, though never applied")
    options = {"heads": heads or 16, "depth": 1 + deeper}

    def build() -> AttentiveHead | AnticipationHead:
        if several:
            return AnticipationHead(dim, _questions(given), **options)
        return AttentiveHead(dim, len(weights["linear.weight"]), **options)

    return fitted(build, given, dropped=unused, allow=allow)


def _questions(given: Given) -> dict[str, int]:
    """Question -> classes; those without verbs and nouns have one query, for the action."""
    queries = shape_of(given.weights, "pooler.query_tokens", given.what)[1]
    asked = QUESTIONS if queries > 1 else QUESTIONS[-1:]
    name = "{}_classifier.weight".format
    return {q: shape_of(given.weights, name(q), given.what)[0] for q in asked}


def _section(checkpoint: object, index: int, path: str | Path) -> Given:
    """The weights of one classifier without the prefix of data-parallel training."""
    found = checkpoint if isinstance(checkpoint, Mapping) else {}
    classifiers = found.get("classifiers", [found.get("classifier")])
    if not isinstance(classifiers, list) or not all(isinstance(c, Mapping) for c in classifiers):
        given = sorted(map(str, found)) or type(checkpoint)
        raise ValueError(f"{path} holds no attentive classifier: no 'classifier(s)', but {given}")
    if not 0 <= index < len(classifiers):
        raise ValueError(f"{path} holds {len(classifiers)} classifier(s), from 0; got {index}")
    what = f"classifiers[{index}]" if "classifiers" in found else "classifier"
    return plain(classifiers[index], f"{path}: classifier {index}", what)
