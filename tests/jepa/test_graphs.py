"""Encoders as graphs: equal to torch in onnxruntime to 1e-4, for any size of a batch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from jepa.checkpoint import load_frozen_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.graphs import draw, exported, native_shape, quantise, write_onnx, write_program
from jepa.optional import optional

SIZES = {"image_size": 16, "patch_size": 8, "dim": 24, "depth": 1, "heads": 2}
CLIPS = {"frames": 4, "tubelet_size": 2}


def frozen(channels=1, **changes):
    torch.manual_seed(0)
    encoder = VisionTransformer(channels=channels, **SIZES | changes)
    return FrozenEncoder(encoder, mean=(0.3,) * channels, std=(0.2,) * channels, name="tiny")


@pytest.fixture(scope="module")
def rotary(tmp_path_factory):
    encoder = frozen(positions="rope_legacy", **CLIPS)
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    return encoder, write_onnx(path, encoder, native_shape(encoder))


def test_onnx_in_its_own_runtime(rotary):
    encoder, path = rotary
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pixels = draw(native_shape(encoder), batch)
        (found,) = session.run(["features"], {"pixels": pixels.numpy()})
        np.testing.assert_allclose(found, encoder(pixels).numpy(), atol=1e-4)


def test_the_file_is_a_frozen_encoder_of_one_layer_and_one_size(rotary):
    encoder, path = rotary
    again = load_frozen_encoder(path)
    clips = torch.randint(0, 256, (2, 1, 4, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(again(clips), encoder(clips), atol=1e-4, rtol=0)
    torch.testing.assert_close(again.layers(clips, ["norm"])["norm"], again(clips))
    assert again.grid(clips) == encoder.grid(clips)
    assert (again.dim, again.channels, again.layer_names) == (24, 1, ("norm",))
    with pytest.raises(ValueError, match="export the encoder for that size"):
        again(clips[..., :8])
    with pytest.raises(ValueError, match="no layer"):
        again.layers(clips, ["blocks.0"])


def test_eight_bits_are_near_and_another_encoder(rotary, tmp_path):
    encoder, path = rotary
    small = load_frozen_encoder(quantise(tmp_path / "encoder.int8.onnx", path))
    pixels = draw(native_shape(encoder), 8)
    gap = (small(pixels) - encoder(pixels)).abs().max()
    assert 1e-4 < gap < 0.3  # of features of variance 1
    assert small.fingerprint() != load_frozen_encoder(path).fingerprint()


def test_damaged_and_foreign_files_are_refused(rotary, tmp_path):
    _, path = rotary
    (tmp_path / "half.onnx").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="is damaged or no ONNX file"):
        load_frozen_encoder(tmp_path / "half.onnx")
    foreign = onnx.load(str(path))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ValueError, match="not made by jepa-toolkit"):
        load_frozen_encoder(tmp_path / "foreign.onnx")


def test_programs_of_torch_export(tmp_path):
    encoder = frozen(positions="rope", **CLIPS)
    path = write_program(tmp_path / "encoder.pt2", encoder, native_shape(encoder))
    program = torch.export.load(path).module()
    pixels = draw(native_shape(encoder), 5)
    torch.testing.assert_close(program(pixels), encoder(pixels))


def test_an_encoder_still_works_after_it_was_traced_at_a_size_it_never_saw():
    """Tables of positions are kept for all callers: those of a tracing must not be among them."""
    encoder = frozen(dim=36)
    exported(encoder, (1, 40, 40))
    assert encoder(torch.rand(1, 1, 40, 40)).isfinite().all()


def test_what_to_install_is_said():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jepa-toolkit\[onnx\]'"):
        optional("onnxruntime_of_nobody", extra="onnx", purpose="ONNX")
