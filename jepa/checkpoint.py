"""Encoders on disk, and `load_frozen_encoder`: the only door from here to probes and planning."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from jepa.encoder import VisionTransformer
from jepa.files import read_safetensors, write_json
from jepa.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder
from jepa.graphs import OnnxEncoder
from jepa.hub import fetched, pushed, write_card
from jepa.keys import Given, KeyTable, load_strictly, match, shapes_of
from jepa.official import NOMINAL_FRAMES, Which, load_official_encoder
from jepa.parts import arguments, load_part, save_part
from jepa.positions import Positions
from jepa.timm_encoder import TimmEncoder
from jepa.timm_layout import from_timm
from jepa.transformers_names import TYPES
from jepa.transformers_read import read_transformers

OURS, TIMM = "encoder", "timm-encoder"  # kinds of parts
FILE = "encoder.safetensors"
OFFICIAL = {".pt", ".pth", ".tar"}


def save_encoder(
    path: str | Path, frozen: FrozenEncoder, *, about: Mapping[str, Any] | None = None
) -> Path:
    """Write an encoder with its sizes and pixel normalisation as one safetensors file.

    Args:
        path: the file.
        frozen: our VisionTransformer, or a timm model.
        about: what else is to be kept of where it came from.
    """
    if not isinstance(frozen.encoder, VisionTransformer | TimmEncoder):
        kind = type(frozen.encoder).__name__
        raise TypeError(f"our VisionTransformer and timm's models are saved; got a {kind}")
    header = {
        "mean": frozen.normalize.mean,
        "std": frozen.normalize.std,
        "name": frozen.name,
    }
    kind = OURS if isinstance(frozen.encoder, VisionTransformer) else TIMM
    return save_part(path, kind, frozen.encoder, {**header, **(about or {})})


def save_pretrained(
    frozen: FrozenEncoder, folder: str | Path, *, licence: str | None = None
) -> Path:
    """A folder as the hub has them: encoder.safetensors, a config.json for people, a model card.

    `licence` is the hub's word for that of the weights, e.g. `cc-by-nc-4.0`.
    """
    folder = Path(folder)
    about = {
        "library_name": "jepa-toolkit",
        "config": getattr(frozen.encoder, "config", {}),
        "mean": frozen.normalize.mean,
        "std": frozen.normalize.std,
        "fingerprint": frozen.fingerprint(),
    }
    write_json(folder / "config.json", about)
    write_card(folder, frozen, licence)
    save_encoder(folder / FILE, frozen)
    return folder


def from_pretrained(name: str | Path) -> FrozenEncoder:
    """The frozen encoder of a folder, or of OWNER/NAME or OWNER/NAME@REVISION on the hub."""
    return load_frozen_encoder(name if Path(name).is_dir() else f"hf-hub:{name}")


def push_to_hub(
    frozen: FrozenEncoder, repository: str, *, licence: str | None = None, private: bool = False
) -> str:
    """`save_pretrained` to OWNER/NAME on the hub; the address of the commit."""
    with tempfile.TemporaryDirectory() as folder:
        return pushed(save_pretrained(frozen, folder, licence=licence), repository, private=private)


def load_frozen_encoder(
    path_or_name: str | Path,
    *,
    architecture: str | None = None,
    which: Which = "target_encoder",
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    image_size: int | None = None,
    positions: Positions | None = None,
    pretrained: bool = True,
    allow: Sequence[str] = (),
) -> FrozenEncoder:
    """A frozen encoder from whatever names one.

    Args:
        path_or_name: an encoder of ours (`.safetensors`, or a run folder that holds
            `encoder.safetensors`), an official checkpoint of I-JEPA, V-JEPA or V-JEPA 2
            (`.pth.tar`, `.pt`, `.pth`), a folder of transformers' IJepaModel or VJEPA2Model or of
            timm, with or without `local-dir:` before it, `hf-hub:OWNER/NAME` for any of these on
            the hub, an `.onnx` file of ours, or the name of a timm model.
        architecture: the timm model, with its tag if it has one, whose weights a `.safetensors`
            file holds; the tag tells mean and std of its pixels. None: the file is ours.
        which: which of the two encoders of an official checkpoint.
        heads, frames, image_size, positions: of an official checkpoint, see
            `load_official_encoder`.
        pretrained: for timm models, with their published weights.
        allow: keys that may be missing or left over all the same, see `jepa.keys.match`.

    Raises:
        FileNotFoundError, ValueError: says what was looked for, and what would do.
    """
    path = Path(path_or_name)
    if is_official(path):
        encoder = load_official_encoder(
            path,
            which=which,
            heads=heads,
            frames=frames,
            image_size=image_size,
            positions=positions,
            allow=allow,
        )
        return FrozenEncoder(encoder, mean=IMAGENET_MEAN, std=IMAGENET_STD, name=path.name)
    return read_encoder(
        path_or_name, architecture=architecture, pretrained=pretrained, allow=allow
    )[0]


def is_official(source: str | Path) -> bool:
    """Whether a source is a file as the papers' authors published theirs."""
    return Path(source).suffix in OFFICIAL and not Path(source).is_dir()


def read_encoder(
    path_or_name: str | Path,
    *,
    architecture: str | None = None,
    pretrained: bool = True,
    allow: Sequence[str] = (),
) -> tuple[FrozenEncoder, nn.Module | None, KeyTable]:
    """The encoder, the predictor if there is one beside it, and every key's fate; from anything
    but an official checkpoint. See `load_frozen_encoder`."""
    name = str(path_or_name)
    path = Path(name.removeprefix("local-dir:"))
    if architecture is not None:
        return _load_timm(path, architecture, allow)
    if name.startswith("hf-hub:"):
        path = fetched(name.removeprefix("hf-hub:"), patterns=("config.json",))
        if kind_of(path) != "timm":
            path = fetched(name.removeprefix("hf-hub:"))
    if path.is_dir():
        kind = kind_of(path)
        if kind == "transformers":
            found = read_transformers(path, allow=allow)
            return found.encoder, found.predictor, found.table
        if kind == "timm":
            return _named(name if ":" in name else f"local-dir:{path}", pretrained=True)
        path = path / FILE
    if path.suffix == ".safetensors":
        return _load_ours(path)
    if path.suffix == ".onnx":
        graph = OnnxEncoder(path)
        return FrozenEncoder(graph, name=graph.name), None, KeyTable()
    if "/" in name or not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"no encoder {name!r}: neither a file nor a timm model. Give a run folder, an "
            "encoder.safetensors, an official .pth.tar, hf-hub:OWNER/NAME, or a name of "
            f"timm.list_models(){_nearest(name)}"
        )
    return _named(name, pretrained=pretrained)


def kind_of(folder: Path) -> str:
    """Whose a folder is, by its config.json: `transformers`, `timm`, or else `ours`."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("model_type") in TYPES:
        return "transformers"
    if "architecture" in config and not (folder / FILE).is_file():
        return "timm"
    if "model_type" in config:
        raise ValueError(
            f"{folder} holds transformers' {config['model_type']!r}; of its models {TYPES} are read"
        )
    return "ours"


def _named(name: str, *, pretrained: bool) -> tuple[FrozenEncoder, None, KeyTable]:
    """A timm model: as our own encoder where it is one."""
    model = TimmEncoder(name, pretrained=pretrained)
    encoder, table = from_timm(model.model, name) or (model, KeyTable.whole(model.model))
    return FrozenEncoder(encoder, mean=model.mean, std=model.std, name=name), None, table


def _load_ours(path: Path) -> tuple[FrozenEncoder, None, KeyTable]:
    if not path.is_file():
        raise FileNotFoundError(f"no encoder at {path}: has the pretraining ended?")
    metadata, _ = read_safetensors(path, [])
    if metadata.get("format") == f"jepa-toolkit/{TIMM}/1":
        header = json.loads(metadata[TIMM])
        encoder: nn.Module = TimmEncoder(**header["config"])
        load_strictly(encoder, read_safetensors(path)[1], str(path))
    elif metadata.get("format") == f"jepa-toolkit/{OURS}/1":
        encoder, header = load_part(
            path, OURS, lambda header: VisionTransformer(**arguments(header["config"]))
        )
    else:
        raise ValueError(
            f"{path} is no encoder of jepa-toolkit: format {metadata.get('format')!r}. If it "
            "holds the weights of a timm model, say of which: architecture=vit_small_patch16_224"
        )
    mean, std = header["mean"], header["std"]
    frozen = FrozenEncoder(encoder, mean=mean, std=std, name=header["name"])
    return frozen, None, KeyTable.whole(encoder)


def _load_timm(
    path: Path, architecture: str, allow: Sequence[str]
) -> tuple[FrozenEncoder, None, KeyTable]:
    """A local file of a timm model; its classifier, if it has one, is left out."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"architecture says which timm model a .safetensors file holds; there is no such file "
            f"{path}"
        )
    if not timm.is_model(architecture.split(".")[0]):
        raise ValueError(f"no timm model {architecture!r}{_nearest(architecture)}")
    _, weights = read_safetensors(path)
    encoder = TimmEncoder(architecture, pretrained=False)
    heads = encoder.model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([heads] if isinstance(heads, str) else heads))
    state, table = match(
        shapes_of(encoder.model),
        Given(weights, f"{path} as {architecture}"),
        dropped={key: "of its classifier" for key in weights if key.startswith(heads)},
        allow=allow,
    )
    encoder.model.load_state_dict(state, strict=False)
    return FrozenEncoder(encoder, mean=encoder.mean, std=encoder.std, name=path.stem), None, table


def _nearest(name: str) -> str:
    """'. Did you mean ...?' with the timm model of the nearest name."""
    near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=1)
    return f". Did you mean {near[0]}?" if near else ""
