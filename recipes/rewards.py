"""Learning of a head that foresees the rewards of a task from latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from jepa import seeds

from ..datasets.trajectories import Trajectories
from ..datasets.windows import Windows, window_loader
from ..planning.dynamics import Scales
from ..planning.rewards import RewardHead, RewardTraining
from .hardware import Hardware
from .latent import action_scale, learnt, trainer, with_observations
from .world import stacked


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A head that foresees rewards, and its training.

    Args:
        hidden: width of the layers.
        steps: optimiser steps.
        batch_size: actions per step.
        learning_rate: highest.
    """

    hidden: int = 256
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 2e-3


def check_rewards(data: Trajectories, title: str) -> None:
    """Raises ValueError where all rewards are the same."""
    paid = stacked(data, "rewards")
    if not paid.std() > 0:
        raise ValueError(
            f"{title}: all {paid.numel()} rewards of the random policy are {paid.flatten()[0]:g}, "
            "and nothing is learnt from them: collect more episodes, or plan for a goal image"
        )


def learn_reward(
    out: Path,
    latents: Float[Tensor, "E T D"],
    data: Trajectories,
    reward: Reward,
    hardware: Hardware,
    title: str,
    seed: int,
) -> RewardHead:
    """The head, trained on all latents and kept in `out`; what is there is not learnt again."""
    paid = stacked(data, "rewards")
    scales = Scales(latents.flatten(0, 1).std(dim=0), action_scale(data))
    with seeds.weights(seed, "reward"):
        head = RewardHead(scales, mean=paid.mean(), std=paid.std(), hidden=reward.hidden)

    def learn() -> None:
        names = ("observations", "actions", "rewards")
        windows = Windows(with_observations(data, latents), length=1, names=names)
        loader = window_loader(windows, batch_size=reward.batch_size, seed=seed)
        training = RewardTraining(head, learning_rate=reward.learning_rate)
        trainer(reward.steps, hardware, f"rewards of {title}").fit(training, loader)

    return learnt(head, out / "reward.safetensors", learn)
