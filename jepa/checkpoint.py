"""Encoders on disk, and `load_frozen_encoder`: the only door from here to probes and planning."""

from __future__ import annotations

import json
from pathlib import Path

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jepa.encoder import VisionTransformer
from jepa.files import atomic_path
from jepa.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder
from jepa.official import NOMINAL_FRAMES, Which, load_official_encoder
from jepa.positions import Positions
from jepa.timm_encoder import TimmEncoder

FORMAT = "jepa-toolkit/encoder/1"


def save_encoder(path: str | Path, frozen: FrozenEncoder) -> Path:
    """Write a VisionTransformer with its sizes and pixel normalisation as one safetensors file."""
    if not isinstance(frozen.encoder, VisionTransformer):
        raise TypeError(f"only our VisionTransformer is saved; got {type(frozen.encoder).__name__}")
    header = {
        "config": frozen.encoder.config,
        "mean": frozen.normalize.mean,
        "std": frozen.normalize.std,
        "name": frozen.name,
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in frozen.encoder.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={"format": FORMAT, "encoder": json.dumps(header)})
    return Path(path)


def load_frozen_encoder(
    path_or_name: str | Path,
    *,
    which: Which = "target_encoder",
    heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    positions: Positions | None = None,
    pretrained: bool = True,
) -> FrozenEncoder:
    """A frozen encoder from whatever names one.

    Args:
        path_or_name: an encoder of ours (`.safetensors`, or a run folder that holds
            `encoder.safetensors`), an official checkpoint of I-JEPA, V-JEPA or V-JEPA 2
            (`.pth.tar`, `.pt`, `.pth`), or the name of a timm model.
        which: which of the two encoders of an official checkpoint.
        heads, frames, positions: of an official checkpoint, see `load_official_encoder`.
        pretrained: for timm models, with their published weights.

    Raises:
        FileNotFoundError, ValueError: says what was looked for, and what would do.
    """
    path = Path(path_or_name)
    if path.is_dir():
        path = path / "encoder.safetensors"
    if path.suffix == ".safetensors":
        return _load_ours(path)
    if path.suffix in {".pt", ".pth", ".tar"}:
        encoder = load_official_encoder(
            path, which=which, heads=heads, frames=frames, positions=positions
        )
        return FrozenEncoder(encoder, mean=IMAGENET_MEAN, std=IMAGENET_STD, name=path.name)
    name = str(path_or_name)
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"no encoder {name!r}: neither a file nor a timm model. Give a run folder, an "
            "encoder.safetensors, an official .pth.tar, or a name of timm.list_models()"
        )
    model = TimmEncoder(name, pretrained=pretrained)
    return FrozenEncoder(model, mean=model.mean, std=model.std, name=name)


def _load_ours(path: Path) -> FrozenEncoder:
    if not path.is_file():
        raise FileNotFoundError(f"no encoder at {path}: has the pretraining ended?")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no encoder of jepa-toolkit: format {metadata.get('format')!r}")
    header = json.loads(metadata["encoder"])
    encoder = VisionTransformer(**header["config"])
    encoder.load_state_dict(weights, strict=True)
    return FrozenEncoder(encoder, mean=header["mean"], std=header["std"], name=header["name"])
