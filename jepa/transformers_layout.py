"""Hugging Face's layouts of I-JEPA and V-JEPA 2, in and out: folders of transformers' `IJepaModel`
and `VJEPA2Model`. transformers itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only, read_safetensors, write_json, write_safetensors
from jepa.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder
from jepa.keys import Given, KeyTable, count_blocks, fitted, shape_of, taken_apart
from jepa.official import FIXED, check_table
from jepa.positions import sincos
from jepa.predictor import Predictor

TYPES = ("ijepa", "vjepa2")
WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
SAME = {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True}
LEFT_OUT = "a head or a mask token of another task; no feature needs it"


@dataclass(frozen=True)
class Names:
    """A layout's names for our modules.

    outer: names outside of the blocks.
    blocks: our list of blocks, and the layout's.
    inner: names inside a block; the joint layer of queries, keys and values is three.
    rows: ours -> the tensor whose rows our numbered ones are.
    """

    outer: Mapping[str, str]
    blocks: tuple[str, str]
    inner: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, ours: str) -> Sequence[str]:
        """See `jepa.keys.Pieces`."""
        module, _, kind = ours.rpartition(".")
        if module in self.rows:
            return (f"{self.rows[module]}[{kind}]",)
        if module in self.outer:
            return (f"{self.outer[module]}.{kind}",)
        number, _, inner = module.removeprefix(self.blocks[0] + ".").partition(".")
        return tuple(f"{self.blocks[1]}.{number}.{part}.{kind}" for part in self.inner[inner])


def _attention(*names: str) -> tuple[str, ...]:
    return tuple(f"attention.{name}" for name in names)


_IJEPA_OUTER = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
IJEPA_FILES = Names(  # as published, and as transformers writes
    _IJEPA_OUTER,
    ("blocks", "encoder.layer"),
    {
        "norm1": ("layernorm_before",),
        "attn.qkv": _attention("attention.query", "attention.key", "attention.value"),
        "attn.proj": ("attention.output.dense",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
)
IJEPA_CLASS = Names(  # the attributes of the class, since transformers 5
    _IJEPA_OUTER,
    ("blocks", "layers"),
    {
        "norm1": ("layernorm_before",),
        "attn.qkv": _attention("q_proj", "k_proj", "v_proj"),
        "attn.proj": ("attention.o_proj",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
)
_VJEPA2_INNER = {
    "norm1": ("norm1",),
    "attn.qkv": _attention("query", "key", "value"),
    "attn.proj": ("attention.proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
VJEPA2 = Names(
    {"patch_embed.proj": "encoder.embeddings.patch_embeddings.proj", "norm": "encoder.layernorm"},
    ("blocks", "encoder.layer"),
    _VJEPA2_INNER,
)
VJEPA2_PREDICTOR = Names(
    {
        "predictor_embed": "predictor.embeddings.predictor_embeddings",
        "predictor_norm": "predictor.layernorm",
        "predictor_proj": "predictor.proj",
    },
    ("predictor_blocks", "predictor.layer"),
    _VJEPA2_INNER,
    {"mask_tokens": "predictor.embeddings.mask_tokens"},
)


@dataclass(frozen=True)
class Found:
    """What a folder holds: the encoder, its predictor if there is one, and every key's fate."""

    encoder: FrozenEncoder
    predictor: Predictor | None
    table: KeyTable


def is_transformers_folder(folder: str | Path) -> bool:
    """Whether a folder holds one of the two models, by its config.json."""
    return _config(Path(folder)).get("model_type") in TYPES


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
            mlp_ratio=hidden / dim,
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
        mlp_ratio=hidden / dim,
    )


def _agree(what: str, config: Mapping[str, Any], **found: int) -> None:
    for name, value in found.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{what}: config.json says {name} {config[name]}, the tensors say {value}: "
                "keys are missing, or the two do not belong together"
            )


def write_transformers(
    folder: str | Path, frozen: FrozenEncoder, *, predictor: Predictor | None = None
) -> Path:
    """A folder that `IJepaModel.from_pretrained` or `VJEPA2Model.from_pretrained` loads.

    `VJEPA2Model` always has a predictor. Without one of ours it is written without blocks and
    with zeros, so that nothing in it is random. Its rotary positions are right at the encoder's
    native image size alone, of any clip length.

    Raises:
        ValueError: the encoder has positions that neither class knows.
    """
    encoder, folder = frozen.encoder, Path(folder)
    if not isinstance(encoder, VisionTransformer):
        raise ValueError(f"only our encoder has their layout; got a {type(encoder).__name__}")
    config, sizes = encoder.config, _their_sizes(encoder)
    if not encoder.video and encoder.positions == "sincos":
        state = taken_apart(encoder.state_dict(), IJEPA_FILES.pieces)
        patches = IJEPA_FILES.pieces("patch_embed.proj.weight")[0]
        table = sincos(encoder.dim, encoder.native_grid, encoder.native_grid)
        state["embeddings.position_embeddings"] = table[None].clone()
        about = sizes | {
            "model_type": "ijepa",
            "architectures": ["IJepaModel"],
            "num_channels": encoder.channels,
            "intermediate_size": round(encoder.dim * config["mlp_ratio"]),
            "image_size": config["image_size"],
        }
    elif encoder.video and encoder.positions == "rope_legacy":
        state = taken_apart(encoder.state_dict(), VJEPA2.pieces)
        patches = VJEPA2.pieces("patch_embed.proj.weight")[0]
        about = sizes | {
            "model_type": "vjepa2",
            "architectures": ["VJEPA2Model"],
            "in_chans": encoder.channels,
            "mlp_ratio": _ratio(encoder.dim, config["mlp_ratio"]),
            "crop_size": config["image_size"],
            "frames_per_clip": encoder.frames,
            "tubelet_size": encoder.tubelet_size,
        }
        state |= _their_predictor(encoder, predictor, about)
    else:
        raise ValueError(
            f"positions {encoder.positions!r} of {'clips' if encoder.video else 'images'}: "
            "IJepaModel has sine-cosine positions of images, VJEPA2Model rotary ones of clips in "
            "the legacy style; there is no class for this encoder"
        )
    kernel = (encoder.tubelet_size,) * encoder.video + (encoder.patch_size,) * 2
    state[patches] = state[patches].unflatten(1, (encoder.channels, *kernel))
    write_safetensors(folder / WEIGHTS, state, {"format": "pt"})
    write_json(folder / PROCESSORS[encoder.video], _processor(frozen))
    write_json(folder / "config.json", about)
    return folder


def _their_sizes(encoder: VisionTransformer) -> dict[str, Any]:
    return SAME | {
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "patch_size": encoder.patch_size,
        "torch_dtype": "float32",
    }


def _their_predictor(
    encoder: VisionTransformer, predictor: Predictor | None, about: dict[str, Any]
) -> dict[str, Tensor]:
    """The tensors of the predictor; its sizes go into `about`."""
    if predictor is not None and predictor.positions != "rope_legacy":
        raise ValueError(f"VJEPA2Model's predictor is rotary; got {predictor.positions!r}")
    given = predictor or Predictor(encoder.dim, encoder.native_grid, dim=encoder.dim, depth=0,
                                   heads=encoder.heads, positions="rope_legacy")  # fmt: skip
    config, tokens = given.config, len(given.mask_tokens)
    about |= {
        "pred_hidden_size": given.dim,
        "pred_num_hidden_layers": config["depth"],
        "pred_num_attention_heads": given.heads,
        "pred_num_mask_tokens": tokens,
        "pred_mlp_ratio": _ratio(given.dim, config["mlp_ratio"]),
    }
    state = taken_apart(given.state_dict(), VJEPA2_PREDICTOR.pieces)
    return state if predictor else {k: torch.zeros_like(v) for k, v in state.items()}


def _ratio(dim: int, ratio: float) -> float:
    """The MLP's ratio, such that the class, which cuts off the product, has our hidden width."""
    hidden = int(dim * ratio)
    return ratio if round(dim * ratio) == hidden else (hidden + 1.5) / dim


def _processor(frozen: FrozenEncoder) -> dict[str, Any]:
    """What their processors read of pixels."""
    encoder = frozen.encoder
    side = encoder.config["image_size"]
    size = {"height": side, "width": side}
    pixels = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(frozen.normalize.mean),
        "image_std": list(frozen.normalize.std),
        "rescale_factor": 1 / 255,
    }
    if encoder.video:
        resize = {
            "size": {"shortest_edge": side * 256 // 224},
            "crop_size": size,
            "do_center_crop": True,
        }
        return pixels | resize | {"video_processor_type": "VJEPA2VideoProcessor"}
    return pixels | {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 3}


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
