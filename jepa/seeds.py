"""Named seeds: every random draw says what it is for, and is a pure function of that name.

A resumed run therefore needs no generator state: the draws of step 7,000 are the same whether
or not steps 1 to 6,999 were made by this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *name: str | int) -> int:
    """A 63-bit seed from `seed` and a name, e.g. `derive(0, "masks", step, rank)`."""
    text = "/".join(str(part) for part in (seed, *name)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator on `device`, seeded by `derive(seed, *name)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *name))


@contextmanager
def weights(seed: int, *name: str | int) -> Iterator[None]:
    """Modules made inside draw their weights from `derive(seed, *name)`; torch's own generator of
    the CPU is afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *name))
        yield
