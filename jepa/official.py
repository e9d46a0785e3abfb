"""The official I-JEPA release (facebookresearch/ijepa, weights CC BY-NC 4.0), read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only
from jepa.model import JEPA
from jepa.positions import sincos_2d
from jepa.predictor import Predictor

HEADS_OF_RELEASES = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}

Which = Literal["target_encoder", "encoder"]


def load_ijepa_encoder(
    path: str | Path, *, which: Which = "target_encoder", heads: int | None = None
) -> VisionTransformer:
    """The encoder of an official I-JEPA checkpoint.

    Args:
        path: the `.pth.tar` file.
        which: the slow target encoder, which the paper evaluates, or the trained one.
        heads: attention heads, which no tensor shape tells; known for the released widths.

    Raises:
        ValueError: a key is missing, unexpected or of a wrong shape; each is named.
    """
    weights = _section(load_tensors_only(path), which, path)
    encoder = _build_encoder(weights, heads)
    _load(encoder, weights, {"pos_embed": encoder.dim}, encoder.native_grid, f"{path}: {which}")
    return encoder


def load_ijepa(path: str | Path, *, heads: int | None = None) -> JEPA:
    """Encoder, predictor and target encoder of an official I-JEPA checkpoint, ready to train on.

    `heads` as in `load_ijepa_encoder`; the release gives the predictor the same number.
    """
    checkpoint = load_tensors_only(path)
    encoder_weights = _section(checkpoint, "encoder", path)
    predictor_weights = _section(checkpoint, "predictor", path)
    encoder = _build_encoder(encoder_weights, heads)
    dim = _shape(predictor_weights, "predictor_embed.weight", path)[0]
    predictor = Predictor(
        encoder_dim=encoder.dim,
        native_grid=encoder.native_grid,
        dim=dim,
        depth=_depth(predictor_weights, "predictor_blocks"),
        heads=encoder.config["heads"],
        mlp_ratio=_shape(predictor_weights, "predictor_blocks.0.mlp.fc1.weight", path)[0] / dim,
    )
    model = JEPA(encoder=encoder, predictor=predictor)
    grid = encoder.native_grid
    _load(encoder, encoder_weights, {"pos_embed": encoder.dim}, grid, f"{path}: encoder")
    _load(predictor, predictor_weights, {"predictor_pos_embed": dim}, grid, f"{path}: predictor")
    target_weights = _section(checkpoint, "target_encoder", path)
    target = f"{path}: target_encoder"
    _load(model.target.encoder, target_weights, {"pos_embed": encoder.dim}, grid, target)
    return model


def _section(checkpoint: object, name: str, path: str | Path) -> dict[str, Tensor]:
    """One state dict of the file, without the prefix that data-parallel training leaves."""
    section = checkpoint.get(name) if isinstance(checkpoint, Mapping) else None
    if not isinstance(section, Mapping):
        found = (
            sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint)
        )
        raise ValueError(f"{path} is no I-JEPA checkpoint: no {name!r} in it, but {found}")
    return {str(key).removeprefix("module."): value for key, value in section.items()}


def _shape(weights: Mapping[str, Tensor], key: str, path: str | Path = "") -> torch.Size:
    if key not in weights:
        raise ValueError(f"{path}: missing {key!r}; the official layout has it")
    return weights[key].shape


def _depth(weights: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max(
        (int(k.split(".")[1]) for k in weights if k.startswith(blocks + ".")), default=-1
    )


def _build_encoder(weights: Mapping[str, Tensor], heads: int | None) -> VisionTransformer:
    dim, channels, patch, _ = _shape(weights, "patch_embed.proj.weight")
    side = round(_shape(weights, "pos_embed")[1] ** 0.5)
    heads = heads or HEADS_OF_RELEASES.get(dim)
    if heads is None:
        raise ValueError(
            f"width {dim} is none of the released {sorted(HEADS_OF_RELEASES)}, and no tensor tells "
            "the number of attention heads: pass heads=..."
        )
    return VisionTransformer(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        dim=dim,
        depth=_depth(weights, "blocks"),
        heads=heads,
        mlp_ratio=_shape(weights, "blocks.0.mlp.fc1.weight")[0] / dim,
    )


def _load(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    tables: Mapping[str, int],
    grid: tuple[int, int],
    what: str,
) -> None:
    """Strict loading: every key has its place, every place its key.

    Position tables (`tables`: key to width) are not parameters here; they are compared with
    ours and refused where they differ.
    """
    weights = dict(weights)
    for key, dim in tables.items():
        table = weights.pop(key, None)
        if table is None:
            raise ValueError(f"{what}: missing {key!r}")
        ours = sincos_2d(dim, grid, grid)
        if table.shape != (1, *ours.shape) or (table[0] - ours).abs().max() > 1e-4:
            raise ValueError(
                f"{what}: {key!r} {tuple(table.shape)} is not I-JEPA's fixed sine-cosine table "
                f"on a {grid[0]}x{grid[1]} grid (column first): another model's weights?"
            )
    patch = "patch_embed.proj.weight"
    if patch in weights:
        weights[patch] = weights[patch].flatten(1)
    wanted = module.state_dict()
    problems = [f"missing {key!r}" for key in wanted.keys() - weights.keys()]
    problems += [f"unexpected {key!r}" for key in weights.keys() - wanted.keys()]
    problems += [
        f"{key!r} is {tuple(weights[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted.keys() & weights.keys()
        if weights[key].shape != wanted[key].shape
    ]
    if problems:
        raise ValueError(f"{what} does not fit: " + "; ".join(sorted(problems)))
    module.load_state_dict(weights, strict=True)
