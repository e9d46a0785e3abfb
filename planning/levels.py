"""Levels of a hierarchy: a slower world model over the latents of a faster one.

A level is a latent world model like any other (LeCun 2022, "A Path Towards Autonomous Machine
Intelligence", section 4.6): what it observes are the latents of the level below, its decisions are
macro-actions, each of which stands for `stride` decisions of the level below. So planners, energies
and further levels meet what they know.
"""

from __future__ import annotations

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from jepa import seeds

from .dynamics import Dynamics, mlp
from .embedding import Embedding
from .joint import Terms, mean_square
from .protocols import ActionSpace
from .training import adam, foresight_loss


class SameLatent(Embedding):
    """A level that sees what the level below sees.

    Args:
        size: of the latent.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Float[Tensor, "B *F"]) -> Float[Tensor, "B D"]:
        """[B, size]: one vector of whatever shape the latent below has."""
        return features.flatten(1)


class LatentEmbedding(Embedding):
    """From latents of the level below to those of this one: two layers, and a change of units.

    Args:
        scale: deviation of each of the latents below, [D].
        size: of the latent.
        hidden: width.
    """

    scale: Tensor
    units: Tensor

    def __init__(self, scale: Float[Tensor, " D"], *, size: int = 16, hidden: int = 256) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("scale", scale.clone())
        self.register_buffer("units", torch.eye(size))
        self.layers = nn.Sequential(mlp(len(scale), hidden), nn.Linear(hidden, size))

    def forward(self, features: Float[Tensor, "B *F"]) -> Float[Tensor, "B K"]:
        """[B, size]; of latents below of any shape, such as tokens, as one vector [B, D]."""
        return self.layers(features.flatten(1) / self.scale) @ self.units

    @torch.no_grad()
    def measure_in(self, changes: Float[Tensor, "n K"]) -> None:
        """Makes the covariance of these changes of the latent the identity.

        Then a distance tells how long the way takes: of slow features it is the square root of
        the commute time (Fouss et al. 2007, IEEE Trans. Knowl. Data Eng. 19).
        """
        changes = changes.cpu().double()  # which not every device has
        covariance = changes.T @ changes / len(changes)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=1e-6 * float(values[-1]))
        self.units = self.units @ (vectors * values.rsqrt() @ vectors.T).to(self.units)


class MacroEncoder(nn.Module):
    """What was done in a stretch of decisions, as a Gaussian over macro-actions.

    It sees the latents before and after and the decisions between. Macro-actions are kept near a
    standard normal prior, whatever the latent: what a macro-action means is for the dynamics to
    say, which know the latent. A planner that keeps to the prior so keeps to what the experience
    holds (as in a conditional VAE, Sohn et al. 2015).

    Args:
        scale: deviation of each latent, [D].
        action_scale: of each action of a stretch, one behind the other, [stride * A].
        size: of the macro-action, M.
        hidden: width.
    """

    scale: Tensor

    def __init__(
        self,
        scale: Float[Tensor, " D"],
        action_scale: Float[Tensor, " KA"],
        *,
        size: int = 4,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("scale", torch.cat([scale, scale, action_scale]))
        self.layers = nn.Sequential(mlp(len(self.scale), hidden), nn.Linear(hidden, 2 * size))

    def forward(
        self,
        before: Float[Tensor, "*B D"],
        after: Float[Tensor, "*B D"],
        actions: Float[Tensor, "*B KA"],
    ) -> tuple[Float[Tensor, "*B M"], Float[Tensor, "*B M"]]:
        """Mean and deviation."""
        seen = torch.cat([before, after, actions], dim=-1) / self.scale
        mean, log_std = self.layers(seen).chunk(2, dim=-1)
        return mean, log_std.clamp(-6, 2).exp()


def macro_space(size: int, most: float = 2.0) -> ActionSpace:
    """Where macro-actions are looked for: so many deviations of their prior."""
    return ActionSpace(torch.full((size,), -most), torch.full((size,), most))


def prior_divergence(
    mean: Float[Tensor, "*B M"], std: Float[Tensor, "*B M"]
) -> Float[Tensor, "*B"]:
    """Kullback-Leibler divergence of N(mean, std) from the standard normal prior, in nats."""
    return (mean.square() + std.square() - 1).div(2).sub(std.log()).sum(dim=-1)


class LevelTraining(lightning.LightningModule):
    """Trains a level on windows of the latents below [B, L + 1, D], every `stride`-th of them, and
    the decisions between [B, L, stride * A]: see `datasets.windows.Windows`, whose skip it is.

    The loss is the mean squared error per component of L latents of this level, each foreseen from
    the last by macro-actions drawn from what `macro` says, plus `information` times their
    divergence from the prior, plus `terms` that keep the latents from collapsing, which a level
    with the latents of the one below (`SameLatent`) needs not.

    Args:
        embedding, dynamics, macro: to be trained.
        terms: e.g. `joint.PLDM` without inverse dynamics; None: none.
        information: weight of the divergence per nat.
        learning_rate: highest; AdamW, linear warm-up and cosine decay to 0.
        weight_decay: of AdamW.
        warmup: share of the steps.
        seed: of the draws of macro-actions.
    """

    def __init__(
        self,
        embedding: Embedding,
        dynamics: Dynamics,
        macro: MacroEncoder,
        terms: Terms | None,
        *,
        information: float = 1e-3,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embedding, self.dynamics, self.macro, self.terms = embedding, dynamics, macro, terms
        self.generator = seeds.generator(seed, "macro_actions")
        self.information = information
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def losses(
        self, below: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L KA"]
    ) -> dict[str, Float[Tensor, ""]]:
        """{"prediction", "information"} and the terms."""
        latents = self.embedding(below.flatten(0, 1)).unflatten(0, below.shape[:2])
        mean, std = self.macro(below[:, :-1], below[:, 1:], actions)
        noise = torch.randn(std.shape, generator=self.generator).to(std)
        drawn = mean + std * noise
        return {
            "prediction": foresight_loss(self.dynamics, latents, drawn, error=mean_square),
            "information": self.information * prior_divergence(mean, std).mean(),
            **({} if self.terms is None else self.terms(latents, drawn)),
        }

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """`batch` has `observations` (here latents of the level below) and `actions`."""
        losses = self.losses(batch["observations"], batch["actions"])
        self.log_dict({f"level/{name}": loss for name, loss in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        return adam(self, self.learning_rate, self.weight_decay, self.warmup)
