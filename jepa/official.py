"""Official checkpoints, read strictly: I-JEPA, V-JEPA and V-JEPA 2 (facebookresearch).

The released weights are non-commercial (CC BY-NC 4.0) or as their model cards say. What tensor
shapes tell is read from them; what they do not tell is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from jepa.encoder import VisionTransformer
from jepa.files import load_strictly, load_tensors_only
from jepa.losses import Distance
from jepa.model import JEPA
from jepa.positions import Positions, sincos
from jepa.predictor import Predictor

IMAGE_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
VIDEO_HEADS = IMAGE_HEADS | {1408: 22}
VIDEO_PREDICTOR_HEADS: dict[Positions, int] = {"sincos": 16, "rope": 12, "rope_legacy": 12}
NOMINAL_FRAMES, NOMINAL_SIDE = 16, 256  # of rotary encoders, whose tensors tell neither

Which = Literal["target_encoder", "encoder"]


def load_official_encoder(
    path: str | Path,
    *,
    which: Which = "target_encoder",
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    positions: Positions | None = None,
) -> VisionTransformer:
    """The encoder of an official I-JEPA, V-JEPA or V-JEPA 2 checkpoint.

    Args:
        path: the `.pth.tar` or `.pt` file.
        which: the slow target encoder, which the papers evaluate, or the trained one.
        heads: attention heads, which no tensor shape tells; known for the released widths.
        frames: length of the clips that a video encoder with added positions was trained on.
        positions: of a video encoder; None: as the file tells. A predictor without a table of
            positions says that they are rotary, and of V-JEPA 2's legacy style.

    Raises:
        ValueError: a key is missing, unexpected or of a wrong shape; each is named.
    """
    checkpoint = load_tensors_only(path)
    weights = section(checkpoint, which, path)
    positions = positions or _positions(checkpoint, weights, path)
    encoder = _build_encoder(weights, heads, frames, positions)
    _load(encoder, weights, _tables(encoder), f"{path}: {which}")
    return encoder


def load_official(
    path: str | Path,
    *,
    heads: int | None = None,
    predictor_heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    positions: Positions | None = None,
) -> JEPA:
    """Encoder, predictor and target encoder of an official checkpoint, ready to train on.

    Args as `load_official_encoder`; `predictor_heads`: I-JEPA's are the encoder's, those of
    V-JEPA 16 and of V-JEPA 2 12 in all releases.
    """
    checkpoint = load_tensors_only(path)
    sections = {
        name: section(checkpoint, name, path) for name in ("encoder", "predictor", "target_encoder")
    }
    positions = positions or _positions(checkpoint, sections["encoder"], path)
    encoder = _build_encoder(sections["encoder"], heads, frames, positions)
    weights = sections["predictor"]
    dim = shape_of(weights, "predictor_embed.weight", path)[0]
    usual = VIDEO_PREDICTOR_HEADS[positions] if encoder.video else encoder.heads
    if "mask_token" in weights:
        weights["mask_tokens.0"] = weights.pop("mask_token")
    predictor = Predictor(
        encoder_dim=encoder.dim,
        native_grid=encoder.native_grid,
        dim=dim,
        depth=count_blocks(weights, "predictor_blocks"),
        heads=predictor_heads or usual,
        mlp_ratio=shape_of(weights, "predictor_blocks.0.mlp.fc1.weight", path)[0] / dim,
        mask_tokens=sum(key.startswith("mask_tokens.") for key in weights),
        positions=positions,
    )
    distance: Distance = "l1" if encoder.video else "smooth_l1"
    model = JEPA(encoder=encoder, predictor=predictor, distance=distance)
    tables = _tables(encoder)
    _load(encoder, sections["encoder"], tables, f"{path}: encoder")
    _load(predictor, weights, _tables(predictor), f"{path}: predictor")
    _load(model.target.encoder, sections["target_encoder"], tables, f"{path}: target_encoder")
    return model


def section(checkpoint: object, name: str, path: str | Path) -> dict[str, Tensor]:
    """One state dict of the file, without the prefixes that wrappers leave."""
    section = checkpoint.get(name) if isinstance(checkpoint, Mapping) else None
    if not isinstance(section, Mapping):
        found = (
            sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint)
        )
        raise ValueError(f"{path} is no official checkpoint: no {name!r} in it, but {found}")
    return {
        str(key).removeprefix("module.").removeprefix("backbone."): value
        for key, value in section.items()
    }


def shape_of(weights: Mapping[str, Tensor], key: str, path: str | Path = "") -> torch.Size:
    if key not in weights:
        raise ValueError(f"{path}: missing {key!r}; the official layout has it")
    return weights[key].shape


def count_blocks(weights: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max(
        (int(k.split(".")[1]) for k in weights if k.startswith(blocks + ".")), default=-1
    )


def _positions(checkpoint: object, weights: Mapping[str, Tensor], path: str | Path) -> Positions:
    """Rotary where neither encoder nor predictor has a table, or only the encoder has one: some
    V-JEPA 2 files carry a `pos_embed` that their model does not use."""
    video = len(shape_of(weights, "patch_embed.proj.weight", path)) == 5
    tables = "pos_embed" in weights and "predictor_pos_embed" in section(
        checkpoint, "predictor", path
    )
    return "rope_legacy" if video and not tables else "sincos"


def _build_encoder(
    weights: Mapping[str, Tensor], heads: int | None, frames: int, positions: Positions
) -> VisionTransformer:
    dim, channels, *tubelet, patch, _ = shape_of(weights, "patch_embed.proj.weight")
    frames = frames if tubelet else 1
    side = NOMINAL_SIDE // patch
    if positions == "sincos":
        tokens = shape_of(weights, "pos_embed")[1]
        side = round((tokens / (frames / (tubelet or [1])[0])) ** 0.5)
    known = VIDEO_HEADS if tubelet else IMAGE_HEADS
    heads = heads or known.get(dim)
    if heads is None:
        raise ValueError(
            f"width {dim} is none of the released {sorted(known)}, and no tensor tells "
            "the number of attention heads: pass heads=..."
        )
    return VisionTransformer(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        frames=frames,
        tubelet_size=tubelet[0] if tubelet else 1,
        positions=positions,
        dim=dim,
        depth=count_blocks(weights, "blocks"),
        heads=heads,
        mlp_ratio=shape_of(weights, "blocks.0.mlp.fc1.weight")[0] / dim,
    )


def _tables(module: VisionTransformer | Predictor) -> dict[str, Tensor | None]:
    """The position table that the official layout has of a module; None: whatever it holds."""
    key = "pos_embed" if isinstance(module, VisionTransformer) else "predictor_pos_embed"
    if module.positions != "sincos":
        return {"pos_embed": None} if key == "pos_embed" else {}
    return {key: sincos(module.dim, module.native_grid, module.native_grid)}


def _load(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    tables: Mapping[str, Tensor | None],
    what: str,
) -> None:
    """`load_strictly` in the official layout.

    Position tables are not parameters here; they are compared with ours and refused where they
    differ. One that the model does not use is dropped.
    """
    weights = dict(weights)
    for key, ours in tables.items():
        table = weights.pop(key, None)
        if ours is None:
            continue
        if table is None:
            raise ValueError(f"{what}: missing {key!r}")
        if table.shape != (1, *ours.shape) or (table[0] - ours).abs().max() > 1e-4:
            raise ValueError(
                f"{what}: {key!r} {tuple(table.shape)} is not the fixed sine-cosine table "
                f"{tuple(ours.shape)} of its model: another model's weights, or of clips of "
                "another length (pass frames=...)?"
            )
    patch = "patch_embed.proj.weight"
    if patch in weights:
        weights[patch] = weights[patch].flatten(1)
    load_strictly(module, weights, what)
