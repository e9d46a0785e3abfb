"""Statistics over the samples of all ranks, with gradients, for losses of whole batches.

A loss of such statistics is the same on every rank. Its gradient with respect to the weights,
averaged over the ranks as DistributedDataParallel does, is that of one process with the whole
batch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed


class _Total(torch.autograd.Function):
    """A sum over ranks; the gradient is the sum of what the ranks send back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: one input, one gradient
        ctx: Any, gradient: Tensor
    ) -> Tensor:
        return _Total.forward(ctx, gradient)


def world_size() -> int:
    """How many ranks train together; 1 outside of distributed training."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def rank() -> int:
    """Which of them this is; 0 outside of distributed training."""
    return distributed.get_rank() if world_size() > 1 else 0


def largest(number: int, device: torch.device) -> int:
    """Of this number on all ranks, whose tensors are on `device`."""
    if world_size() == 1:
        return number
    found = torch.tensor(int(number), device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return int(found.item())


def wait() -> None:
    """Until all ranks are here."""
    if world_size() > 1:
        distributed.barrier()


def total(part: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The sum of `part` over all ranks."""
    return _Total.apply(part) if world_size() > 1 else part  # pyright: ignore[reportReturnType]


def gathered(samples: Float[Tensor, "n D"]) -> Float[Tensor, "all D"]:
    """The samples of all ranks, in the order of the ranks; n must be the same on each."""
    ranks = world_size()
    if ranks == 1:
        return samples
    mine = distributed.get_rank()
    places = [samples if rank == mine else torch.zeros_like(samples) for rank in range(ranks)]
    return total(torch.cat(places))
