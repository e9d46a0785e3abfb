"""Frozen encoders as graphs: torch.export, ONNX, and ONNX with weights of eight bits.

A graph takes float pixels in [0, 1] of one size, in batches of any size; normalisation is part of
it. It needs neither this package nor, in ONNX, torch.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa import seeds
from jepa.files import atomic_path, sha256
from jepa.frozen import FrozenEncoder
from jepa.optional import optional
from jepa.shapes import Grid

TOLERANCE = 1e-4  # of ONNX's runtime against torch, in units of features
ABOUT = "jepa-toolkit"


class Graph(nn.Module):
    """What is exported: normalisation and encoder."""

    def __init__(self, frozen: FrozenEncoder) -> None:
        super().__init__()
        self.normalize, self.encoder = frozen.normalize, frozen.encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(self.normalize(pixels))


def native_shape(frozen: FrozenEncoder, image_size: int | None = None) -> tuple[int, ...]:
    """(C, H, W) or (C, T, H, W) that an encoder was made for, or of images of another side."""
    config = getattr(frozen.encoder, "config", {})
    side, frames = image_size or config.get("image_size"), config.get("frames", 1)
    if side is None:
        raise ValueError(f"{frozen.name} does not tell its image size: give image_size=...")
    return (frozen.channels, *((frames,) if frames > 1 else ()), side, side)


def exported(frozen: FrozenEncoder, shape: Sequence[int]) -> torch.export.ExportedProgram:
    """The graph as `torch.export` has it, for pixels of this shape without the batch."""
    pixels = draw(shape)
    frozen(pixels)  # tables of positions are made by real numbers, not by those of the tracing
    batch = torch.export.Dim("batch")
    with torch.no_grad(), quieter():
        return torch.export.export(
            Graph(frozen).eval(), (pixels,), dynamic_shapes=({0: batch},), strict=False
        )


def write_program(path: str | Path, frozen: FrozenEncoder, shape: Sequence[int]) -> Path:
    """A `.pt2` file for `torch.export.load`. Raises ValueError if its features differ."""
    program = exported(frozen, shape)
    whole = io.BytesIO()  # files must end in .pt2, and those aside do not
    torch.export.save(program, whole)
    with atomic_path(path) as temporary:
        temporary.write_bytes(whole.getbuffer())
    again = torch.export.load(path).module()
    check(again, frozen, shape, str(path))
    return Path(path)


def write_onnx(path: str | Path, frozen: FrozenEncoder, shape: Sequence[int]) -> Path:
    """An ONNX file whose features in onnxruntime are those of torch to 1e-4, checked.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not there; says what to type.
        ValueError: the features differ.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        optional(package, extra="onnx", purpose="ONNX")
    program = exported(frozen, shape)
    about = {
        "dim": frozen.dim,
        "channels": frozen.channels,
        "patch_size": frozen.patch_size,
        "shape": list(shape),
        "grid": list(frozen.grid(draw(shape))),
        "name": frozen.name,
        "fingerprint": frozen.fingerprint(),
    }
    with quieter():
        graph = torch.onnx.export(
            program, (), dynamo=True, verbose=False, output_names=["features"]
        )
    assert graph is not None  # with dynamo it always gives one
    graph.model.metadata_props[ABOUT] = json.dumps(about)
    with atomic_path(path) as temporary:
        graph.save(temporary)
    check(OnnxEncoder(path), frozen, shape, str(path))
    return Path(path)


def quantise(path: str | Path, source: str | Path) -> Path:
    """Weights of matrix products in eight bits, activations as they come (dynamic quantisation).

    What it costs in accuracy is for a probe to say: `load_frozen_encoder` reads the file.
    """
    tools: Any = optional("onnxruntime.quantization", extra="onnx", purpose="quantisation")
    with atomic_path(path) as temporary, quieter():
        tools.quantize_dynamic(str(source), str(temporary), weight_type=tools.QuantType.QInt8)
    return Path(path)


def check(graph: Any, frozen: FrozenEncoder, shape: Sequence[int], what: str) -> None:
    """Raises ValueError unless a graph's features are the encoder's, for two sizes of a batch."""
    for batch in (2, 3):
        pixels = draw(shape, batch)
        worst = (graph(pixels) - frozen(pixels)).abs().max().item()
        if not worst <= TOLERANCE:
            raise ValueError(f"{what} differs from the encoder by {worst:.2g}, not {TOLERANCE}")


class OnnxEncoder(nn.Module):
    """An encoder of an ONNX file that `write_onnx` or `quantise` made, run by onnxruntime on the
    CPU; one layer, `norm`. Its pixels are in [0, 1].

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or of another origin.
    """

    layer_names = ("norm",)

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        runtime: Any = optional("onnxruntime", extra="onnx", purpose="an ONNX file")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no encoder at {path}")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds, none of them exported
            raise ValueError(f"{path} is damaged or no ONNX file: {error}") from error
        told = self.session.get_modelmeta().custom_metadata_map.get(ABOUT)
        if told is None:
            raise ValueError(f"{path} was not made by jepa-toolkit: it does not tell its sizes")
        about = json.loads(told)
        self.dim, self.channels = about["dim"], about["channels"]
        self.patch_size, self.shape = about["patch_size"], tuple(about["shape"])
        self._grid: Grid = tuple(about["grid"])
        self.name = about["name"]
        self.config = {"sha256": sha256(path)}

    def grid(self, images: Tensor) -> Grid:
        """(h, w) or (t, h, w) of the one size of images that the graph takes."""
        return self._grid

    def forward(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B N D"]:
        """Features of float pixels in [0, 1]."""
        if tuple(pixels.shape[1:]) != self.shape:
            raise ValueError(
                f"this graph takes pixels [B, {', '.join(map(str, self.shape))}]; got "
                f"{tuple(pixels.shape)}: resize them, or export the encoder for that size"
            )
        name = self.session.get_inputs()[0].name
        given = np.ascontiguousarray(pixels.cpu().numpy())
        return torch.from_numpy(self.session.run(None, {name: given})[0])

    def layers(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The features, under the one name that there is."""
        unknown = sorted(set(names) - set(self.layer_names))
        if unknown:
            raise ValueError(f"no layer {unknown}; a graph has {list(self.layer_names)}")
        return {name: self(pixels) for name in names}


def draw(shape: Sequence[int], batch: int = 2) -> Float[Tensor, "B ..."]:
    """Pixels to trace and to compare with."""
    return torch.rand(batch, *shape, generator=seeds.generator(0, "pixels", batch))


@contextmanager
def quieter() -> Iterator[None]:
    """Without the exporters' progress, advice and deprecations."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)
