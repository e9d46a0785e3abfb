"""The reactive policy, mode 1: from a latent and a goal to an action, without planning.

LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 3.1.3: what mode 2 has found
by planning is learnt by a policy, which then does it at once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor, nn

from .dynamics import mlp
from .pairs import Pairs
from .protocols import ActionSpace, Energy, Planner, WorldModel
from .training import adam


class GoalPolicy(nn.Module):
    """An action inside the bounds, of a latent and a goal's latent.

    Args:
        scale: deviation of the latents, [D].
        action_space: a box.
        hidden: width of the layers.
    """

    centre: Tensor
    radius: Tensor

    def __init__(
        self, scale: Float[Tensor, " D"], action_space: ActionSpace, *, hidden: int = 256
    ) -> None:
        super().__init__()
        if action_space.discrete:
            raise ValueError("this policy acts in a box; the action space is discrete")
        self.register_buffer("centre", action_space.centre.clone())
        self.register_buffer("radius", action_space.radius.clone())
        self.pairs = Pairs(scale)
        self.layers = nn.Sequential(
            mlp(self.pairs.size, hidden),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, len(self.centre)),
            nn.Tanh(),
        )

    def forward(
        self, latent: Float[Tensor, "B D"], goal: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B A"]:
        """Actions."""
        return self.centre + self.radius * self.layers(self.pairs(latent, goal))


@torch.no_grad()
def imagined_actions(
    policy: GoalPolicy, world_model: WorldModel, state: TensorDict, goal: TensorDict, horizon: int
) -> Float[Tensor, "B H A"]:
    """What the policy would do for so many decisions, if all came as foreseen."""
    actions = [policy(state["latent"], goal["latent"])]
    for _ in range(horizon - 1):
        state = world_model.step(state, actions[-1])
        actions.append(policy(state["latent"], goal["latent"]))
    return torch.stack(actions, dim=1)


def planned_actions(
    planner: Planner,
    world_model: WorldModel,
    start: Callable[[Tensor], TensorDict],
    energy: Callable[[TensorDict], Energy],
    action_space: ActionSpace,
    rows: TensorDict,
    generator: torch.Generator,
    batch: int = 256,
) -> Float[Tensor, "n A"]:
    """The first actions of mode 2's plans, each made anew, for rows with `latent` and `goal`.

    Latents are enough, no observation is needed: any remembered decision can be thought over.

    start: latents to states, such as `Dynamics.start`.
    """
    found = []
    for some in rows.split(batch):
        goal = TensorDict({"latent": some["goal"]}, batch_size=some.batch_size)
        state = start(some["latent"])
        plan = planner.plan(world_model, state, energy(goal), action_space, None, generator)
        found.append(plan.actions[:, 0])
    return torch.cat(found)


class Imitation(lightning.LightningModule):
    """Trains a policy on rows of memory with `latent`, `goal` [D] and `planned` [A].

    The loss is the mean squared difference of the actions, in half sides of the box. Rows should
    come from where the policy itself goes (DAgger, Ross et al. 2011): play, plan for what was
    seen (`planned_actions`), add it to what there is, train, and play again.

    Args:
        policy: to be trained.
        learning_rate: highest.
        weight_decay: of AdamW.
        warmup: share of the steps.
    """

    def __init__(
        self,
        policy: GoalPolicy,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """The loss of a batch of windows [B, L] of rows."""
        latent, goal, planned = (batch[key].flatten(0, 1) for key in ("latent", "goal", "planned"))
        wrong = self.policy(latent, goal) - planned
        loss = (wrong / self.policy.radius).square().mean()
        self.log("policy/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        return adam(self, self.learning_rate, self.weight_decay, self.warmup)
