"""`--dry_run`: what it tells is true, and it reads one batch and writes nothing."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from jepa import linear
from jepa.datasets import folders
from jepa.encoder import VisionTransformer
from jepa.frozen import Normalize
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.recipes.cli import main
from jepa.recipes.estimate import Kept, estimate
from jepa.training import Optimisation, Pretraining


class Batch(NamedTuple):
    images: torch.Tensor


@pytest.fixture(scope="module")
def found():
    module = tiny()
    forward = {"student": 0, "target": 0}  # FLOPs of linear layers and of products of attention

    def counts(name):
        def hook(layer, given, out):
            forward[name] += 2 * out.numel() * layer.in_features

        return hook

    for name, part in module.model.named_modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(counts("target" if "target" in name else "student"))
    first = Batch(torch.randint(0, 256, (16, 1, 32, 32)).byte())

    def batches():
        yield first
        raise AssertionError("more than one batch was taken")

    told = estimate(module, batches(), bfloat16=False, device=torch.device("cpu"))
    passes = 1 + 1 + 3  # counted, warm, timed
    return told, forward["target"] / passes + 3 * forward["student"] / passes


def tiny():
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=32, patch_size=4, channels=1, dim=64, depth=2, heads=4)
    predictor = Predictor(64, encoder.native_grid, dim=32, depth=2, heads=4)
    return Pretraining(
        model=JEPA(encoder=encoder, predictor=predictor),
        masks=MultiBlockMasks(),
        normalize=Normalize((0.5,), (0.25,)),
        optimisation=Optimisation(steps=10),
    )


def test_flops_are_three_forward_passes_of_what_learns_and_one_of_the_target(found):
    """Attention's own products, which the truth leaves out, are a tenth here."""
    told, linear = found
    assert linear < told.flops < 1.25 * linear


@pytest.mark.skipif(
    not linear.processor().get("avx512_bf16"), reason="the processor multiplies no bfloat16"
)
def test_flops_are_the_same_whichever_operator_makes_the_products(monkeypatch):
    told = []
    for least in (1, 1 << 60):  # numbers of an output from which it is oneDNN's fused operator
        monkeypatch.setattr(linear, "BIASES", least)
        batches = [Batch(torch.zeros(16, 1, 32, 32).byte())]
        found = estimate(tiny(), batches, bfloat16=True, device=torch.device("cpu"))
        told.append(found.flops)
    assert told[0] == told[1] > 0


def test_parameters_and_state_are_counted(found):
    told, _ = found
    model = tiny().model
    encoder, predictor = (
        sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.predictor)
    )
    assert told.parameters["encoder"] == told.parameters["target"] == encoder
    assert told.trained == encoder + predictor
    weights_and_moments = 4 * (encoder + told.trained * 4)  # float32: w, gradient, m, v; target
    assert told.state == pytest.approx(weights_and_moments, rel=1e-3)  # and counts of steps
    assert told.batch == 16 * 32 * 32


def test_masks_are_those_of_the_run(found):
    (group,) = found[0].masks
    low, mean, high = group["context"]
    assert 10 <= low < mean < high <= 64
    assert group["targets"][0] % 4 == 0  # four blocks


def test_what_a_forward_pass_keeps():
    x, kept = torch.ones(1000, requires_grad=True), Kept()
    with kept.counted():
        y = x.exp()  # keeps its result
        z = y.exp() + y.sin()  # keep a result, and y once more
    z.sum().backward()
    assert kept.bytes == 2 * 4000
    weight, kept = torch.nn.Parameter(torch.ones(50, 50)), Kept()
    with kept.counted():
        given = torch.ones(10, 50)
        (given @ weight).sum()
    assert kept.bytes == given.nbytes


def test_the_command_reads_one_batch_and_writes_nothing(tmp_path, capsys, monkeypatch):
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(30):
            (tmp_path / "images" / split / str(i % 2)).mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / str(i % 2) / f"{i}.png")
    read, decode = [], folders.decode
    monkeypatch.setattr(folders, "decode", lambda path: read.append(path) or decode(path))
    arguments = [
        "pretrain",
        f"--data.source=folder:{tmp_path / 'images'}",
        *("--data.image_size=16", "--data.batch_size=8", "--data.workers=0"),
        *("--encoder.image_size=16", "--encoder.patch_size=4", "--encoder.channels=3"),
        *("--encoder.dim=16", "--encoder.depth=1", "--encoder.heads=2"),
        *("--predictor.dim=16", "--predictor.depth=1", "--predictor.heads=2"),
        *("--optimisation.steps=1000", "--accumulate=2", "--hardware.accelerator=cpu"),
        *("--masks=MultiBlockMasks", "--masks.min_keep=2"),
    ]
    assert main([*arguments, f"--out={tmp_path / 'out'}", "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert "samples in a step            16 (8 x 2 x 1)" in told
    assert "time for 1000 steps" in told
    assert len(read) == 8
    assert not (tmp_path / "out").exists()
