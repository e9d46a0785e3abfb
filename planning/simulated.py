"""The oracle of any simulator: it foresees by being put into states and stepped. True, but slow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from .pixel_tasks import Simulator
from .planner import unroll


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulator as a world model over its states, the observations of `SeenStates`.

    Args:
        simulator: whose states can be set.
        repeat: simulator steps per decision.
    """

    simulator: Simulator
    repeat: int = 1

    def encode(self, observation: Float[Tensor, "B S"]) -> TensorDict:
        """Entries `state` [B, S], `latent` [B, P]: the position, and `reward` [B]: what the last
        decision has paid, here 0."""
        position = self.simulator.position(observation.numpy())
        entries = {
            "state": observation,
            "latent": torch.from_numpy(position).float(),
            "reward": torch.zeros(len(observation)),
        }
        return TensorDict(entries, batch_size=[len(observation)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision, one after another; what is lost is paid nothing more."""
        after, paid = np.empty_like(state["state"].numpy()), torch.zeros(len(action))
        for i, (start, held) in enumerate(zip(state["state"].numpy(), action.numpy(), strict=True)):
            self.simulator.set_state(start)
            for _ in range(self.repeat):
                reward, lost = self.simulator.step(held)
                paid[i] += reward
                if lost:
                    break
            after[i] = self.simulator.get_state()
        return self.encode(torch.from_numpy(after)).update({"reward": paid})

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action."""
        return unroll(self.step, state, actions)
