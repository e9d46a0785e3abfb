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

    States have the entry `memory`: `energy` [B, M], and `members`, the states by number that all of
    them foresee. It takes as many times the computation as there are dynamics.

    Args:
        members: dynamics of the same latent, each of which remembers by itself. The first is
            followed until another one explains more.
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
        members = [member.start(latent) for member in self._members()]
        return state_of(latent, latent.new_zeros(len(latent), len(members)), members)

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """As the dynamics of least energy foresee it."""
        members = [
            member.step(member.observe(own, state["latent"]), action)
            for member, own in zip(self._members(), members_of(state), strict=True)
        ]
        energy = state["memory", "energy"]
        best = energy.argmin(dim=1)[:, None, None]
        latent = latents_of(members).take_along_dim(best, dim=1).squeeze(1)
        return state_of(latent, energy, members)

    def observe(self, state: TensorDict, latent: Float[Tensor, "B D"]) -> TensorDict:
        """The state at the latent that came; the energies tell who foresaw it."""
        members = members_of(state)
        error = (latents_of(members) - latent[:, None]).square().mean(dim=-1)
        return state_of(latent, self.forget * state["memory", "energy"] + error, members)

    def _members(self) -> list[Dynamics]:
        return cast("list[Dynamics]", list(self.members))


def state_of(
    latent: Float[Tensor, "B D"], energy: Float[Tensor, "B M"], members: Sequence[TensorDict]
) -> TensorDict:
    """The state of `Identified`."""
    memory = {"energy": energy, "members": {str(i): own for i, own in enumerate(members)}}
    return TensorDict({"latent": latent, "memory": memory}, batch_size=[len(latent)])


def members_of(state: TensorDict) -> list[TensorDict]:
    """The states of all members."""
    members = state["memory", "members"]
    return [members[str(i)] for i in range(len(members.keys()))]


def latents_of(members: Sequence[TensorDict]) -> Float[Tensor, "B M D"]:
    """What each of them foresees."""
    return torch.stack([own["latent"] for own in members], dim=1)
