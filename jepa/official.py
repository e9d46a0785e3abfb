"""Official checkpoints, read strictly: I-JEPA, V-JEPA and V-JEPA 2 (facebookresearch).

The weights of I-JEPA and V-JEPA are non-commercial (CC BY-NC 4.0), those of V-JEPA 2 as their
model cards say. What tensor shapes tell is read from them; what they do not tell is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jepa.blocks import ratio_of
from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only
from jepa.keys import Given, KeyTable, MisfitError, Row, count_blocks, fitted, require, shape_of
from jepa.losses import Distance
from jepa.model import JEPA
from jepa.positions import Positions, sincos
from jepa.predictor import Predictor
from jepa.shapes import Grid

IMAGE_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
VIDEO_HEADS = IMAGE_HEADS | {1408: 22}
VIDEO_PREDICTOR_HEADS: dict[Positions, int] = {"sincos": 16, "rope": 12, "rope_legacy": 12}
PREDICTOR_WIDTH = 384
NOMINAL_FRAMES, NOMINAL_SIDE = 16, 256  # of rotary encoders, whose tensors tell neither

Which = Literal["target_encoder", "encoder", "ema_encoder"]

WRAPPERS = ("module.backbone.", "module.", "backbone.")
FIXED = "the fixed sine-cosine table, made anew for every size; compared"
UNUSED = "positions of this model are rotary: it never uses the table"


def load_official_encoder(
    path: str | Path,
    *,
    which: Which = "target_encoder",
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    image_size: int | None = None,
    positions: Positions | None = None,
    allow: Sequence[str] = (),
) -> VisionTransformer:
    """The encoder of an official I-JEPA, V-JEPA or V-JEPA 2 checkpoint.

    Args:
        path: the `.pth.tar` or `.pt` file.
        which: the slow target encoder, which the papers evaluate, or the trained one; V-JEPA 2.1
            calls the former `ema_encoder`.
        heads: attention heads, which no tensor shape tells; known for the released widths.
        frames: length of the clips that a video encoder with added positions was trained on.
        image_size: native side of a rotary encoder, in pixels, which no tensor tells; 256 if not
            given, and it changes no feature.
        positions: of a video encoder; None: as the file tells. A predictor without a table of
            positions says that they are rotary, and of V-JEPA 2's legacy style.
        allow: keys that may be missing or left over, see `jepa.keys.match`.

    Raises:
        ValueError: a key is missing, unexpected or of a wrong shape; each is named.
    """
    return official_encoder(
        load_tensors_only(path, mapped=True),
        path,
        which=which,
        heads=heads,
        frames=frames,
        image_size=image_size,
        positions=positions,
        allow=allow,
    )[0]


def load_official(
    path: str | Path,
    *,
    heads: int | None = None,
    predictor_heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    image_size: int | None = None,
    positions: Positions | None = None,
) -> JEPA:
    """Encoder, predictor and target encoder of an official checkpoint, ready to train on.

    Args as `load_official_encoder`; `predictor_heads`: I-JEPA's are the encoder's, those of
    V-JEPA 16 and of V-JEPA 2 12 in all releases.
    """
    checkpoint = load_tensors_only(path, mapped=True)
    encoder, target = (
        official_encoder(
            checkpoint,
            path,
            which=which,
            heads=heads,
            frames=frames,
            image_size=image_size,
            positions=positions,
        )[0]
        for which in ("encoder", "target_encoder")
    )
    predictor, _ = official_predictor(checkpoint, path, encoder, heads=predictor_heads)
    distance: Distance = "l1" if encoder.video else "smooth_l1"
    model = JEPA(encoder=encoder, predictor=predictor, distance=distance)
    model.target.encoder.load_state_dict(target.state_dict())
    return model


def official_encoder(
    checkpoint: object,
    path: str | Path,
    *,
    which: Which = "target_encoder",
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    image_size: int | None = None,
    positions: Positions | None = None,
    allow: Sequence[str] = (),
) -> tuple[VisionTransformer, KeyTable]:
    """`load_official_encoder` of a file that has been read, and what became of its keys."""
    given = section(checkpoint, which, path)
    weights = given.weights
    if any(key.startswith("norms_block.") for key in weights):
        raise ValueError(
            f"{given.what} is of V-JEPA 2.1, whose encoder has a norm for each of several levels "
            "and no last one (`norms_block`): this layout is not read"
        )
    return build_encoder(
        given,
        heads=heads,
        frames=frames,
        image_size=image_size,
        positions=positions or _positions(checkpoint, given),
        allow=allow,
    )


def official_predictor(
    checkpoint: object,
    path: str | Path,
    encoder: VisionTransformer,
    *,
    heads: int | None = None,
    allow: Sequence[str] = (),
) -> tuple[Predictor, KeyTable]:
    """The predictor of a file, which belongs to this encoder, and what became of its keys."""
    given = section(checkpoint, "predictor", path)
    weights = given.weights
    dim = shape_of(weights, "predictor_embed.weight", given.what)[0]
    single = "mask_token" in weights  # I-JEPA's
    tokens = 1 if single else sum(key.startswith("mask_tokens.") for key in weights)
    if encoder.video and heads is None and dim != PREDICTOR_WIDTH:
        raise ValueError(
            f"{given.what}: width {dim} is not the released {PREDICTOR_WIDTH}, and no tensor "
            "tells the number of attention heads: pass predictor_heads=..., or only_encoder"
        )
    usual = VIDEO_PREDICTOR_HEADS[encoder.positions] if encoder.video else encoder.heads
    hidden = shape_of(weights, "predictor_blocks.0.mlp.fc1.weight", given.what)[0]
    return fitted(
        lambda: Predictor(
            encoder_dim=encoder.dim,
            native_grid=encoder.native_grid,
            dim=dim,
            depth=count_blocks(weights, "predictor_blocks"),
            heads=heads or usual,
            mlp_ratio=ratio_of(hidden, dim),
            mask_tokens=tokens,
            positions=encoder.positions,
        ),
        given,
        pieces=lambda key: ("mask_token",) if single and key == "mask_tokens.0" else (key,),
        dropped=_table(given, "predictor_pos_embed", dim, encoder.native_grid, encoder.positions),
        allow=allow,
    )


def build_encoder(
    given: Given,
    *,
    heads: int | None,
    frames: int,
    image_size: int | None,
    positions: Positions,
    allow: Sequence[str] = (),
) -> tuple[VisionTransformer, KeyTable]:
    """An encoder from tensors with the official names, and what became of them.

    timm's ViTs have the same names. Args as `load_official_encoder`.
    """
    weights = given.weights
    dim, channels, *tubelet, patch, _ = shape_of(weights, "patch_embed.proj.weight", given.what)
    video = bool(tubelet)
    frames = frames if video else 1
    side = (image_size or NOMINAL_SIDE) // patch
    if positions == "sincos":
        tokens = shape_of(weights, "pos_embed", given.what)[1]
        side = round((tokens / (frames / (tubelet or [1])[0])) ** 0.5)
    known = VIDEO_HEADS if video else IMAGE_HEADS
    if (heads := heads or known.get(dim)) is None:
        raise ValueError(
            f"width {dim} is none of the released {sorted(known)}, and no tensor tells "
            "the number of attention heads: pass heads=... (--heads N)"
        )
    hidden = shape_of(weights, "blocks.0.mlp.fc1.weight", given.what)[0]
    config: dict[str, Any] = dict(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        frames=frames,
        tubelet_size=tubelet[0] if video else 1,
        positions=positions,
        dim=dim,
        depth=count_blocks(weights, "blocks"),
        heads=heads,
        mlp_ratio=ratio_of(hidden, dim),
    )
    grid = (frames // config["tubelet_size"], side, side) if video else (side, side)
    dropped = _table(given, "pos_embed", dim, grid, positions)
    return fitted(lambda: VisionTransformer(**config), given, dropped=dropped, allow=allow)


def section(checkpoint: object, name: str, path: str | Path) -> Given:
    """One state dict of the file, without the prefixes that wrappers leave."""
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    part, what = content.get(name), f"{path}: {name}"
    if not isinstance(part, Mapping) or not part:
        found = sorted(str(k) for k, v in content.items() if isinstance(v, Mapping | list) and v)
        kind = f"only {found}" if content else type(checkpoint).__name__
        raise ValueError(
            f"{path} is no official checkpoint with this part: no {name!r} in it, but {kind}"
        )
    return plain(part, what, name)


def plain(part: Mapping, what: str, name: str) -> Given:
    """A state dict without the prefix that most of its keys share; `name` is its key in the file.

    Raises ValueError if it holds anything but tensors, or a key with and without the prefix.
    """
    strange = [str(key) for key, value in part.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{what} holds more than tensors: {strange[:3]}")
    most = len(part) / 2
    wrappers = next((w for w in WRAPPERS if sum(str(k).startswith(w) for k in part) > most), "")
    weights = {str(key).removeprefix(wrappers): value for key, value in part.items()}
    if len(weights) < len(part):
        twice = sorted(key for key in weights if {key, wrappers + key} <= part.keys())
        raise ValueError(f"{what} has keys with and without {wrappers!r}: {twice[:3]}")
    return Given(weights, what, f"{name}/{wrappers}")


def left_out(checkpoint: Mapping, taken: Sequence[str]) -> KeyTable:
    """Rows of what else is in a file, a line for each of its parts."""
    rows = []
    for key, value in checkpoint.items():
        if key in taken:
            continue
        size = f" ({len(value)} keys)" if isinstance(value, Mapping | list) and value else ""
        encoders = "another encoder was asked for"
        training = "of the training, not of the model"
        reason = encoders if "encoder" in str(key) else training
        rows.append(Row(str(key), "dropped", reason + size))
    return KeyTable(tuple(rows))


def _positions(checkpoint: object, given: Given) -> Positions:
    """Rotary where neither encoder nor predictor has a table, or only the encoder has one: some
    V-JEPA 2 files carry a `pos_embed` that their model does not use."""
    video = len(shape_of(given.weights, "patch_embed.proj.weight", given.what)) == 5
    if not video:
        return "sincos"
    if "pos_embed" not in given.weights:
        return "rope_legacy"
    predictor = checkpoint.get("predictor") if isinstance(checkpoint, Mapping) else None
    if not isinstance(predictor, Mapping):
        raise ValueError(
            f"{given.what} has a table of positions and the file no predictor, which would tell "
            "whether the model uses it: pass positions=sincos (V-JEPA) or rope_legacy (V-JEPA 2)"
        )
    tabled = any(str(key).endswith("predictor_pos_embed") for key in predictor)
    return "sincos" if tabled else "rope_legacy"


def _table(given: Given, key: str, dim: int, grid: Grid, positions: Positions) -> dict[str, str]:
    """Why the table of positions is dropped.

    Tables are not parameters here: one that the model uses is compared with ours, and the file
    refused where they differ.
    """
    if positions != "sincos":
        return {key: UNUSED}
    check_table(given, key, sincos(dim, grid, grid))
    return {key: FIXED}


def check_table(given: Given, key: str, ours: Tensor) -> None:
    """Raises MisfitError unless the file's table [1, N, D] is ours [N, D], as precisely as its
    type tells."""
    require(given, key, why="the table of positions")
    table = given.weights[key]
    limit = max(1e-4, torch.finfo(table.dtype).eps) if table.is_floating_point() else 0.0
    if table.shape != (1, *ours.shape) or (table[0].float() - ours).abs().max() > limit:
        raise MisfitError(
            f"{given.what}: {key!r} {tuple(table.shape)} is not the fixed sine-cosine table "
            f"{tuple(ours.shape)} of its model: another model's weights, or of clips of "
            "another length (pass frames=...)?",
            KeyTable((given.row(key, "misshapen", "not the fixed sine-cosine table"),)),
        )
