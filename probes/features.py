"""Feature tables: a frozen encoder over a data set, once, kept on disk for every probe."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, Num, UInt8
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

import jepa
from jepa.frozen import FrozenEncoder
from jepa.seeds import derive
from jepa.shapes import Grid

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

TOKENS = "tokens"  # the pooling that does not pool: every token of the final layer, in float16
GRID = "grid4"  # the final layer, averaged over each cell of a 4x4 grid


@runtime_checkable
class Encoder(Protocol):
    """What a table is made from: a FrozenEncoder, RawPixels, FrameByFrame or MiddleFrame.

    Images are [B, C, H, W], clips [B, C, T, H, W].
    """

    name: str

    @property
    def layer_names(self) -> tuple[str, ...]: ...

    def layers(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class FeatureTable:
    """Features by pooling, labels [n], and the manifest: whose features, of what.

    Features are float32 [n, D]; those of the pooling `tokens` are float16 [n, N, D]. From a folder
    the arrays are memory-mapped, read-only. `rows` is the index in the data set of whatever each
    row was made from, if the batches tell it: unreadable samples leave gaps, several views repeat.
    """

    features: dict[str, Float[np.ndarray, "n ..."]]
    labels: Int64[np.ndarray, "n"]
    manifest: dict
    rows: Int64[np.ndarray, "n"] | None = None


class RawPixels:
    """The baseline encoder that does nothing: one layer of one token, the pixels over 255."""

    name = "raw_pixels"
    layer_names = ("norm",)

    def layers(
        self,
        images: UInt8[Tensor, "B C *T H W"] | Float[Tensor, "B C *T H W"],
        names: Sequence[str],
    ) -> dict[str, Float[Tensor, "B 1 D"]]:
        """The image or clip as one long token under each name."""
        pixels = images if images.is_floating_point() else images.float() / 255
        return {name: pixels.flatten(1)[:, None] for name in names}

    def fingerprint(self) -> str:
        """There is only one."""
        return self.name


def random_encoder(like: FrozenEncoder, seed: int = 0) -> FrozenEncoder:
    """The baseline that never learnt: the same architecture and normalisation, fresh weights.

    The weights are drawn from the named seed; the global generator is left as it was.

    Raises:
        ValueError: if the encoder does not tell its constructor's arguments as `config`.
    """
    config = getattr(like.encoder, "config", None)
    if not isinstance(config, dict):
        raise ValueError(
            f"cannot rebuild a {type(like.encoder).__name__}: it has no `config`; build it "
            "without weights and give FrozenEncoder(encoder, mean=..., std=...) instead"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "random_encoder"))
        fresh = type(like.encoder)(**config)
    fresh.to(_device(like))
    mean, std = like.normalize.mean, like.normalize.std
    return FrozenEncoder(fresh, mean=mean, std=std, name="random_encoder")


def poolings_of(encoder: Encoder) -> dict[str, tuple[str, ...]]:
    """Name of each pooling by mean that the encoder has -> the layers it concatenates.

    `last`: the final layer; `last4`: the last four blocks before the final norm, or all of a
    shallower encoder's. Each layer is averaged over its tokens first. (Beside them every encoder
    has `tokens`, the final layer as it is.)
    """
    *blocks, final = encoder.layer_names
    return {"last": (final,)} | ({"last4": tuple(blocks[-4:])} if blocks else {})


@torch.no_grad()
def pooled(
    encoder: Encoder,
    batches: Iterable,
    poolings: Sequence[str],
    precision: Precision = "float32",
) -> Iterator[dict[str, Num[np.ndarray, "B ..."]]]:
    """Features by pooling, `labels`, and `rows` if told, batch by batch, in one pass.

    Args:
        batches: anything whose first two items are images [B, C, H, W] or clips [B, C, T, H, W],
            and labels [B]; a field `rows` tells the index of each in its data set.
        poolings: of `poolings_of(encoder)`, or `tokens`, or `grid4` of a FrozenEncoder.
        precision: bfloat16 runs the encoder under autocast; the type of the features is the same.

    Raises:
        ValueError: for a pooling that the encoder does not have, and for features that are not
            finite.
    """
    known = poolings_of(encoder) | {TOKENS: encoder.layer_names[-1:]}
    if isinstance(encoder, FrozenEncoder):
        known[GRID] = known[TOKENS]
    grid_of = getattr(encoder, "grid", None)
    unknown = [name for name in poolings if name not in known]
    if unknown:
        raise ValueError(f"no pooling {unknown} of {encoder.name}; it has {list(known)}")
    wanted = {name: known[name] for name in poolings}
    layers = sorted({layer for names in wanted.values() for layer in names})
    device = _device(encoder)
    for batch in batches:
        half = precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            tokens = encoder.layers(batch[0].to(device), layers)
        features = {
            name: _in_half(tokens[names[0]]) if name == TOKENS
            else _on_grid(tokens[names[0]], grid_of(batch[0])) if name == GRID and grid_of
            else torch.cat([tokens[n].float().mean(dim=1) for n in names], 1)
            for name, names in wanted.items()
        }  # fmt: skip
        for name, values in features.items():
            if not values.isfinite().all():
                raise ValueError(f"{encoder.name}: features `{name}` are not finite")
        indices = {"labels": batch[1]}
        if (rows := getattr(batch, "rows", None)) is not None:
            indices["rows"] = rows
        columns = features | {name: torch.as_tensor(i).long() for name, i in indices.items()}
        yield {name: column.cpu().numpy() for name, column in columns.items()}


def _on_grid(tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B E"]:
    """Mean over each cell of a 4x4 grid, and over time; the cells side by side, E = 16 D."""
    planes = tokens.float().transpose(1, 2).unflatten(2, (-1, *grid[-2:])).mean(dim=2)
    return F.adaptive_avg_pool2d(planes, (4, 4)).flatten(1)


def _in_half(tokens: Float[Tensor, "B N D"]) -> Float16[Tensor, "B N D"]:
    """In float16, which has three bits more than bfloat16, where it is large enough."""
    half = tokens.half()
    if half.isinf().any() and tokens.isfinite().all():
        largest = tokens.abs().max().item()
        raise ValueError(
            f"tokens of up to {largest:.0f} do not fit into float16; take a pooling by mean"
        )
    return half


def extract(
    encoder: Encoder,
    loader: Iterable,
    poolings: Sequence[str] = ("last", "last4"),
    *,
    cache: Path | None = None,
    data: str | None = None,
    precision: Precision = "float32",
    progress: bool = False,
) -> FeatureTable:
    """The features of every image or clip of the loader, in its order.

    Args:
        loader: batches of (images uint8, labels, ...); in a fixed order, without augmentation.
        poolings: of `poolings_of(encoder)`, or `tokens`.
        cache: the folder that holds tables; None: this one stays in memory. A table is written
            aside and renamed when complete, and found again by encoder, data, poolings and
            precision.
        data: fingerprint of the data set; needed with `cache`, which must know what it holds.
        precision: of the encoder's arithmetic.
        progress: a progress bar with the time left.
    """
    manifest = {
        "format": 2,
        "encoder": encoder.fingerprint(),
        "data": data,
        "poolings": list(poolings),
        "precision": precision,
    }
    text = f"features of {encoder.name}"
    batches = pooled(encoder, track(loader, text, disable=not progress), poolings, precision)
    if cache is None:
        parts = list(batches)
        return _table({n: np.concatenate([p[n] for p in parts]) for n in parts[0]}, manifest)
    if not data:
        raise ValueError("a cached table is keyed by its data: give data=<fingerprint> too")
    key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(cache) / key
    if (found := _read(folder, manifest)) is not None:
        log.info("features of %s: reusing %s", encoder.name, folder)
        return found
    _write(folder, batches, manifest | {"name": encoder.name, "versions": _versions()})
    table = _read(folder, manifest)
    if table is None:
        raise OSError(f"{folder} was written but cannot be read back; is the disk failing?")
    return table


def _write(folder: Path, batches: Iterable, manifest: dict) -> None:
    """Stream the batches to a folder beside `folder`, then rename it into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        with ExitStack() as files:
            columns: dict[str, _Column] = {}
            for batch in batches:
                for name, block in batch.items():
                    if name not in columns:
                        columns[name] = files.enter_context(_Column(aside / f"{name}.npy", block))
                    columns[name].append(block)
            if not columns:
                raise ValueError("the loader gave no batch")
            count = columns["labels"].count
        (aside / "manifest.json").write_text(json.dumps(manifest | {"count": count}, indent=1))
        if folder.exists():  # it could not be read, or another process was faster
            shutil.rmtree(folder)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _Column:
    """An .npy file that grows by rows; numpy reserves the header's room for their number."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self.file, self.like, self.count = path.open("wb"), like, 0
        self._header()

    def __enter__(self) -> _Column:
        return self

    def append(self, rows: np.ndarray) -> None:
        rows.tofile(self.file)
        self.count += len(rows)

    def __exit__(self, *_) -> None:
        with self.file:
            self.file.seek(0)
            self._header()
            self.file.flush()
            os.fsync(self.file.fileno())

    def _header(self) -> None:
        shape = (self.count, *self.like.shape[1:])
        head = {"descr": self.like.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, head)


def _read(folder: Path, expected: dict) -> FeatureTable | None:
    """The table in `folder`; None if there is none, or none that is whole."""
    if not (folder / "manifest.json").is_file():
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        columns = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in (*expected["poolings"], "labels", "rows")
            if name != "rows" or (folder / "rows.npy").exists()
        }
        whole = all(len(column) == manifest["count"] for column in columns.values())
    except (OSError, ValueError, KeyError) as error:
        log.warning("the table %s is damaged (%s); it is made again", folder, error)
        return None
    if not whole or any(manifest.get(key) != value for key, value in expected.items()):
        log.warning("the table %s does not match its manifest; it is made again", folder)
        return None
    return _table(columns, manifest)


def _table(columns: dict[str, np.ndarray], manifest: dict) -> FeatureTable:
    """Features apart from labels and rows, which are small and come into memory."""
    labels = np.asarray(columns.pop("labels"))
    rows = np.asarray(columns.pop("rows")) if "rows" in columns else None
    return FeatureTable(columns, labels, manifest, rows)


def _device(encoder: Encoder) -> torch.device:
    weights = encoder.parameters() if isinstance(encoder, torch.nn.Module) else ()
    return next((w.device for w in weights), torch.device("cpu"))


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "jepa": jepa.__version__,
    }
