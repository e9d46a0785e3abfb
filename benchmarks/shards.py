"""Memory of a rank: all weights, gradients and moments (ddp), or its part of them (fsdp).

ViT-B on 16 patches with a predictor of ViT-S's width, two ranks of one machine, a few steps of
forward, backward, AdamW and target. `live` is what tensors hold, `process` what the process has of
the system, Python and torch included; both are the most that was seen between the parts of a step.
In the last two rows glibc gives freed memory back (MALLOC_MMAP_THRESHOLD_). Prints a Markdown
table.

    python benchmarks/shards.py
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.sharded import shard
from jepa.training import decay_groups

MB = 2**20
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(MB)}


def held() -> float:
    """MB of all tensors of this process, each storage once, of those in shards the part here."""
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor):
            local = found.to_local() if isinstance(found, DTensor) else found
            storage = local.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values()) / MB


def resident() -> float:
    """MB of memory of this process that is no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def parts_of_steps(strategy: str, steps: int) -> Iterator[None]:
    """Stops after forward pass, backward pass and update of each step."""
    encoder = VisionTransformer(
        image_size=32, patch_size=8, channels=1, dim=768, depth=12, heads=12
    )
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=384, depth=6, heads=6)
    model = JEPA(encoder=encoder, predictor=predictor)
    called: Any = model
    if strategy == "fsdp":
        shard(model, init_device_mesh("cpu", (distributed.get_world_size(),)))
    else:
        called = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(decay_groups(model), lr=1e-4, fused=True)
    images = torch.randn(8, 1, 32, 32)
    for step in range(steps):
        masks = MultiBlockMasks(min_keep=4).sample(
            encoder.native_grid, len(images), seeds.generator(0, "masks", step)
        )
        loss = called(images, masks).losses["prediction"]
        yield
        loss.backward()
        yield
        optimizer.step()
        model.follow(0.99)
        yield
        optimizer.zero_grad()


def rank_of(rank: int, name: str, strategy: str, steps: int, folder: str) -> None:
    """One rank; the first one prints."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    most = [0.0, 0.0]
    for _ in parts_of_steps(strategy, steps):
        most = [max(old, new) for old, new in zip(most, (held(), resident()), strict=True)]
    if not rank:
        print(f"| {name} | {most[0]:.0f} | {most[1]:.0f} |", flush=True)
    distributed.barrier()
    distributed.destroy_process_group()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Memory of a rank, with and without shards.")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    print("| strategy | live, MB | process, MB |\n|---|---|---|", flush=True)
    spawn = multiprocessing.get_context("spawn")  # glibc reads its settings at the start
    back = ", freed memory given back"
    for strategy, more, settings in (
        ("ddp", "", {}), ("fsdp", "", {}), ("ddp", back, GIVEN_BACK), ("fsdp", back, GIVEN_BACK)
    ):  # fmt: skip
        os.environ.update(settings)
        with tempfile.TemporaryDirectory() as folder:
            ranks = [
                spawn.Process(
                    target=rank_of, args=(rank, strategy + more, strategy, options.steps, folder)
                )
                for rank in (0, 1)
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
        if any(process.exitcode for process in ranks):
            raise SystemExit(f"{strategy}: a rank failed")


if __name__ == "__main__":
    main()
