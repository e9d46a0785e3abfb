"""Weights, gradients and moments in shards, a part on each rank (FSDP2); and whole again."""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from jepa.blocks import Blocks

M = TypeVar("M", bound=nn.Module)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Leaves to each rank of `mesh`, of one dimension, its part of every weight.

    The weights of a transformer block are whole on a rank while it computes that block, those
    outside of blocks during the forward and backward pass. The model is called as before, itself
    and not a part of it (Zhao et al. 2023, arXiv:2304.11277; here torch's `fully_shard`).
    """
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    vars(model)["twin"] = copy.deepcopy(model, cast(dict[int, Any], empty))  # and no part of it
    for part in list(model.modules()):
        if isinstance(part, Blocks):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(model: M) -> M:
    """The model itself; of one in shards a copy with all its weights, to which every rank must ask
    for its own."""
    if not isinstance(model, FSDPModule):
        return model
    twin = copy.deepcopy(vars(model)["twin"])
    twin.load_state_dict(
        {k: gathered(v.detach()) for k, v in model.state_dict().items()}, assign=True
    )
    return twin.train(model.training)


def gathered(tensor: Tensor) -> Tensor:
    """A tensor in shards as one; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
