"""Time of one training step and of mask sampling: `python benchmarks/train_step.py`.

Median of several steps; a step is masks, forward, backward, AdamW and the target's update.
Prints the Markdown table that stands in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from jepa import seeds
from jepa.encoder import VisionTransformer, vit_tiny
from jepa.losses import VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.training import decay_groups


def fashion_mnist() -> tuple[JEPA, MultiBlockMasks, int]:
    """The model of recipes/configs/ijepa_fashion_mnist.yaml: model, masks, batch."""
    encoder = VisionTransformer(image_size=28, patch_size=7, channels=1, dim=128, depth=4, heads=2)
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=64, depth=2, heads=2)
    model = JEPA(encoder=encoder, predictor=predictor, regulariser=VarianceCovariance())
    return model, MultiBlockMasks(min_keep=8), 32


def vit_tiny_224() -> tuple[JEPA, MultiBlockMasks, int]:
    """ViT-Ti/16 at 224 with a predictor of the same depth ratio as the paper's."""
    encoder = vit_tiny(image_size=224, patch_size=16)
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=96, depth=6, heads=3)
    return JEPA(encoder=encoder, predictor=predictor), MultiBlockMasks(), 16


def median_seconds(call: Callable[[int], object], repeats: int) -> float:
    """Median time of `call(step)`, after two calls that do not count."""
    times = []
    for step in range(repeats + 2):
        began = time.perf_counter()
        call(step)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def measure(
    build: Callable[[], tuple[JEPA, MultiBlockMasks, int]],
    *,
    bfloat16: bool,
    compiled: bool,
    repeats: int,
) -> tuple[float, float, int, int]:
    """Seconds of a step, seconds of sampling its masks, batch, tokens that enter a network."""
    torch.manual_seed(0)
    torch.compiler.reset()  # else the limit of recompilations counts those of the last model too
    model, masks, batch = build()
    encoder = model.encoder
    assert isinstance(encoder, VisionTransformer)
    size, channels = encoder.config["image_size"], encoder.channels
    images = torch.randn(batch, channels, size, size)
    optimizer = torch.optim.AdamW(decay_groups(model), lr=1e-3, fused=True)
    for part in (
        (encoder, model.predictor) if compiled else ()
    ):  # as `hardware: {compile: true}` does
        part.compile(dynamic=True)
    grid, tokens = encoder.native_grid, []

    def sample(step: int):
        return masks.sample(grid, batch, seeds.generator(0, "masks", step))

    def train(step: int) -> None:
        drawn = sample(step)
        kept, blocks, size = drawn.context.shape[1], *drawn.targets.shape[1:]
        tokens.append(batch * (grid[0] * grid[1] + kept + blocks * (kept + size)))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = torch.stack(list(model(images, drawn).losses.values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.target.update(model.encoder, 0.99)

    step_seconds = median_seconds(train, repeats)
    return step_seconds, median_seconds(sample, repeats), batch, round(statistics.mean(tokens))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, median of {options.repeats}\n")
    print("| model | precision | mode | batch | step ms | masks ms | images/s | tokens/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, build in (("Fashion-MNIST", fashion_mnist), ("ViT-Ti/16, 224", vit_tiny_224)):
        for bfloat16 in (False, True):
            for compiled in (False, True):
                step, masks, batch, tokens = measure(
                    build, bfloat16=bfloat16, compiled=compiled, repeats=options.repeats
                )
                print(
                    f"| {name} | {'bf16' if bfloat16 else 'float32'} "
                    f"| {'compiled' if compiled else 'eager'} | {batch} | {1e3 * step:.1f} "
                    f"| {1e3 * masks:.2f} | {batch / step:.0f} | {tokens / step:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
