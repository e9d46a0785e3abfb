"""Benchmarks are never timed here; but what they import exists, and what they compare is equal."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.masks import MultiBlockMasks
from jepa.masks_video import MaskGroups
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.training import decay_groups

FILES = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_everything_that_a_benchmark_takes_from_the_project_exists(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jepa"):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def plain():
    return benchmark("plain")


def benchmark(name):
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("frames", [1, 4], ids=["images", "clips"])
def test_the_plain_model_is_the_same_model(frames):
    """Three steps each: equal losses, so equal gradients, optimisers and targets as well."""
    video = dict(frames=4, tubelet_size=2, positions="rope_legacy") if frames > 1 else {}
    with seeds.weights(0, "plain"):
        encoder = VisionTransformer(image_size=96, patch_size=16, dim=48, depth=2, heads=2, **video)
        predictor = Predictor(
            48,
            encoder.native_grid,
            dim=32,
            depth=2,
            heads=2,
            mask_tokens=2,
            positions=encoder.positions,
        )
    distance = "l1" if video else "smooth_l1"
    ours = JEPA(encoder=encoder, predictor=predictor, distance=distance)
    theirs = plain().PlainJEPA(ours)
    shape = (2, 3, 4, 96, 96) if video else (2, 3, 96, 96)
    images = torch.randn(shape, generator=seeds.generator(0, "images"))
    sampler = MaskGroups() if video else MultiBlockMasks(min_keep=4)
    optimizers = torch.optim.AdamW(decay_groups(ours), lr=1e-3, fused=True), theirs.optimizer(1e-3)
    for step in range(3):
        masks = sampler.sample(encoder.native_grid, 2, seeds.generator(0, "masks", step))
        groups = masks if isinstance(masks, tuple) else (masks,)
        losses = ours(images, groups).losses["prediction"], theirs(images, groups)
        torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
        for loss, optimizer, model in zip(losses, optimizers, (ours, theirs), strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.follow(0.9)


@pytest.mark.parametrize("name", ["collate_blocks", "collate_tubes"])
def test_plain_masks_are_disjoint_and_of_the_wanted_number(name):
    grid = (14, 14) if name == "collate_blocks" else (4, 14, 14)
    groups = getattr(plain(), name)(grid, 3, seeds.generator(0, name))
    for masks in groups if isinstance(groups, list) else [groups]:
        for context, targets in zip(masks.context, masks.targets.flatten(1), strict=True):
            assert len(context) > 0
            assert not set(context.tolist()) & set(targets.tolist())


@pytest.mark.parametrize("reference", ["anew", "published"])
def test_rotary_positions_worked_out_in_every_layer_are_the_same(reference):
    rope = benchmark("rope")
    with seeds.weights(0, "rope"):
        encoder = VisionTransformer(
            image_size=32, patch_size=8, frames=4, tubelet_size=2, dim=48, depth=2, heads=2,
            positions="rope_legacy",
        )  # fmt: skip
    clips = torch.randn(2, 3, 4, 32, 32, generator=seeds.generator(0, "clips"))
    other = getattr(rope, reference)(encoder, encoder.native_grid)
    for keep in (None, torch.tensor([[0, 5, 31], [1, 17, 20]])):
        found, wanted = (rope.masked(model, clips, keep) for model in (other, encoder))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
