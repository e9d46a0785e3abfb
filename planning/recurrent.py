"""Recurrent dynamics: what was seen before the latent counts, too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor, nn

from .dynamics import Dynamics, Scales, mlp
from .heads import PointHead


class GRU(Dynamics):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) over latents and actions.

    Its hidden state [B, hidden] is the entry `memory`, zero at the start.

    Args:
        scales: of latents and actions.
        hidden: width.
        layers: before the gates.
        head: makes the head, see `heads`.
    """

    told_first = 1

    def __init__(
        self,
        scales: Scales,
        *,
        hidden: int = 256,
        layers: int = 1,
        head: Callable[[int, int], nn.Module] = PointHead,
    ) -> None:
        super().__init__()
        self.scales, size = scales, len(scales.latent)
        self.embed = mlp(size + len(scales.action), hidden, layers)
        self.now, self.past = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        self.head = head(hidden, size)

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """A state without a past."""
        memory = latent.new_zeros(len(latent), self.past.in_features)
        return TensorDict({"latent": latent, "memory": memory}, batch_size=[len(latent)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        latent, before = state["latent"], state["memory"]
        seen = self.embed(self.scales(latent, action))
        memory = gated(self.now(seen), self.past(before), before)
        entries = self.head(latent, memory, self.scales.latent)
        return TensorDict(entries | {"memory": memory}, batch_size=state.batch_size)


def gated(
    now: Float[Tensor, "*B hidden3"],
    past: Float[Tensor, "*B hidden3"],
    memory: Float[Tensor, "*B hidden"],
) -> Float[Tensor, "*B hidden"]:
    """The next memory, as `nn.GRUCell` has it, of what its two linear layers say.

    Written out because torch's cell has no vmap, which ensembles need.
    """
    gates = zip(now.chunk(3, dim=-1), past.chunk(3, dim=-1), strict=True)
    (reset, was_reset), (update, was_update), (new, was_new) = gates
    fresh = torch.tanh(new + torch.sigmoid(reset + was_reset) * was_new)
    return fresh + torch.sigmoid(update + was_update) * (memory - fresh)
