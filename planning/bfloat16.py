"""World models in bfloat16: twice as fast and more where the processor multiplies it natively."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .protocols import Remembering, WorldModel


class Bfloat16:
    """A world model whose networks run under autocast; what they give stays float32. It is
    `Remembering` where that model is.

    Args:
        world_model: whose latents change by sums, as those of `ResidualMLP` do: sums stay exact.
    """

    def __init__(self, world_model: WorldModel) -> None:
        self.world_model = world_model
        if isinstance(world_model, Remembering):
            self.observe = world_model.observe  # in float32, as `encode`

    def encode(self, observation: Any) -> TensorDict:
        """In float32: it is done once per decision."""
        return self.world_model.encode(observation)

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The states after one action."""
        with torch.autocast(action.device.type, torch.bfloat16):
            return self.world_model.step(state, action).apply(whole)

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action."""
        with torch.autocast(actions.device.type, torch.bfloat16):
            return self.world_model.rollout(state, actions).apply(whole)


def whole(entry: Tensor) -> Tensor:
    """bfloat16 as float32; numbers of other kinds, such as members of an ensemble, as they are."""
    return entry.float() if entry.dtype == torch.bfloat16 else entry
