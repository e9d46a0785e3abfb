"""Embedding and dynamics learnt together from actions: PLDM and LeWM.

What is foreseen is an output of the network that learns to be foreseen, so that a constant latent
would be perfect; further terms see to it that latents tell something.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytorch_lightning as lightning
import torch
from jaxtyping import Float, Shaped
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor, nn

from jepa.losses import covariance_loss, variance_loss
from jepa.seeds import generator
from jepa.sigreg import draw_directions, sigreg

from .dynamics import Dynamics
from .embedding import Embedding
from .training import adam, foresight_loss


class Terms(nn.Module):
    """Named losses, weighted, that keep the latents of windows from collapsing."""

    def forward(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> dict[str, Float[Tensor, ""]]:
        raise NotImplementedError("terms are called as terms(latents, actions)")


class ActionGuess(nn.Module):
    """Inverse dynamics: the action, in its deviations, from the latents before and after it.

    Args:
        size: of the latent, D.
        action_scale: deviation of each action component.
        hidden: width of the network that guesses.
    """

    action_scale: Tensor

    def __init__(self, size: int, action_scale: Float[Tensor, " A"], *, hidden: int) -> None:
        super().__init__()
        self.register_buffer("action_scale", action_scale.clone())
        self.layers = nn.Sequential(
            nn.Linear(2 * size, hidden), nn.SiLU(), nn.Linear(hidden, len(action_scale))
        )

    def forward(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> Float[Tensor, ""]:
        """Mean squared error of the guess."""
        guessed = self.layers(torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)).float()
        return (guessed - actions / self.action_scale).square().mean()


class PLDM(Terms):
    """The terms of PLDM (Sobal et al. 2025, arXiv:2502.14819), its weights for TwoRooms.

    The published variance and covariance are of a window's first latents only; here they are
    the mean over its steps. The terms over time within one window are left out.

    Args:
        size: of the latent, D.
        action_scale: deviation of each action component.
        variance: of VICReg's hinge on each component's deviation over the batch.
        covariance: of the mean squared covariance of different components over the batch.
        smoothness: of the mean squared change from one latent to the next.
        inverse_dynamics: of the error of `ActionGuess`.
        hidden: width of the network that guesses.
    """

    def __init__(
        self,
        size: int,
        action_scale: Float[Tensor, " A"],
        *,
        variance: float = 3.98,
        covariance: float = 6.92,
        smoothness: float = 0.742,
        inverse_dynamics: float = 1.07,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        weights = (variance, covariance, smoothness, inverse_dynamics)
        if min(weights) < 0:
            raise ValueError(f"weights are at least 0; got {weights}")
        self.variance, self.covariance, self.smoothness, self.inverse_dynamics = weights
        self.guess = ActionGuess(size, action_scale, hidden=hidden)

    def forward(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> dict[str, Float[Tensor, ""]]:
        """{"variance", "covariance", "smoothness", "inverse_dynamics"}."""
        steps, others = latents.unbind(dim=1), latents.shape[-1] - 1
        return {
            "variance": self.variance * torch.stack([variance_loss(z) for z in steps]).mean(),
            "covariance": self.covariance
            * torch.stack([covariance_loss(z) / others for z in steps]).mean(),
            "smoothness": self.smoothness * latents.diff(dim=1).square().mean(),
            "inverse_dynamics": self.inverse_dynamics * self.guess(latents, actions),
        }


class LeWM(Terms):
    """The term of LeWorldModel: the latents of each step are to be Gaussian (see `jepa.sigreg`).

    Args:
        size: of the latent, D.
        action_scale: not used.
        weight: of SIGReg.
        directions: along which latents are compared to a Gaussian, drawn anew at each call.
        seed: of the directions.
    """

    def __init__(
        self,
        size: int,
        action_scale: Float[Tensor, " A"],
        *,
        weight: float = 0.09,
        directions: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.weight, self.directions, self.seed = size, weight, directions, seed
        self.calls = 0

    def forward(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> dict[str, Float[Tensor, ""]]:
        """{"sigreg"}."""
        draw = generator(self.seed, "directions", self.calls)
        self.calls += 1
        directions = draw_directions(self.size, self.directions, draw).to(latents)
        statistics = [sigreg(z, directions) for z in latents.unbind(dim=1)]
        return {"sigreg": self.weight * torch.stack(statistics).mean()}


def mean_square(states: TensorDict, truth: Float[Tensor, "B L D"]) -> Float[Tensor, "B L"]:
    """Of the foreseen latents' components, less those that came."""
    return (states["latent"] - truth).square().mean(dim=-1)


class JointTraining(lightning.LightningModule):
    """Trains embedding and dynamics on windows of features [B, L + 1, ...] and actions [B, L, A].

    By default the loss is the mean squared error per component of L latents, each foreseen from the
    last, all from the first; plus `terms`. Gradients reach the latents that are foreseen as well.

    Args:
        embedding, dynamics: to be trained.
        terms: e.g. `PLDM`; what it has learnt is of no use later.
        error, rollout, teacher_forced, history: see `foresight_loss`.
        learning_rate: highest; AdamW, linear warm-up and cosine decay to 0.
        weight_decay: of AdamW.
        warmup: share of the steps.
    """

    def __init__(
        self,
        embedding: Embedding,
        dynamics: Dynamics,
        terms: Terms,
        *,
        error: Callable[[TensorDict, Tensor], Tensor] = mean_square,
        rollout: float = 1.0,
        teacher_forced: float = 0.0,
        history: int = 0,
        learning_rate: float = 7e-4,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        self.embedding, self.dynamics, self.terms = embedding, dynamics, terms
        self.loss = partial(
            foresight_loss,
            error=error,
            rollout=rollout,
            teacher_forced=teacher_forced,
            history=history,
        )
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup

    def losses(
        self, features: Shaped[Tensor, "B L1 *F"], actions: Float[Tensor, "B L A"]
    ) -> dict[str, Float[Tensor, ""]]:
        """{"prediction"} and the terms; the embedding and the dynamics run under autocast if any
        is on, the terms in float32."""
        latents = self.embedding(features.flatten(0, 1)).float().unflatten(0, features.shape[:2])
        prediction = self.loss(self.dynamics, latents, actions)
        with torch.autocast(latents.device.type, enabled=False):
            return {"prediction": prediction, **self.terms(latents, actions)}

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """`batch` has `observations` (here features) and `actions`."""
        losses = self.losses(batch["observations"], batch["actions"])
        self.log_dict({f"joint/{name}": loss for name, loss in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a schedule over the whole training."""
        return adam(self, self.learning_rate, self.weight_decay, self.warmup)
