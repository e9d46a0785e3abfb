"""Latents that tell windows apart: what hardly ever moves is known by them too."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .joint import ActionGuess, Terms


class TimeContrast(Terms):
    """Latents of one window are nearer to each other than to those of others, and tell actions.

    InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) over time, of squared distances as in
    time-contrastive networks (Sermanet et al. 2018, arXiv:1704.06888); and inverse dynamics.
    Variance and covariance are content with many functions of what moves; other windows are told
    apart best by what does not, such as a thing that must be pushed. It needs many windows in a
    batch: each latent is compared with those of all others.

    Args:
        size: of the latent, D.
        action_scale: deviation of each action component.
        contrast: weight of InfoNCE.
        temperature: squared distance that makes a latent e times less likely.
        inverse_dynamics: weight of the error of `ActionGuess`.
        hidden: width of the network that guesses.
    """

    def __init__(
        self,
        size: int,
        action_scale: Float[Tensor, " A"],
        *,
        contrast: float = 1.0,
        temperature: float = 1.0,
        inverse_dynamics: float = 1.07,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        if min(contrast, inverse_dynamics) < 0 or temperature <= 0:
            raise ValueError(
                "weights are at least 0 and a temperature above 0; got "
                f"{contrast}, {inverse_dynamics} and {temperature}"
            )
        self.contrast, self.temperature = contrast, temperature
        self.inverse_dynamics = inverse_dynamics
        self.guess = ActionGuess(size, action_scale, hidden=hidden)

    def forward(
        self, latents: Float[Tensor, "B L1 D"], actions: Float[Tensor, "B L A"]
    ) -> dict[str, Float[Tensor, ""]]:
        """{"contrast", "inverse_dynamics"}."""
        return {
            "contrast": self.contrast * time_contrast(latents, self.temperature),
            "inverse_dynamics": self.inverse_dynamics * self.guess(latents, actions),
        }


def time_contrast(latents: Float[Tensor, "B L1 D"], temperature: float) -> Float[Tensor, ""]:
    """Mean, over ordered pairs of different latents of one window, of -log of the share that the
    second one has in exp(-|z - z'|^2 / temperature) beside those of all other windows.

    Raises ValueError for a single window, or windows of a single latent.
    """
    windows, steps = latents.shape[:2]
    if min(windows, steps) < 2:
        raise ValueError(f"expected windows of latents, both several; got {windows} of {steps}")
    flat = latents.flatten(0, 1)
    squares = flat.square().sum(dim=-1)
    apart = (squares[:, None] + squares - 2 * flat @ flat.T).clamp(min=0)
    alike = (-apart / temperature).unflatten(1, (windows, steps)).unflatten(0, (windows, steps))
    own = torch.eye(windows, dtype=torch.bool, device=flat.device)[:, None, :, None]
    others = alike.masked_fill(own, -torch.inf).flatten(2).logsumexp(dim=-1)
    pairs = alike.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    different = ~torch.eye(steps, dtype=torch.bool, device=flat.device)
    return F.softplus(others[..., None] - pairs)[:, different].mean()
