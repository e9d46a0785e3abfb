"""One training step against a plain reading of the papers, and what it is made of.

    python benchmarks/train_step.py --threads 2                      # the tables
    python benchmarks/train_step.py --threads 2 --out runs/speed     # and result.json

Both sides have the same weights, images and masks (`tests/test_benchmarks.py` shows that they are
one model), each in a process of its own, and take their steps in turns: forward, backward, AdamW
and the target's update, with masks of other sizes in every turn. `ratio` is the median over the
turns of plain time over ours. In every turn large matrices are multiplied and memory is copied:
the peaks that shares are taken of. Masks are measured by themselves; the plain ones are drawn
sample by sample, as a collator draws them. Published in docs/results/speed.json.
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from plain import PlainJEPA, collate_blocks, collate_tubes
from torch import Tensor

from jepa import seeds
from jepa.encoder import VisionTransformer, vit_small
from jepa.masks import MaskSampler, MultiBlockMasks
from jepa.masks_video import MaskGroups
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.recipes.hardware import fast_bfloat16
from jepa.recipes.results import Measured, exactly, write_result
from jepa.shapes import Masks
from jepa.training import decay_groups

SIDES = ("plain", "float32", "bf16")  # the last two are ours
MOMENTUM = 0.996


class Case(NamedTuple):
    """A model, the shape of its batch, and where its masks come from."""

    model: JEPA
    shape: tuple[int, ...]
    masks: MaskSampler


def ijepa_vits16() -> Case:
    """ViT-S/16 at 224; predictor of the paper's width, and of its depth for small encoders."""
    encoder = vit_small()
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=384, depth=6, heads=6)
    return Case(JEPA(encoder=encoder, predictor=predictor), (16, 3, 224, 224), MultiBlockMasks())


def vjepa_vits() -> Case:
    """ViT-S/16 of V-JEPA 2 on 16 frames at 224, with its predictor and both of its masks."""
    encoder = vit_small(frames=16, tubelet_size=2, positions="rope_legacy")
    predictor = Predictor(
        encoder.dim,
        encoder.native_grid,
        dim=384,
        depth=12,
        heads=12,
        mask_tokens=2,
        positions="rope_legacy",
    )
    model = JEPA(encoder=encoder, predictor=predictor, distance="l1")
    return Case(model, (1, 3, 16, 224, 224), MaskGroups())


def fashion_mnist() -> Case:
    """The model of recipes/configs/ijepa_fashion_mnist.yaml, without its regulariser."""
    encoder = VisionTransformer(image_size=28, patch_size=7, channels=1, dim=128, depth=4, heads=2)
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=64, depth=2, heads=2)
    model = JEPA(encoder=encoder, predictor=predictor)
    return Case(model, (32, 1, 28, 28), MultiBlockMasks(min_keep=8))


CASES = {build.__name__: build for build in (ijepa_vits16, vjepa_vits, fashion_mnist)}


def drawn(case: Case, turn: int) -> tuple[Masks, ...]:
    """The masks of a turn, on every side."""
    grid = case.model.encoder.grid(torch.empty(case.shape))
    masks = case.masks.sample(grid, case.shape[0], seeds.generator(0, "speed", turn))
    return (masks,) if isinstance(masks, Masks) else masks


def work(case: Case, groups: Sequence[Masks]) -> float:
    """Multiplications and additions of the matrix products of a step, as published.

    A block of width D has products of 24 D^2 a token, and 4 D times the tokens that it attends to.
    What learns has a backward pass of twice that; the target encoder has none, and sees all.
    """

    def blocks(config: dict[str, Any], tokens: int) -> float:
        dim = config["dim"]
        return (
            config["depth"] * tokens * ((8 + 4 * config["mlp_ratio"]) * dim**2 + 4 * tokens * dim)
        )

    model: Any = case.model
    encoder, predictor = model.encoder.config, model.predictor.config
    batch, tokens = case.shape[0], torch.Size(case.model.predictor.native_grid).numel()
    total = blocks(encoder, tokens)
    for masks in groups:
        context, (count, size) = masks.context.shape[1], masks.targets.shape[1:]
        total += 3 * (blocks(encoder, context) + count * blocks(predictor, context + size))
    return batch * total


class Side:
    """A model that takes steps, plainly or as we do it."""

    def __init__(self, case: Case, side: str) -> None:
        self.case, self.side = case, side
        self.images = torch.randn(case.shape, generator=seeds.generator(0, "images"))
        self.model: Any = PlainJEPA(case.model) if side == "plain" else case.model
        if side == "plain":
            self.optimizer: torch.optim.Optimizer = self.model.optimizer(1e-4)
        else:
            groups = decay_groups(case.model)
            self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def loss(self, groups: tuple[Masks, ...]) -> Tensor:
        if self.side == "plain":
            return self.model(self.images, groups)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.side == "bf16"):
            return self.model(self.images, groups).losses["prediction"]

    def step(self, turn: int) -> dict[str, float]:
        """Seconds of the step, and of its update: optimiser and target."""
        groups = drawn(self.case, turn)
        began, cpu = time.perf_counter(), time.process_time()
        loss = self.loss(groups)
        loss.backward()
        learnt = time.perf_counter()
        self.optimizer.step()
        self.model.follow(MOMENTUM)
        ended = time.perf_counter()
        self.optimizer.zero_grad()
        return {
            "loss": loss.item(),
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "update": ended - learnt,
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


class Peaks:
    """What the processor can do: products a second in two precisions, bytes copied a second."""

    def __init__(self) -> None:
        a = torch.randn(2048, 2048)
        self.pairs = {"float32": (a, a.clone())}
        if fast_bfloat16("cpu"):
            self.pairs["bf16"] = (a.bfloat16(), a.clone().bfloat16())
        self.source = torch.randn(1 << 26)
        self.copy = torch.empty_like(self.source)

    def step(self, turn: int) -> dict[str, float]:
        found = {}
        for name, (a, b) in self.pairs.items():
            found[name] = 2 * 2048**3 / min(seconds(lambda a=a, b=b: a @ b) for _ in range(5))
        copied = min(seconds(lambda: self.copy.copy_(self.source)) for _ in range(5))
        return found | {"bytes": 2 * self.source.nbytes / copied}


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def serve(connection: Connection, case: str, side: str, threads: int) -> None:
    """A process: takes a step whenever it is told a turn, until it is told None."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    served: Side | Peaks = Peaks() if side == "peaks" else Side(CASES[case](), side)
    while (turn := connection.recv()) is not None:
        connection.send(served.step(turn))


def turns(case: str, sides: Sequence[str], threads: int, repeats: int) -> dict[str, list[dict]]:
    """`repeats` steps of every side, in turns, after one that does not count."""
    context = multiprocessing.get_context("spawn")
    asked, processes = {}, []
    for side in (*sides, "peaks"):
        asked[side], there = context.Pipe()
        process = context.Process(target=serve, args=(there, case, side, threads), daemon=True)
        process.start()
        processes.append(process)
    found: dict[str, list[dict]] = {side: [] for side in asked}
    for turn in range(repeats + 1):
        for side, connection in asked.items():
            connection.send(turn)
            found[side].append(connection.recv())
    for connection in asked.values():
        connection.send(None)
    for process in processes:
        process.join()
    return {side: steps[1:] for side, steps in found.items()}


def measured(values: Sequence[float]) -> Measured:
    """Median, least and largest of the turns."""
    return Measured(value=statistics.median(values), low=min(values), high=max(values))


def compare(name: str, sides: Sequence[str], threads: int, repeats: int) -> dict[str, Measured]:
    """Rows of the table for one model, printed; the numbers by name."""
    found = turns(name, sides, threads, repeats)
    case = CASES[name]()
    flops = [work(case, drawn(case, turn)) for turn in range(1, repeats + 1)]
    numbers: dict[str, Measured] = {}
    for side in sides:
        steps = found[side]
        peak = [p["bf16" if side == "bf16" else "float32"] for p in found["peaks"]]
        key = name if side == "bf16" else f"{name}_float32"
        key = f"plain/{name}" if side == "plain" else key
        pairs = list(zip(found["plain"], steps, strict=True))
        share = [f / s["seconds"] / p for f, s, p in zip(flops, steps, peak, strict=True)]
        numbers[f"{key}/seconds"] = measured([s["seconds"] for s in steps])
        numbers[f"{key}/share_of_peak"] = measured(share)
        numbers[f"{key}/megabytes"] = exactly(steps[-1]["megabytes"])
        numbers[f"{key}/update_seconds"] = measured([s["update"] for s in steps])
        if side != "plain":
            numbers[f"{key}/ratio"] = measured([p["seconds"] / s["seconds"] for p, s in pairs])
            numbers[f"{key}/cpu_ratio"] = measured([p["cpu"] / s["cpu"] for p, s in pairs])
        cpu = statistics.median(p["cpu"] / s["cpu"] for p, s in pairs)
        print(
            f"| {name} | {side} | {1e3 * statistics.median(s['seconds'] for s in steps):.0f} "
            f"| {statistics.median(p['seconds'] / s['seconds'] for p, s in pairs):.2f} | {cpu:.2f} "
            f"| {100 * statistics.median(share):.0f} % "
            f"| {1e3 * statistics.median(s['update'] for s in steps):.0f} "
            f"| {steps[-1]['megabytes']:.0f} | {steps[-1]['loss']:.5f} |",
            flush=True,
        )
    numbers |= {
        f"{name}/peak_{k}": measured([p[k] for p in found["peaks"]]) for k in found["peaks"][0]
    }
    learnt = sum(p.numel() for p in case.model.parameters() if p.requires_grad)
    slow = sum(p.numel() for p in case.model.target.parameters())
    moved = 4 * (7 * learnt + 3 * slow)  # AdamW reads 4 numbers and writes 3, the target 2 and 1
    bound = [
        s["update"] * p["bytes"] / moved
        for s, p in zip(found[sides[-1]], found["peaks"], strict=True)
    ]
    numbers[f"{name}/update_over_bound"] = measured(bound)
    needed = f"{statistics.median(bound):.2f} of the time that {moved / 1e9:.2f} GB need"
    print(f"\n{name}: the update takes {needed}\n")
    return numbers


def compare_masks(repeats: int, batch: int = 256) -> dict[str, Measured]:
    """Sampling for a batch, the plain collators against ours."""
    numbers = {}
    whole_tubes = tuple(replace(group, truncation="tubes") for group in MaskGroups().groups)
    for name, grid, plain, ours in (
        ("masks", (14, 14), collate_blocks, MultiBlockMasks()),
        ("video_masks", (8, 14, 14), collate_tubes, MaskGroups()),
        ("tube_masks", (8, 14, 14), collate_tubes, MaskGroups(groups=whole_tubes)),
    ):
        times: list[tuple[float, float]] = []
        for turn in range(repeats + 1):
            generator = seeds.generator(0, name, turn)
            theirs = seconds(lambda p=plain, g=grid, r=generator: p(g, batch, r))
            times.append(
                (theirs, seconds(lambda o=ours, g=grid, r=generator: o.sample(g, batch, r)))
            )
        numbers[f"{name}/seconds"] = measured([b for _, b in times[1:]])
        numbers[f"plain/{name}/seconds"] = measured([a for a, _ in times[1:]])
        numbers[f"{name}/ratio"] = measured([a / b for a, b in times[1:]])
        plain_ms, ours_ms = (1e3 * statistics.median(t) for t in zip(*times[1:], strict=True))
        ratio = numbers[f"{name}/ratio"]["value"]
        print(f"| {name} | {batch} | {plain_ms:.1f} | {ours_ms:.2f} | {ratio:.1f} |", flush=True)
    return numbers


def main() -> None:
    """Print the tables; write the result."""
    parser = argparse.ArgumentParser(description="One training step against a plain reading.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    able = SIDES[1:] if fast_bfloat16("cpu") else SIDES[1:2]
    parser.add_argument("--sides", nargs="*", choices=able, default=list(able))
    parser.add_argument("--out", type=Path, help="folder for result.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "bf16" not in able:
        print("bf16 is left out: this processor has no products of bfloat16\n")
    began, numbers = time.monotonic(), {}
    print("| masks | batch | plain ms | ours ms | ratio |\n|---|---|---|---|---|")
    numbers |= compare_masks(max(options.repeats, 9))
    print(f"\n{options.threads} threads, median of {options.repeats}\n")
    print("| model | side | step ms | ratio | of cpu time | of the peak | update ms | MB | loss |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.cases:
        numbers |= compare(name, ("plain", *options.sides), options.threads, options.repeats)
        if options.out:  # after every model: a run that is cut short leaves what it has
            options.out.mkdir(parents=True, exist_ok=True)
            write_result(
                options.out,
                recipe="speed",
                seed=0,
                seconds=time.monotonic() - began,
                metrics={k: v for k, v in numbers.items() if not k.startswith("plain/")},
                baselines={k: v for k, v in numbers.items() if k.startswith("plain/")},
            )


if __name__ == "__main__":
    main()
