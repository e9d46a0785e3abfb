"""Work that is done on the processor and on a device that is not: the same must come out."""

from __future__ import annotations

import accelerator
import torch
from tensordict import TensorDict

from jepa.encoder import VisionTransformer

HERE, THERE = torch.device("cpu"), accelerator.DEVICE


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(found):
    """All tensors of it, in order."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, TensorDict):
        found = dict(sorted(found.items()))
    parts = found.values() if isinstance(found, dict) else found
    return [tensor for part in parts for tensor in numbers(part)]


def alike(work, close=1e-4):
    """work(device) stays on its device, and finds the same on both."""
    here, there = (numbers(work(device)) for device in (HERE, THERE))
    assert len(here) == len(there) > 0
    for one, other in zip(here, there, strict=True):
        assert other.device == THERE
        torch.testing.assert_close(other.cpu(), one, rtol=close, atol=close)


def images():
    torch.manual_seed(0)
    return VisionTransformer(image_size=32, patch_size=4, channels=3, dim=24, depth=2, heads=2)
