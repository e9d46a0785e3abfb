"""Folders of transformers' `IJepaModel` and `VJEPA2Model`, read without transformers itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa.blocks import ratio_of
from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only, read_safetensors
from jepa.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder
from jepa.keys import Given, KeyTable, count_blocks, fitted, shape_of
from jepa.official import FIXED, check_table
from jepa.positions import sincos
from jepa.predictor import Predictor
from jepa.transformers_names import (
    IJEPA_CLASS,
    IJEPA_FILES,
    INDEX,
    PICKLED,
    PROCESSORS,
    SAME,
    TYPES,
    VJEPA2,
    VJEPA2_PREDICTOR,
    WEIGHTS,
    Names,
)

LEFT_OUT = "a head or a mask token of another task; no feature needs it"


@dataclass(frozen=True)
class Found:
    """What a folder holds: the encoder, its predictor if there is one, and every key's fate."""

    encoder: FrozenEncoder
    predictor: Predictor | None
    table: KeyTable


def read_transformers(folder: str | Path, *, allow: Sequence[str] = ()) -> Found:
    """The model of a folder with config.json and safetensors.

    Raises:
        FileNotFoundError: config or weights are not there.
        ValueError: another model, settings that ours does not have, or keys that do not fit.
    """
    folder = Path(folder)
    config = _config(folder)
    kind = config.get("model_type")
    if kind not in TYPES:
        raise ValueError(f"{folder} holds a model of type {kind!r}; read are {TYPES}")
    for name, ours in SAME.items():
        if (theirs := config.get(name, ours)) != ours:
            raise ValueError(f"{folder}: {name} is {theirs!r}, but {ours!r} in our encoder")
    weights = {k.removeprefix(f"{kind}."): v for k, v in _weights(folder).items()}
    mean, std = _pixels(folder)
    predictor = None
    try:
        if kind == "ijepa":
            encoder, table = _read_ijepa(Given(weights, str(folder)), config, allow)
        else:
            encoder, predictor, table = _read_vjepa2(weights, str(folder), config, allow)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__} {error}"
        raise ValueError(
            f"{folder}: a size in config.json is missing or wrong: {reason}"
        ) from error
    return Found(FrozenEncoder(encoder, mean=mean, std=std, name=folder.name), predictor, table)


def _read_ijepa(
    given: Given, config: Mapping[str, Any], allow: Sequence[str]
) -> tuple[VisionTransformer, KeyTable]:
    weights, positions = given.weights, "embeddings.position_embeddings"
    names = IJEPA_CLASS if any(k.startswith("layers.") for k in weights) else IJEPA_FILES
    sizes = _sizes(given, names, config)
    side = config["image_size"] // sizes["patch_size"]
    check_table(given, positions, sincos(sizes["dim"], (side, side), (side, side)))
    others = (k for k in weights if k.startswith(("pooler.", "classifier.", "embeddings.mask_")))
    return fitted(
        lambda: VisionTransformer(image_size=config["image_size"], **sizes),
        given,
        pieces=names.pieces,
        dropped={positions: FIXED} | dict.fromkeys(others, LEFT_OUT),
        allow=allow,
    )


def _read_vjepa2(
    weights: Mapping[str, Tensor], what: str, config: Mapping[str, Any], allow: Sequence[str]
) -> tuple[VisionTransformer, Predictor | None, KeyTable]:
    parts = ({}, {})
    for key, value in weights.items():
        parts[key.startswith("predictor.")][key] = value
    given = Given(parts[0], what)
    sizes = _sizes(given, VJEPA2, config)
    encoder, table = fitted(
        lambda: VisionTransformer(
            image_size=config["crop_size"],
            frames=config["frames_per_clip"],
            tubelet_size=config["tubelet_size"],
            positions="rope_legacy",
            **sizes,
        ),
        given,
        pieces=VJEPA2.pieces,
        dropped={k: LEFT_OUT for k in parts[0] if k.startswith(("pooler.", "classifier."))},
        allow=allow,
    )
    given = Given(parts[1], f"{what}: predictor")
    if not config["pred_num_hidden_layers"]:
        rows = tuple(given.row(k, "dropped", "no predictor: it has no blocks") for k in parts[1])
        return encoder, None, table + KeyTable(rows)
    depth = count_blocks(parts[1], VJEPA2_PREDICTOR.blocks[1])
    first = VJEPA2_PREDICTOR.pieces("predictor_blocks.0.mlp.fc1.weight")[0]
    hidden, dim = shape_of(parts[1], first, given.what)
    tokens = shape_of(parts[1], VJEPA2_PREDICTOR.rows["mask_tokens"], given.what)[0]
    _agree(given.what, config, pred_num_hidden_layers=depth, pred_hidden_size=dim)
    predictor, more = fitted(
        lambda: Predictor(
            encoder.dim,
            encoder.native_grid,
            dim=dim,
            depth=depth,
            heads=config["pred_num_attention_heads"],
            mlp_ratio=ratio_of(hidden, dim),
            mask_tokens=tokens,
            positions="rope_legacy",
        ),
        given,
        pieces=VJEPA2_PREDICTOR.pieces,
        allow=allow,
    )
    return encoder, predictor, table + more


def _sizes(given: Given, names: Names, config: Mapping[str, Any]) -> dict[str, Any]:
    """What both models have, from the shapes; the number of heads from the config."""
    weights = given.weights
    patches = shape_of(weights, names.pieces("patch_embed.proj.weight")[0], given.what)
    hidden = shape_of(weights, names.pieces("blocks.0.mlp.fc1.weight")[0], given.what)[0]
    dim, channels, *_, patch = patches
    depth = count_blocks(weights, names.blocks[1])
    _agree(given.what, config, hidden_size=dim, num_hidden_layers=depth, patch_size=patch)
    if "num_attention_heads" not in config:
        raise ValueError(f"{given.what}: config.json lacks num_attention_heads; no tensor tells it")
    return dict(
        patch_size=patch,
        channels=channels,
        dim=dim,
        depth=depth,
        heads=config["num_attention_heads"],
        mlp_ratio=ratio_of(hidden, dim),
    )


def _agree(what: str, config: Mapping[str, Any], **found: int) -> None:
    for name, value in found.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{what}: config.json says {name} {config[name]}, the tensors say {value}: "
                "keys are missing, or the two do not belong together"
            )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one file, several with an index, or a pickle of tensors."""
    if (folder / INDEX).is_file():
        files = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        if any(Path(name).name != name for name in files):
            raise ValueError(f"{folder / INDEX} names files outside of its folder: {sorted(files)}")
        parts: Iterator[dict] = (read_safetensors(folder / name)[1] for name in sorted(files))
        return {key: value for part in parts for key, value in part.items()}
    if (folder / WEIGHTS).is_file() or not (folder / PICKLED).is_file():
        return read_safetensors(folder / WEIGHTS)[1]
    return load_tensors_only(folder / PICKLED, mapped=True)


def _pixels(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of the pixels; ImageNet's where the folder does not tell."""
    for name in PROCESSORS:
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text())
            return told.get("image_mean", IMAGENET_MEAN), told.get("image_std", IMAGENET_STD)
    return IMAGENET_MEAN, IMAGENET_STD
