"""Learning of the levels above a latent world: each from the latents and decisions of the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa import seeds

from ..datasets.trajectories import EpisodeArrays, Trajectories
from ..datasets.windows import Windows, window_loader
from ..planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from ..planning.embedding import Embedding, latents_of
from ..planning.icem import ICEM
from ..planning.joint import PLDM, Terms
from ..planning.levels import LatentEmbedding, LevelTraining, MacroEncoder, SameLatent
from .hardware import Hardware
from .latent import action_scale, learnt, trainer
from .world import Experience, stacked


def slowness(size: int, action_scale: Tensor) -> Terms:
    """PLDM's terms without inverse dynamics, and slower: distances are to tell travelling times."""
    return PLDM(size, action_scale, inverse_dynamics=0.0, smoothness=4.0)


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
        steps: optimiser steps; as many again before them where the latent is learnt.
        batch_size: windows per step.
        learning_rate: highest.
        planner: of macro-actions, in the box of `most` deviations of their prior.
        most: see `planner`.
        haste: weight of the mean distance beside the closest approach, of goals of this level.
        rhythm: decisions of the agent from one plan to the next.
    """

    stride: int = 16
    size: int | None = 8
    macro: int = 3
    terms: Callable[[int, Tensor], Terms] = slowness
    information: float = 0.02
    hidden: int = 128
    window: int = 3
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 1e-3
    planner: ICEM = field(
        default_factory=lambda: ICEM(horizon=12, samples=128, iterations=3, beta=0.5)
    )
    most: float = 2.0
    haste: float = 1.0
    rhythm: int = 4


def check_levels(experience: Experience, levels: Sequence[Upper]) -> None:
    """Raises ValueError where what is to be collected does not suffice for all levels."""
    for number, upper in enumerate(levels, start=2):
        length = upper.window * upper.stride
        experience.check_windows(f"level {number}", length, upper.batch_size)
        experience = replace(experience, decisions=experience.decisions // upper.stride)


def learn_level(
    out: Path, number: int, below: Trajectories, upper: Upper, hardware: Hardware, seed: int
) -> tuple[LatentWorldModel, MacroEncoder]:
    """The world model of a level, and what tells its macro-actions; kept in `out`.

    As on the lowest level a learnt latent is learnt first, together with dynamics, and dynamics
    then anew on what it has become.

    below: `observations` are the latents of the level below, `actions` its decisions.
    """
    name = f"level_{number}"
    latents, chunk = stacked(below, "observations"), action_scale(below).repeat(upper.stride)
    scale, ones = latents.flatten(0, 1).std(dim=0), torch.ones(upper.macro)
    with seeds.weights(seed, name):
        embedding = (
            SameLatent(len(scale))
            if upper.size is None
            else LatentEmbedding(scale, size=upper.size, hidden=upper.hidden)
        )

    def parts(own: Float[Tensor, " K"], which: str) -> tuple[ResidualMLP, MacroEncoder]:
        with seeds.weights(seed, f"{name}_{which}"):
            dynamics = ResidualMLP(Scales(own, ones), hidden=upper.hidden)
            return dynamics, MacroEncoder(scale, chunk, size=upper.macro, hidden=upper.hidden)

    def train(dynamics: ResidualMLP, macro: MacroEncoder, terms: Terms | None, title: str) -> None:
        training = LevelTraining(
            embedding,
            dynamics,
            macro,
            terms,
            information=upper.information,
            learning_rate=upper.learning_rate,
            seed=seed,
        )
        windows = Windows(below, length=upper.window, skip=upper.stride)
        loader = window_loader(windows, batch_size=upper.batch_size, seed=seed)
        trainer(upper.steps, hardware, f"{title} of level {number}").fit(training, loader)

    def learn_latent(embedding: LatentEmbedding) -> None:
        terms = upper.terms(embedding.size, ones)
        train(*parts(torch.ones(embedding.size), "embedding"), terms, "latents")
        own = latents_of_episodes(embedding, latents)
        embedding.measure_in((own[:, upper.stride :] - own[:, : -upper.stride]).flatten(0, 1))

    if isinstance(embedding, LatentEmbedding):
        learn = partial(learn_latent, embedding)
        learnt(embedding, out / f"{name}_embedding.safetensors", learn)
    embedding.requires_grad_(False)
    own = latents_of_episodes(embedding, latents)
    dynamics, macro = parts(own.flatten(0, 1).std(dim=0), "dynamics")
    learn = partial(train, dynamics, macro, None, "dynamics")
    learnt(nn.ModuleList([dynamics, macro]), out / f"{name}.safetensors", learn)
    return LatentWorldModel(embedding=embedding, dynamics=dynamics), macro


def latents_of_episodes(
    embedding: Embedding, below: Float[Tensor, "E T D"]
) -> Float[Tensor, "E T K"]:
    """Of all latents of the level below."""
    return latents_of(embedding, below.flatten(0, 1), batch=8192).unflatten(0, below.shape[:2])


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
    fields = {"observations": latents_of_episodes(model.embedding, seen), "actions": mean}
    lengths = below.lengths // stride
    return EpisodeArrays(lengths, {n: f.flatten(0, 1).numpy() for n, f in fields.items()})
