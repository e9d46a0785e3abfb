"""The action-conditioned predictor of the V-JEPA 2-AC release, read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jepa.blocks import ratio_of
from jepa.files import load_tensors_only
from jepa.keys import KeyTable, count_blocks, fitted, shape_of
from jepa.official import section
from jepa.shapes import Grid

from .ac_predictor import ActionConditionedPredictor

RELEASED_WIDTH, RELEASED_HEADS, RELEASED_GRID = 1024, 16, (16, 16)


def load_official_ac(
    path: str | Path,
    *,
    heads: int | None = None,
    grid: Grid = RELEASED_GRID,
    use_extrinsics: bool = False,
) -> ActionConditionedPredictor:
    """The predictor of an official V-JEPA 2-AC checkpoint; `load_frozen_encoder` reads its encoder.

    Args:
        path: the `.pt` file.
        heads: attention heads, which no tensor shape tells; 16 for the released width.
        grid: (h, w) in patches of the frames, which no tensor tells either.
        use_extrinsics: whether it was trained with the camera's pose; the release was not.

    Raises:
        ValueError: a key is missing, unexpected or of a wrong shape; each is named.
    """
    return official_ac(
        load_tensors_only(path, mapped=True),
        path,
        heads=heads,
        grid=grid,
        use_extrinsics=use_extrinsics,
    )[0]


def official_ac(
    checkpoint: object,
    path: str | Path,
    *,
    heads: int | None = None,
    grid: Grid = RELEASED_GRID,
    use_extrinsics: bool = False,
    allow: Sequence[str] = (),
) -> tuple[ActionConditionedPredictor, KeyTable]:
    """`load_official_ac` of a file that has been read, and what became of its keys."""
    given = section(checkpoint, "predictor", path)
    weights = given.weights
    dim, encoder_dim = shape_of(weights, "predictor_embed.weight", given.what)
    if heads is None and dim != RELEASED_WIDTH:
        raise ValueError(
            f"width {dim} is not the released {RELEASED_WIDTH}, and no tensor tells the number of "
            "attention heads: pass heads=... (--heads N)"
        )
    sizes = {
        name: shape_of(weights, f"{key}_encoder.weight", given.what)[1]
        for name, key in (("actions", "action"), ("states", "state"), ("extrinsics", "extrinsics"))
    }
    hidden = shape_of(weights, "predictor_blocks.0.mlp.fc1.weight", given.what)[0]
    return fitted(
        lambda: ActionConditionedPredictor(
            encoder_dim,
            grid,
            **sizes,
            use_extrinsics=use_extrinsics,
            dim=dim,
            depth=count_blocks(weights, "predictor_blocks"),
            heads=heads or RELEASED_HEADS,
            mlp_ratio=ratio_of(hidden, dim),
            positions="rope_legacy",
        ),
        given,
        allow=allow,
    )
