"""Where a run computes, and how: devices, strategy, precision, threads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from pytorch_lightning.strategies import ModelParallelStrategy

from jepa.linear import processor
from jepa.tables import CPU

Precision = Literal["auto", "bf16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how a run computes; passed to Lightning's Trainer.

    Args:
        accelerator: cpu, cuda, mps or auto.
        devices: how many.
        nodes: how many machines.
        strategy: ddp, fsdp (weights, gradients and moments in shards, FSDP2), any other of
            Lightning's names, or auto.
        precision: bf16 under autocast, float32, or auto: bf16 where the processor is fast at it.
        compile: compile encoder and predictor with torch.compile.
        activation_checkpointing: compute activations again in the backward pass; less memory for
            a third more time.
        threads: of the processor; None: torch's choice. Small models are fastest with one.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        there = {  # asked only where it is wanted: CUDA's driver starts when it is
            "cuda": torch.cuda.is_available,
            "gpu": torch.accelerator.is_available,
            "mps": torch.backends.mps.is_available,
        }
        if self.accelerator in there and not there[self.accelerator]():
            raise ValueError(
                f"hardware.accelerator is {self.accelerator}, which torch does not find here: give "
                "cpu, or auto"
            )

    def lightning_precision(self) -> Literal["bf16-mixed", "32-true"]:
        """Lightning's name of the precision; warns of bf16 on a processor that only emulates it."""
        fast = fast_bfloat16(self.accelerator)
        if self.precision == "bf16" and not fast and self.device().type == "cpu":
            warnings.warn(
                "precision is bf16, but this processor has no products of bfloat16: they can take "
                "a hundred times as long as those of float32; use precision=auto or float32",
                stacklevel=2,
            )
        bf16 = fast if self.precision == "auto" else self.precision == "bf16"
        return "bf16-mixed" if bf16 else "32-true"

    def feature_precision(self) -> Literal["bfloat16", "float32"]:
        """The probes' name of the precision."""
        return "bfloat16" if self.lightning_precision() == "bf16-mixed" else "float32"

    def device(self) -> torch.device:
        """The device of this process, also of one of several that torchrun or SLURM started."""
        if self.accelerator == "auto":
            return torch.accelerator.current_accelerator(check_available=True) or CPU
        return torch.device("cuda" if self.accelerator == "gpu" else self.accelerator)

    @property
    def processes(self) -> int:
        """One for each device of each machine."""
        return self.devices * self.nodes

    def fabric(self) -> Fabric:
        """What starts a process for each device, for work that is no training."""
        return Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.nodes,
            strategy=self.strategy,
        )

    def lightning_strategy(self) -> str | ModelParallelStrategy:
        """Lightning's strategy, or its name."""
        if self.strategy != "fsdp":
            return self.strategy
        return ModelParallelStrategy(
            data_parallel_size=self.processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )


ON_ONE = Hardware(precision="float32")  # where frozen features are computed


def fast_bfloat16(accelerator: str) -> bool:
    """Whether the processor that `accelerator` names multiplies in bfloat16 natively."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    return bool(processor().get("avx512_bf16") or processor().get("amx_bf16"))
