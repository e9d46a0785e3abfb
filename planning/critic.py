"""The trainable critic: what it will still cost to reach a goal, learnt from what is remembered.

LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 3.2: the critic is trained
from the short-term memory to predict what the intrinsic cost will be.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor, nn

from jepa import seeds
from jepa.target import ema_update

from .dynamics import Dynamics, mlp
from .intrinsic import IntrinsicCost
from .pairs import Pairs
from .protocols import ActionSpace
from .training import adam


class GoalCritic(nn.Module):
    """From a latent and a goal's latent to the discounted cost to go.

    Args:
        scale: deviation of the latents, [D].
        hidden: width of the layers.
    """

    def __init__(self, scale: Float[Tensor, " D"], *, hidden: int = 256) -> None:
        super().__init__()
        self.pairs = Pairs(scale)
        self.layers = nn.Sequential(
            mlp(self.pairs.size, hidden),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(
        self, latent: Float[Tensor, "*S B D"], goal: Float[Tensor, "B D"]
    ) -> Float[Tensor, "*S B"]:
        """The cost to go."""
        return self.layers(self.pairs(latent, goal)).squeeze(-1)


class CriticTraining(lightning.LightningModule):
    """Trains a critic on windows of memory [B, L] by fitted value iteration in imagination.

    For pairs of a latent z and a goal g the target is the least, over candidate actions a, of
    c(z', a, g) + discount * V(z', g), with z' foreseen by the dynamics and V a slow copy of the
    critic (Ernst et al. 2005, JMLR 6; the copy: Lillicrap et al. 2016, arXiv:1509.02971). So what
    was done may have been random, and the critic's is the cost of acting well. The candidates are
    the remembered action, and random ones, half of them at the bounds.

    z is any row of a window; g its own goal, or, in hindsight, any other row of the window
    (Andrychowicz et al. 2017, arXiv:1707.01495), as one that was reached, or left.

    Args:
        critic: to be trained.
        dynamics: foresee; not trained here.
        cost: makes the intrinsic cost of goal states [B].
        action_space: of the candidates.
        most: the largest cost of one step, by which targets are bounded.
        candidates: actions that are tried.
        hindsight: share of goals in hindsight.
        momentum: of the slow copy, per step.
        learning_rate: highest.
        weight_decay: of AdamW.
        warmup: share of the steps.
        seed: of pairs and candidates.
    """

    def __init__(
        self,
        critic: GoalCritic,
        dynamics: Dynamics,
        cost: Callable[[TensorDict], IntrinsicCost],
        action_space: ActionSpace,
        *,
        most: float = 1.0,
        candidates: int = 16,
        hindsight: float = 0.5,
        momentum: float = 0.99,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if candidates < 2 or not 0 <= hindsight <= 1 or not 0 <= momentum < 1 or most <= 0:
            raise ValueError(
                "need candidates >= 2, hindsight in [0, 1], momentum in [0, 1) and most > 0; got "
                f"{candidates}, {hindsight}, {momentum} and {most}"
            )
        self.critic, self.slow = critic, copy.deepcopy(critic).requires_grad_(False)
        self._dynamics = (dynamics,)  # a tuple: no sub-module, not trained
        self.cost, self.action_space, self.most = cost, action_space, most
        self.candidates, self.hindsight, self.momentum = candidates, hindsight, momentum
        self.generator = seeds.generator(seed, "critic")
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CriticTraining:
        """To another device the dynamics go along."""
        for dynamics in self._dynamics:
            dynamics._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def pairs(self, windows: TensorDict) -> TensorDict:
        """Entries `latent`, `goal` [B, D] and `action` [B, A]: see above."""
        count, length = windows.batch_size
        draw, rows = self.generator, torch.arange(count)
        first, second = torch.randint(length, (2, count), generator=draw)
        later = torch.rand(count, generator=draw) < self.hindsight
        latents = windows["latent"]
        here = windows[rows, first]
        goal = torch.where(later.to(latents.device)[:, None], latents[rows, second], here["goal"])
        return here.select("latent", "action").set("goal", goal)

    @torch.no_grad()
    def targets(self, pairs: TensorDict) -> Float[Tensor, " B"]:
        """What the critic is to say of these pairs."""
        (dynamics,), goal = self._dynamics, pairs["goal"]
        cost = self.cost(TensorDict({"latent": goal}, batch_size=pairs.batch_size))
        actions = self._actions(pairs["action"])
        states = dynamics.rollout(dynamics.start(pairs["latent"]), actions)
        after = self.slow(states["latent"][..., -1, :], goal)
        best = (cost.steps(states, actions)[..., 0] + cost.discount * after).amin(dim=0)
        worst = self.most / (1 - cost.discount) if cost.discount < 1 else torch.inf
        return best.clamp(0, worst)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """`batch` are windows [B, L] with `latent`, `goal` and `action`."""
        pairs = self.pairs(TensorDict(batch, batch_size=batch["latent"].shape[:2]))
        said = self.critic(pairs["latent"], pairs["goal"])
        loss = (said - self.targets(pairs)).square().mean()
        self.log("critic/loss", loss)
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """The slow copy follows."""
        ema_update(self.slow, self.critic, self.momentum)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        return adam(self, self.learning_rate, self.weight_decay, self.warmup)

    def _actions(self, done: Float[Tensor, "B A"]) -> Float[Tensor, "K B 1 A"]:
        """The candidates."""
        space, shape = self.action_space, (self.candidates - 1, *done.shape)
        unit = (2 * torch.rand(shape, generator=self.generator) - 1).to(done)
        outside = unit[: len(unit) // 2]
        outside /= outside.abs().amax(dim=-1, keepdim=True)
        drawn = space.centre.to(done) + space.radius.to(done) * unit
        return torch.cat([done[None], drawn]).unsqueeze(-2)
