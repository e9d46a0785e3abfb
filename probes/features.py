"""Feature tables: a frozen encoder over a data set, once, kept on disk for every probe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from jepa import seeds
from jepa.frozen import FrozenEncoder, device_of
from jepa.progress import track
from jepa.shapes import Grid

from .tables import FeatureTable, Numbered, kept, table_of

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
    with seeds.weights(seed, "random_encoder"):
        fresh = type(like.encoder)(**config)
    mean, std = like.normalize.mean, like.normalize.std
    made = FrozenEncoder(fresh, mean=mean, std=std, name="random_encoder")
    return made.to(device_of(like))


def poolings_of(encoder: Encoder) -> dict[str, tuple[str, ...]]:
    """Name of each pooling by mean that the encoder has -> the layers it concatenates.

    `last`: the final layer; `last4`: the last four blocks before the final norm, or all of a
    shallower encoder's; `cls`: the class token of those that have one. Each layer is averaged
    over its tokens first.
    """
    names = encoder.layer_names
    blocks = tuple(name for name in names if name.startswith("blocks."))
    found = {"last": names[-1:]} | ({"last4": blocks[-4:]} if blocks else {})
    return found | ({"cls": ("cls",)} if "cls" in names else {})


def layers_of(encoder: Encoder, poolings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The layers of each pooling: one of `poolings_of(encoder)`; `tokens`, or `grid4` of a
    FrozenEncoder; or the name of any layer, averaged over its tokens.

    Raises:
        ValueError: for a pooling that the encoder does not have.
    """
    final = encoder.layer_names[-1:]
    known = poolings_of(encoder) | {TOKENS: final}
    if isinstance(encoder, FrozenEncoder):
        known[GRID] = final
    known |= {name: (name,) for name in encoder.layer_names}
    unknown = [name for name in poolings if name not in known]
    if unknown:
        raise ValueError(f"no pooling {unknown} of {encoder.name}; it has {list(known)}")
    return {name: known[name] for name in poolings}


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
        poolings: see `layers_of`.
        precision: bfloat16 runs the encoder under autocast; the type of the features is the same.

    Raises:
        ValueError: for a pooling that the encoder does not have, for features that are not
            finite, and for labels that are no whole numbers.
    """
    wanted = layers_of(encoder, poolings)
    grid_of = getattr(encoder, "grid", None)
    layers = sorted({layer for names in wanted.values() for layer in names})
    device = device_of(encoder)
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
        columns = features | {name: _whole(name, torch.as_tensor(i)) for name, i in indices.items()}
        yield {name: column.cpu().numpy() for name, column in columns.items()}


def _whole(name: str, numbers: Num[Tensor, "B"]) -> Int64[Tensor, "B"]:
    whole = numbers.long()
    if not torch.equal(whole.to(numbers), numbers):
        raise ValueError(
            f"expected {name} that are whole numbers, such as codes of classes; got "
            f"{numbers[whole != numbers][0]:g}. Numbers to be told from features do not belong "
            "into their table: give them to RidgeProbe().fit(table.features[...], numbers)"
        )
    return whole


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
            A `Numbered` one tells how pixels are made, which is part of the key, and a table
            whose making was killed goes on where it stopped; of others the caller must name
            the transform in `data`, and the table is made anew.
        poolings: see `layers_of`.
        cache: the folder that holds tables; None: this one stays in memory. A table is found
            again by encoder, data, transform, poolings with their layers, and precision. The
            processes of a torch.distributed group share the work.
        data: fingerprint of the data set; needed with `cache`, which must know what it holds.
        precision: of the encoder's arithmetic.
        progress: a progress bar with the time left.
    """
    described = dict(loader.described) if isinstance(loader, Numbered) else None
    manifest = {
        "format": 3,
        "encoder": encoder.fingerprint(),
        "data": data,
        "transform": described,
        "poolings": {name: list(layers) for name, layers in layers_of(encoder, poolings).items()},
        "precision": precision,
    }

    def compute(batches: Iterable, count: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        text = f"features of {encoder.name}"
        seen = track(batches, text, "batch", total=count, shown=progress)
        return pooled(encoder, seen, poolings, precision)

    if cache is None:
        parts = list(compute(loader))
        return table_of({n: np.concatenate([p[n] for p in parts]) for n in parts[0]}, manifest)
    if not data:
        raise ValueError("a cached table is keyed by its data: give data=<fingerprint> too")
    key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:24]
    return kept(Path(cache) / key, manifest, loader, compute, also={"name": encoder.name})
