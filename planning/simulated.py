"""The oracle of any simulator: it foresees by being put into states and stepped. True, but slow."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Entries `state` [B, S], `latent` [B, P]: the position, `reward` [B]: what the last
        decision has paid, here 0, and `lost` [B]: whether all is, here nowhere."""
        position = self.simulator.position(observation.numpy())
        entries = {
            "state": observation,
            "latent": torch.from_numpy(position).float(),
            "reward": torch.zeros(len(observation)),
            "lost": torch.zeros(len(observation), dtype=torch.bool),
        }
        return TensorDict(entries, batch_size=[len(observation)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision, one after another; where all is lost nothing moves any
        more, and nothing is paid."""
        after, paid, lost = state["state"].clone(), torch.zeros(len(action)), state["lost"].clone()
        for i in torch.nonzero(~lost).flatten().tolist():
            self.simulator.set_state(after[i].numpy())
            for _ in range(self.repeat):
                reward, lost[i] = self.simulator.step(action[i].numpy())
                paid[i] += reward
                if lost[i]:
                    break
            after[i] = torch.from_numpy(self.simulator.get_state())
        return self.encode(after).update({"reward": paid, "lost": lost})

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action."""
        return unroll(self.step, state, actions)
