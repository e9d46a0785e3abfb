"""Batches whose loss is no number: kept for inspection, and passed over; too many end a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.files import write_safetensors
from jepa.ranks import largest

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Losses or weights are NaN or infinite, and going on would be of no use."""


class Guard:
    """Lets no loss that is NaN or infinite into the weights.

    Whether a step is passed over depends on the step alone, so a resumed run passes over the same.
    Of several ranks all pass over it, with all the batches that are accumulated for it.

    Args:
        folder: gets `step_12_rank_0.safetensors` for each such batch: its tensors and losses.
            Of several that are accumulated for a step the later ones are
            `step_12_batch_1_rank_0.safetensors` and so on.
        most: such batches over the whole run, those before a resume too; one more ends it.
    """

    def __init__(self, folder: str | Path, *, most: int = 10) -> None:
        if most < 0:
            raise ValueError(f"most is a number of batches, at least 0; got {most}")
        self.folder, self.most = Path(folder), most

    def passes(
        self,
        losses: Mapping[str, Tensor],
        batch: Any,
        *,
        step: int,
        rank: int,
        micro_batch: int = 0,
    ) -> bool:
        """Whether to learn from a batch, a NamedTuple, of these losses; of those that are
        accumulated for a step, it is number `micro_batch`.

        Raises NonFiniteError when there were too many.
        """
        every = torch.stack(list(losses.values()))
        mine = not every.isfinite().all().item()
        if mine:
            place = f"step_{step}" + (f"_batch_{micro_batch}" if micro_batch else "")
            path = self.folder / f"{place}_rank_{rank}.safetensors"
            kept = {k: v for k, v in batch._asdict().items() if isinstance(v, Tensor)}
            kept |= {f"loss/{name}": value for name, value in losses.items()}
            write_safetensors(path, kept, {"step": str(step), "rank": str(rank)})
            told = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            log.warning("step %d is passed over: %s; its batch is in %s", step, told, path)
            if (count := len(list(self.folder.glob(f"step_*_rank_{rank}.*")))) > self.most:
                raise NonFiniteError(
                    f"the loss of {count} batches was NaN or infinite, more than {self.most}; "
                    f"they are in {self.folder}. Look at their pixels first; if these are sound, "
                    "a lower learning rate, a longer warm-up or gradient clipping may help"
                )
        return not largest(mine, every.device)
