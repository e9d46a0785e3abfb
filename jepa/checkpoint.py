"""Encoders on disk, and `load_frozen_encoder`: the only door from here to probes and planning."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jepa.encoder import VisionTransformer
from jepa.files import atomic_path, load_strictly
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
    architecture: str | None = None,
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
        architecture: the timm model, with its tag if it has one, whose weights a `.safetensors`
            file holds; the tag tells mean and std of its pixels. None: the file is ours.
        which: which of the two encoders of an official checkpoint.
        heads, frames, positions: of an official checkpoint, see `load_official_encoder`.
        pretrained: for timm models, with their published weights.

    Raises:
        FileNotFoundError, ValueError: says what was looked for, and what would do.
    """
    path = Path(path_or_name)
    if architecture is not None:
        return _load_timm(path, architecture)
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
    if "/" in name or not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"no encoder {name!r}: neither a file nor a timm model. Give a run folder, an "
            "encoder.safetensors, an official .pth.tar, or a name of timm.list_models()"
            f"{_nearest(name)}"
        )
    model = TimmEncoder(name, pretrained=pretrained)
    return FrozenEncoder(model, mean=model.mean, std=model.std, name=name)


def _load_ours(path: Path) -> FrozenEncoder:
    if not path.is_file():
        raise FileNotFoundError(f"no encoder at {path}: has the pretraining ended?")
    metadata, weights = _read(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no encoder of jepa-toolkit: format {metadata.get('format')!r}. If it "
            "holds the weights of a timm model, say of which: architecture=vit_small_patch16_224"
        )
    header = json.loads(metadata["encoder"])
    encoder = VisionTransformer(**header["config"])
    encoder.load_state_dict(weights, strict=True)
    return FrozenEncoder(encoder, mean=header["mean"], std=header["std"], name=header["name"])


def _load_timm(path: Path, architecture: str) -> FrozenEncoder:
    """A local file of a timm model; its classifier, if it has one, is left out."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"architecture says which timm model a .safetensors file holds; there is no such file "
            f"{path}"
        )
    if not timm.is_model(architecture.split(".")[0]):
        raise ValueError(f"no timm model {architecture!r}{_nearest(architecture)}")
    _, weights = _read(path)
    encoder = TimmEncoder(architecture, pretrained=False)
    heads = encoder.model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([heads] if isinstance(heads, str) else heads))
    kept = {key: value for key, value in weights.items() if not key.startswith(heads)}
    load_strictly(encoder.model, kept, f"{path} as {architecture}")
    return FrozenEncoder(encoder, mean=encoder.mean, std=encoder.std, name=path.stem)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, weights
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _nearest(name: str) -> str:
    """'. Did you mean ...?' with the timm model of the nearest name."""
    near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=1)
    return f". Did you mean {near[0]}?" if near else ""
