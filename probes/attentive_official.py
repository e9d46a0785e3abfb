"""The attentive classifiers of the V-JEPA and V-JEPA 2 releases, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from jepa.files import load_strictly, load_tensors_only

from .attentive import AttentiveHead

RELEASED_WIDTHS = (1024, 1280, 1408)  # all of their classifiers have 16 attention heads

_UNUSED = tuple(f"pooler.cross_attention_block.xattn.proj.{part}" for part in ("weight", "bias"))


def load_attentive_classifier(
    path: str | Path, *, heads: int | None = None, index: int = 0
) -> AttentiveHead:
    """A classifier of an official file: logits [B, classes] from encoder tokens [B, N, D].

    Args:
        path: V-JEPA 1 files hold one `classifier`, V-JEPA 2 files a list of `classifiers`, one
            for each learning rate and weight decay that was tried.
        heads: attention heads, which no tensor shape tells; 16 for the released widths.
        index: of the classifier in the list.

    Raises:
        ValueError: a key is missing, unexpected or of a wrong shape; each is named.
    """
    weights, what = _section(load_tensors_only(path), index, path)
    if not any(".blocks." in key for key in weights) and all(key in weights for key in _UNUSED):
        for key in _UNUSED:  # V-JEPA 1's, in the file but never applied
            weights.pop(key)
    wanted_keys = ("linear.weight", "pooler.query_tokens")
    if missing := [key for key in wanted_keys if key not in weights]:
        raise ValueError(f"{what}: missing {missing}; the official layout has them")
    outputs, dim = weights["linear.weight"].shape
    if heads is None and dim not in RELEASED_WIDTHS:
        raise ValueError(
            f"width {dim} is none of the released {RELEASED_WIDTHS}, and no tensor tells the "
            "number of attention heads: pass heads=..."
        )
    blocks = {key.split(".")[2] for key in weights if key.startswith("pooler.blocks.")}
    head = AttentiveHead(dim, outputs, heads=heads or 16, depth=1 + len(blocks))
    load_strictly(head, weights, what)
    return head


def _section(checkpoint: object, index: int, path: str | Path) -> tuple[dict[str, Tensor], str]:
    """The weights of one classifier without the prefix of data-parallel training, and its name."""
    found = checkpoint if isinstance(checkpoint, Mapping) else {}
    classifiers = found.get("classifiers", [found.get("classifier")])
    if not isinstance(classifiers, list) or not all(isinstance(c, Mapping) for c in classifiers):
        given = sorted(map(str, found)) or type(checkpoint)
        raise ValueError(f"{path} holds no attentive classifier: no 'classifier(s)', but {given}")
    if not 0 <= index < len(classifiers):
        raise ValueError(f"{path} holds {len(classifiers)} classifier(s), from 0; got {index}")
    weights = {str(key).removeprefix("module."): v for key, v in classifiers[index].items()}
    return weights, f"{path}: classifier {index}"
