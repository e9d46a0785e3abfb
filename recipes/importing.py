"""Import: somebody else's weights, whatever their layout, as files of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from jepa.checkpoint import FILE, is_official, read_encoder, save_encoder
from jepa.encoder import VisionTransformer
from jepa.files import load_tensors_only, sha256, write_json
from jepa.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder
from jepa.hub import fetched
from jepa.keys import KeyTable
from jepa.official import (
    NOMINAL_FRAMES,
    NOMINAL_SIDE,
    Which,
    left_out,
    official_encoder,
    official_predictor,
    section,
)
from jepa.parts import arguments, load_part, part_kind, save_part
from jepa.positions import Positions
from jepa.predictor import Predictor

from ..planning.ac_official import official_ac
from ..planning.ac_predictor import ActionConditionedPredictor
from ..probes.attentive import AnticipationHead, AttentiveHead
from ..probes.attentive_official import official_classifier

CLASSIFIERS = {"classifier": AttentiveHead, "anticipation-classifier": AnticipationHead}
PREDICTORS = {"predictor": Predictor, "ac-predictor": ActionConditionedPredictor}


@dataclass(frozen=True)
class Imported:
    """What a file, folder or name holds.

    encoder: None in files of classifiers.
    predictor: the one that belongs to the encoder; V-JEPA 2-AC's takes actions.
    classifier: of files of classifiers.
    table: what became of every key.
    files: name -> SHA-256 of what was read, where it is files.
    """

    encoder: FrozenEncoder | None
    predictor: nn.Module | None
    classifier: AttentiveHead | AnticipationHead | None
    table: KeyTable
    files: dict[str, str]


def import_weights(
    source: str | Path,
    *,
    which: Which = "target_encoder",
    architecture: str | None = None,
    heads: int | None = None,
    predictor_heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    image_size: int | None = None,
    positions: Positions | None = None,
    only_encoder: bool = False,
    use_extrinsics: bool = False,
    classifier: int = 0,
    pretrained: bool = True,
    allow: tuple[str, ...] = (),
) -> Imported:
    """Everything of a source that has a place here; args as of the command, `import_`.

    Raises:
        FileNotFoundError, ValueError: says what was looked for, and what to give.
        jepa.keys.MisfitError: keys are missing, unexpected or of a wrong shape.
    """
    path = Path(source)
    files = {file.name: sha256(file) for file in files_of(source)}
    if not is_official(source) or architecture is not None:
        asked = dict(heads=heads, predictor_heads=predictor_heads, positions=positions)
        if given := [name for name, value in asked.items() if value is not None]:
            raise ValueError(f"{source} tells its {given} itself; leave them out")
        frozen, predictor, table = read_encoder(
            source, architecture=architecture, pretrained=pretrained, allow=allow
        )
        return Imported(frozen, predictor, None, table, files)
    checkpoint = load_tensors_only(path, mapped=True)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not named parts")
    if {"classifier", "classifiers"} & checkpoint.keys():
        head, table = official_classifier(
            checkpoint, path, heads=heads, index=classifier, allow=allow
        )
        table += left_out(checkpoint, ("classifier", "classifiers"))
        return Imported(None, None, head, table, files)
    encoder, table = official_encoder(
        checkpoint,
        path,
        which=which,
        heads=heads,
        frames=frames,
        image_size=image_size,
        positions=positions,
        allow=allow,
    )
    frozen = FrozenEncoder(encoder, mean=IMAGENET_MEAN, std=IMAGENET_STD, name=path.name)
    if only_encoder or "predictor" not in checkpoint:
        return Imported(frozen, None, None, table + left_out(checkpoint, (which,)), files)
    weights = section(checkpoint, "predictor", path).weights
    if "action_encoder.weight" in weights:
        side = (image_size or NOMINAL_SIDE) // encoder.patch_size
        predictor, more = official_ac(
            checkpoint,
            path,
            heads=predictor_heads,
            grid=(side, side),
            use_extrinsics=use_extrinsics,
            allow=allow,
        )
    else:
        predictor, more = official_predictor(
            checkpoint, path, encoder, heads=predictor_heads, allow=allow
        )
    table += more + left_out(checkpoint, (which, "predictor"))
    return Imported(frozen, predictor, None, table, files)


def import_(
    source: str,
    *,
    out: Path,
    which: Which = "target_encoder",
    architecture: str | None = None,
    heads: int | None = None,
    predictor_heads: int | None = None,
    frames: int = NOMINAL_FRAMES,
    image_size: int | None = None,
    positions: Positions | None = None,
    only_encoder: bool = False,
    use_extrinsics: bool = False,
    classifier: int = 0,
    pretrained: bool = True,
    allow: tuple[str, ...] = (),
) -> None:
    """Import weights of I-JEPA, V-JEPA, V-JEPA 2, 2-AC, transformers, timm: strictly, key by key.

    Args:
        source: a .pth.tar or .pt of I-JEPA, V-JEPA, V-JEPA 2 or 2-AC or of their classifiers; a
            folder of transformers' IJepaModel or VJEPA2Model or of timm (local-dir:FOLDER does
            too); hf-hub:OWNER/NAME; a timm name; a .safetensors or run folder of ours.
        out: folder for encoder.safetensors, predictor.safetensors or classifier.safetensors, and
            import.json with the fate of every key. Must be empty.
        which: encoder of an official checkpoint.
        architecture: the timm model whose weights a bare .safetensors holds.
        heads: attention heads of an encoder or classifier of an unreleased width.
        predictor_heads: attention heads of a predictor of an unreleased width.
        frames: length of the clips that a V-JEPA with added positions was trained on.
        image_size: native side of a rotary encoder; for 2-AC it must be the side of the frames.
        positions: of a video encoder without its predictor, where the file does not tell.
        only_encoder: leave the predictor alone.
        use_extrinsics: a 2-AC predictor that was trained with the camera's pose.
        classifier: number of the one to take of a file with several.
        pretrained: for timm names, with their published weights.
        allow: keys that may be missing or left over, by name or pattern, e.g. '[head.*]'.
    """
    found = import_weights(
        source,
        which=which,
        architecture=architecture,
        heads=heads,
        predictor_heads=predictor_heads,
        frames=frames,
        image_size=image_size,
        positions=positions,
        only_encoder=only_encoder,
        use_extrinsics=use_extrinsics,
        classifier=classifier,
        pretrained=pretrained,
        allow=allow,
    )
    about: dict[str, Any] = {"source": Path(source).name, "sha256": found.files}
    if is_official(source) and found.encoder is not None:
        about["which"] = which
    parts = write_parts(out, found, about)
    told = {"parts": parts, "summary": found.table.summary()}
    keys = [asdict(row) for row in found.table]
    write_json(out / "import.json", about | told | {"keys": keys})
    for row in found.table.of("dropped", "missing", "unexpected"):
        print(f"{row.fate}: {row.key}: {row.note}")
    print(f"{found.table.summary()}; every key in {out / 'import.json'}")
    for name, text in parts.items():
        print(f"{out / name}: {text}")


def write_parts(out: Path, found: Imported, about: Mapping[str, Any]) -> dict[str, str]:
    """The files of what was found: name -> what it is."""
    parts: dict[str, str] = {}
    if (frozen := found.encoder) is not None:
        save_encoder(out / FILE, frozen, about=about)
        kind = "our encoder" if isinstance(frozen.encoder, VisionTransformer) else "a timm model"
        parts[FILE] = f"{kind}, {described(frozen.encoder)}, fingerprint {frozen.fingerprint()}"
    if (predictor := found.predictor) is not None:
        kind = kind_among(PREDICTORS, predictor)
        save_part(out / "predictor.safetensors", kind, predictor, about)
        parts["predictor.safetensors"] = f"{kind}, {described(predictor)}"
    if (head := found.classifier) is not None:
        kind = kind_among(CLASSIFIERS, head)
        save_part(out / "classifier.safetensors", kind, head, about)
        parts["classifier.safetensors"] = f"attentive {kind}, {described(head)}"
    return parts


def kind_among(kinds: Mapping[str, type[nn.Module]], part: nn.Module) -> str:
    """What a part is called in its file."""
    return next(kind for kind, made in kinds.items() if type(part) is made)


def load_predictor(folder: str | Path) -> Predictor | ActionConditionedPredictor:
    """The predictor of a folder that `jepa import` has written."""
    return load_any(Path(folder) / "predictor.safetensors", PREDICTORS)


def load_classifier(folder: str | Path) -> AttentiveHead | AnticipationHead:
    """The attentive classifier of a folder that `jepa import` has written."""
    return load_any(Path(folder) / "classifier.safetensors", CLASSIFIERS)


def load_any(path: Path, kinds: Mapping[str, type[Any]]) -> Any:
    """The part in a file, which tells of which of these kinds it is."""
    kind = part_kind(path, kinds)
    return load_part(path, kind, lambda header: kinds[kind](**arguments(header["config"])))[0]


def described(module: nn.Module) -> str:
    """Its size."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters"


def files_of(source: str | Path) -> list[Path]:
    """The files that a source is read from; none for a timm name."""
    name = str(source)
    path = fetched(name[7:]) if name.startswith("hf-hub:") else Path(name.split("local-dir:")[-1])
    if path.is_dir():
        kinds = {".safetensors", ".json", ".bin"}
        return sorted(file for file in path.iterdir() if file.suffix in kinds)
    return [path] if path.is_file() else []
