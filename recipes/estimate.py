"""What a run of pretraining would cost, measured on one batch: `jepa pretrain ... --dry_run`."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jepa import seeds
from jepa.linear import has_one_dnn
from jepa.masks import MaskSampler
from jepa.shapes import Grid, Masks
from jepa.training import Pretraining

STEPS = 3  # that are timed, after one that is not
DRAWS = 100  # of masks


@dataclass(frozen=True)
class Estimate:
    """What one process needs for a step of optimisation.

    parameters: of each part, and those that are trained.
    masks: (smallest, mean, largest) number of tokens, of contexts and of targets, by group.
    flops: forward and backward, a multiplication and an addition counting as two.
    seconds: of a step.
    state: bytes of parameters, slow copies, gradients and the optimiser's moments.
    activations: bytes that the forward pass keeps for the backward pass.
    batch: bytes of a batch as it comes from the loader.
    """

    parameters: dict[str, int]
    trained: int
    masks: list[dict[str, tuple[int, float, int]]]
    flops: int
    seconds: float
    state: int
    activations: int
    batch: int


def estimate(
    module: Pretraining, batches: Iterable[Any], *, bfloat16: bool, device: torch.device
) -> Estimate:
    """Takes a few steps on one batch, which change the module's weights.

    Args:
        module: with its model, masks and schedules.
        batches: NamedTuples, as for `Pretraining`; only the first is taken.
        bfloat16: under autocast, as the run would be.
        device: where the run would be.
    """
    batch = next(iter(batches))
    size = sum(part.nbytes for part in batch if isinstance(part, Tensor))
    batch = type(batch)(*(p.to(device) if isinstance(p, Tensor) else p for p in batch))
    model = module.to(device).model
    optimizer, kept, times = module.configure_optimizers(), Kept(), []

    def loss() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            return torch.stack(list(module.outcome(batch).losses.values())).sum()

    counter = FlopCounterMode(display=False, custom_mapping=uncounted())
    with kept.counted(), sdpa_kernel(SDPBackend.MATH), counter:
        loss().backward()
    for _ in range(1 + STEPS):
        optimizer.zero_grad()
        synchronize(device)
        began = time.perf_counter()
        loss().backward()
        optimizer.step()
        model.follow(module.optimisation.momentum_at(0))
        synchronize(device)
        times.append(time.perf_counter() - began)
    grid = model.encoder.grid(batch.images) if module.masks is not None else ()
    learnt = [p for p in model.parameters() if p.requires_grad]
    moments = (v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor))
    return Estimate(
        parameters={name: count(part) for name, part in model.named_children()},
        trained=sum(p.numel() for p in learnt),
        masks=statistics_of(module.masks, grid, len(batch[0]), module.seed),
        flops=counter.get_total_flops(),
        seconds=statistics.median(times[1:]),
        state=nbytes(model.parameters()) + nbytes(learnt) + nbytes(moments),
        activations=kept.bytes,
        batch=size,
    )


def uncounted() -> dict[Any, Callable[..., int]]:
    """FLOPs of the operator of `jepa.linear`, by the shapes given to it; torch knows no number."""
    if not has_one_dnn():
        return {}
    return {torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * prod(x) * weight[0]}


def count(part: nn.Module) -> int:
    """Of its parameters."""
    return sum(p.numel() for p in part.parameters())


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Of all of them."""
    return sum(tensor.nbytes for tensor in tensors)


class Kept:
    """Bytes that a forward pass keeps for its backward pass; no weights, each storage once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """So far."""
        return sum(self.storages.values())

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what is kept inside."""

        def pack(tensor: Tensor) -> Tensor:
            if not (tensor.is_leaf and tensor.requires_grad):
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


def statistics_of(
    sampler: MaskSampler | None, grid: Grid, batch: int, seed: int
) -> list[dict[str, tuple[int, float, int]]]:
    """Numbers of tokens over `DRAWS` draws of masks, for each group of them."""
    if sampler is None:
        return []
    groups: list[dict[str, list[int]]] = []
    for step in range(DRAWS):
        drawn = sampler.sample(grid, batch, seeds.generator(seed, "masks", step))
        for number, masks in enumerate((drawn,) if isinstance(drawn, Masks) else drawn):
            if number == len(groups):
                groups.append({"context": [], "targets": []})
            groups[number]["context"].append(masks.context.shape[1])
            groups[number]["targets"].append(masks.targets[0].numel())
    return [
        {name: (min(n), statistics.fmean(n), max(n)) for name, n in group.items()}
        for group in groups
    ]


def synchronize(device: torch.device) -> None:
    """Waits for what an accelerator still has to do."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def told(found: Estimate, *, steps: int, accumulate: int, processes: int, batch: int) -> str:
    """For people."""
    step = found.seconds * accumulate
    lines = [
        ("trained parameters", f"{found.trained / 1e6:.2f} M"),
        *((f"  {name}", f"{n / 1e6:.2f} M") for name, n in found.parameters.items() if n),
        (
            "samples in a step",
            f"{batch * accumulate * processes} ({batch} x {accumulate} x {processes})",
        ),
        *(
            (
                "tokens seen and hidden" + (f", group {i}" if len(found.masks) > 1 else ""),
                "; ".join(f"{name} {a} to {b}, mean {m:.1f}" for name, (a, m, b) in g.items()),
            )
            for i, g in enumerate(found.masks)
        ),
        ("FLOPs of a step and process", f"{found.flops * accumulate / 1e9:.2f} G"),
        ("weights, gradients, moments", mebibytes(found.state)),
        ("activations", mebibytes(found.activations)),
        ("a batch from the loader", mebibytes(found.batch)),
        ("seconds a step", f"{step:.3f} ({found.flops / found.seconds / 1e9:.0f} GFLOP/s)"),
        (f"time for {steps} steps", f"{step * steps / 3600:.2f} h, without probes and waiting"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def mebibytes(size: int) -> str:
    """In MiB."""
    return f"{size / 2**20:.1f} MiB"
