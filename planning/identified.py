"""Which of several dynamics is true here? z that stays, inferred from the last steps by energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor, nn

from .dynamics import Dynamics


class Identified(Dynamics):
    """Follows, in each environment, that one of several dynamics which has explained it best.

    What one observation does not show, such as how strong actions are, shows in what came of the
    last decisions. Which of the dynamics holds is a latent variable that stays, and is inferred as
    in LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 4.4: the one of least
    energy, which is the mean square, per number, of what it foresaw less what came, summed over
    the decisions so far, each counting `forget` times as much as the next.

    States have the entry `memory`: `energy` [B, M], and `foreseen` [B, M, D], the latents that all
    of them foresee. It takes as many times the computation as there are dynamics.

    Args:
        members: dynamics of the same latent, without a memory of their own. The first is followed
            until another one explains more.
        forget: in [0, 1): how fast the past is forgotten; 0 looks at the last decision alone.
    """

    def __init__(self, members: Sequence[Dynamics], *, forget: float = 0.8) -> None:
        super().__init__()
        if not members or not 0 <= forget < 1:
            raise ValueError(
                f"need members, and forget in [0, 1); got {len(members)} members and {forget}"
            )
        self.members, self.forget = nn.ModuleList(members), forget

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """Nothing is known of the past."""
        return self._state(latent, latent.new_zeros(len(latent), len(self.members)))

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """As the dynamics of least energy foresee it."""
        here = TensorDict({"latent": state["latent"]}, batch_size=state.batch_size)
        members = cast("list[Dynamics]", list(self.members))
        after = [member.step(here, action)["latent"] for member in members]
        foreseen = torch.stack(after, dim=1)
        energy = state["memory", "energy"]
        best = energy.argmin(dim=1)[:, None, None]
        stepped = self._state(foreseen.take_along_dim(best, dim=1).squeeze(1), energy)
        stepped["memory", "foreseen"] = foreseen
        return stepped

    def observe(self, state: TensorDict, latent: Float[Tensor, "B D"]) -> TensorDict:
        """The state at the latent that came; the energies tell who foresaw it."""
        error = (state["memory", "foreseen"] - latent[:, None]).square().mean(dim=-1)
        return self._state(latent, self.forget * state["memory", "energy"] + error)

    def _state(self, latent: Float[Tensor, "B D"], energy: Float[Tensor, "B M"]) -> TensorDict:
        foreseen = latent[:, None].expand(-1, len(self.members), -1)
        memory = TensorDict({"energy": energy, "foreseen": foreseen}, batch_size=[len(latent)])
        return TensorDict({"latent": latent, "memory": memory}, batch_size=[len(latent)])
