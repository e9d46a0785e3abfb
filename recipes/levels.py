"""Learning of the levels above a latent world: each from the latents and decisions of the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from jepa import seeds
from jepa.files import load_strictly

from ..datasets.trajectories import EpisodeArrays, Trajectories
from ..datasets.windows import Windows, window_loader
from ..planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from ..planning.icem import ICEM
from ..planning.joint import PLDM, Terms
from ..planning.levels import LatentEmbedding, LevelTraining, MacroEncoder, SameLatent
from .fit import Hardware
from .latent import action_scale, keep, trainer
from .world import stacked


def slowness(size: int, action_scale: Tensor) -> Terms:
    """PLDM's terms without inverse dynamics: a macro-action is told from the latents anyhow."""
    return PLDM(size, action_scale, inverse_dynamics=0.0)


@dataclass(frozen=True, kw_only=True)
class Upper:
    """A level above another one: how it is made, learns and plans.

    Args:
        stride: decisions of the level below that a macro-action stands for.
        size: of the latent; None: the latent of the level below, as it is.
        macro: size of the macro-action.
        terms: what keeps a learnt latent from collapsing.
        information: weight of a macro-action's divergence from the prior, per nat.
        hidden: width of all layers.
        window: macro-actions foreseen in training.
        steps: optimiser steps.
        batch_size: windows per step.
        learning_rate: highest.
        planner: of macro-actions, in the box of `most` deviations of their prior.
        most: see `planner`.
        rhythm: decisions of the agent from one plan to the next.
    """

    stride: int = 8
    size: int | None = 16
    macro: int = 4
    terms: Callable[[int, Tensor], Terms] = slowness
    information: float = 1e-3
    hidden: int = 256
    window: int = 4
    steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 1e-3
    planner: ICEM = ICEM(horizon=16, samples=128, iterations=3, beta=0.5)  # noqa: RUF009
    most: float = 2.0
    rhythm: int = 4


def learn_level(
    out: Path, number: int, below: Trajectories, upper: Upper, hardware: Hardware, seed: int
) -> tuple[LatentWorldModel, MacroEncoder]:
    """The world model of a level, and what tells its macro-actions; kept in `out`.

    below: `observations` are the latents of the level below, `actions` its decisions.
    """
    latents, name = stacked(below, "observations"), f"level_{number}"
    scale = latents.flatten(0, 1).std(dim=0)
    with seeds.weights(seed, name):
        embedding = (
            SameLatent(len(scale))
            if upper.size is None
            else LatentEmbedding(scale, size=upper.size, hidden=upper.hidden)
        )
        own = scale if upper.size is None else torch.ones(upper.size)
        ones = torch.ones(upper.macro)
        model = LatentWorldModel(
            embedding=embedding,
            dynamics=ResidualMLP(Scales(own, ones), hidden=upper.hidden),
        )
        chunk = action_scale(below).repeat(upper.stride)
        macro = MacroEncoder(scale, chunk, size=upper.macro, hidden=upper.hidden)
        terms = None if upper.size is None else upper.terms(upper.size, ones)
    parts, path = nn.ModuleList([model, macro]), out / f"{name}.safetensors"
    if not path.is_file():
        training = LevelTraining(
            model.embedding,
            model.dynamics,
            macro,
            terms,
            information=upper.information,
            learning_rate=upper.learning_rate,
            seed=seed,
        )
        windows = Windows(below, length=upper.window, skip=upper.stride)
        loader = window_loader(windows, batch_size=upper.batch_size, seed=seed)
        trainer(upper.steps, hardware, f"level {number}").fit(training, loader)
        keep(parts, path)
    load_strictly(parts, load_file(path), str(path))
    return model, macro


@torch.no_grad()
def risen(
    below: Trajectories, model: LatentWorldModel, macro: MacroEncoder, stride: int
) -> EpisodeArrays:
    """The same episodes as the next level sees them: its latents, and its macro-actions."""
    latents, actions = stacked(below, "observations"), stacked(below, "actions")
    count = actions.shape[1] // stride
    seen = latents[:, : count * stride + 1 : stride]
    chunks = actions[:, : count * stride].unflatten(1, (count, stride)).flatten(2)
    mean, _ = macro(seen[:, :-1], seen[:, 1:], chunks)
    own: Float[Tensor, "E T D"] = model.embedding(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    fields = {"observations": own, "actions": mean}
    lengths = below.lengths // stride
    return EpisodeArrays(lengths, {n: f.flatten(0, 1).numpy() for n, f in fields.items()})
