"""The action-conditioned predictor of the V-JEPA 2-AC release, read strictly."""

from __future__ import annotations

from pathlib import Path

from jepa.files import load_strictly, load_tensors_only
from jepa.official import count_blocks, section, shape_of
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
    weights = section(load_tensors_only(path), "predictor", path)
    dim, encoder_dim = shape_of(weights, "predictor_embed.weight", path)
    if heads is None and dim != RELEASED_WIDTH:
        raise ValueError(
            f"width {dim} is not the released {RELEASED_WIDTH}, and no tensor tells the number of "
            "attention heads: pass heads=..."
        )
    sizes = {
        name: shape_of(weights, f"{key}_encoder.weight", path)[1]
        for name, key in (("actions", "action"), ("states", "state"), ("extrinsics", "extrinsics"))
    }
    predictor = ActionConditionedPredictor(
        encoder_dim,
        grid,
        **sizes,
        use_extrinsics=use_extrinsics,
        dim=dim,
        depth=count_blocks(weights, "predictor_blocks"),
        heads=heads or RELEASED_HEADS,
        mlp_ratio=shape_of(weights, "predictor_blocks.0.mlp.fc1.weight", path)[0] / dim,
        positions="rope_legacy",
    )
    load_strictly(predictor, weights, f"{path}: predictor")
    return predictor
