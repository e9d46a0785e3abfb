"""Learning of latent worlds: slow features of a frozen encoder, or latents learnt from actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import pytorch_lightning as lightning
import torch
from jaxtyping import Float, Shaped, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa import seeds
from jepa.files import atomic_path
from jepa.frozen import FrozenEncoder
from jepa.keys import load_strictly

from ..datasets.trajectories import EpisodeArrays, Trajectories
from ..datasets.windows import Windows, window_loader
from ..planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from ..planning.embedding import Embedding, FrozenEmbedding, features_of, latents_of
from ..planning.heads import OutcomesHead
from ..planning.joint import PLDM, JointTraining, Terms
from ..planning.latent_variable import by_free_energy
from ..planning.projection import SlowFeatures
from ..planning.recurrent import GRU
from ..planning.second_order import SecondOrder
from ..planning.training import DynamicsTraining
from .embedding import Latent, Sight, new_embedding
from .hardware import Hardware
from .progress import StepProgress
from .world import Experience, stacked

Module = TypeVar("Module", bound=nn.Module)

Kind: TypeAlias = Literal["mlp", "second_order", "gru"]
KINDS = {"mlp": ResidualMLP, "second_order": SecondOrder, "gru": GRU}
"""Dynamics that know the present latent, how it has just changed, and all that came before."""


@dataclass(frozen=True, kw_only=True)
class Slow:
    """The latent of a frozen encoder that needs no actions; see `SlowFeatures`.

    Args:
        components: size of the latent.
        frequencies: spatial cosines per axis that the patch grid is pooled to.
        principal: principal components kept before the slow ones are looked for.
    """

    components: int = 16
    frequencies: int = 4
    principal: int = 256


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A latent variable for what cannot be known; see `planning.latent_variable`.

    Args:
        values: how many it has; log(values) nats are all that it can tell.
        information: price of a nat, in mean squares per number of the latent.
    """

    values: int = 4
    information: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A latent that is learnt together with dynamics, from actions.

    Args:
        terms: what keeps it from collapsing: PLDM; or LeWM, or
            jepa.planning.contrast.TimeContrast, given as a class_path.
        hidden: width of the dynamics' layers.
        kind: of the dynamics: mlp; second_order or gru where one picture does not show how fast
            things move.
        unknown: what makes the latent keep what is seen but cannot be foreseen; null: nothing.
        window: decisions foreseen in training.
        steps: optimiser steps.
        batch_size: windows per step.
        learning_rate: highest.
    """

    terms: Callable[[int, Tensor], Terms] = PLDM
    hidden: int = 256
    kind: Kind = "mlp"
    unknown: Unknown | None = None
    window: int = 8
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 7e-4

    def __post_init__(self) -> None:
        if self.unknown is not None and self.kind != "mlp":
            raise ValueError(
                f"a latent with what is unknown has dynamics of kind mlp; got {self.kind}"
            )


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The dynamics of a latent that is fixed, and their training.

    Args:
        hidden: width of the layers.
        kind: see `Joint`. A gru carries what it knows of the world from step to step beside the
            latents, and so foresees further where latents are many for what they tell.
        layers: hidden ones; null: two, and one before a gru's gates.
        window: decisions foreseen in training.
        steps: optimiser steps.
        batch_size: windows per step.
        learning_rate: highest.
    """

    hidden: int = 256
    kind: Kind = "mlp"
    layers: int | None = None
    window: int = 8
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 2e-3

    @property
    def size(self) -> dict[str, int]:
        """What the dynamics are told of it."""
        return {"hidden": self.hidden} | ({} if self.layers is None else {"layers": self.layers})


def check_windows(experience: Experience, joint: Joint, dynamics: Dynamics) -> None:
    """Raises ValueError where what is to be collected does not suffice for both trainings."""
    experience.check_windows("joint", joint.window, joint.batch_size)
    experience.check_windows("dynamics", dynamics.window, dynamics.batch_size)


def slow_embedding(
    frozen: FrozenEncoder, data: Trajectories, slow: Slow
) -> tuple[FrozenEmbedding, Float[Tensor, "E T D"]]:
    """The embedding by slow features, fitted; and the latents of all frames."""
    projection = SlowFeatures(
        components=slow.components, frequencies=slow.frequencies, principal=slow.principal
    )
    embedding = FrozenEmbedding(frozen, projection)
    pooled = all_features(embedding, stacked(data, "observations"))
    projection.fit(pooled)
    return embedding, projection.latent(pooled)


def learn_jointly(
    embedding: Embedding,
    features: Trajectories,
    joint: Joint,
    hardware: Hardware,
    title: str,
    seed: int,
) -> None:
    """Trains the embedding on windows of its `features`; its dynamics are thrown away, since those
    that learn from the final latents, as they do in `learn_dynamics`, are better and cost less."""
    scale = action_scale(features)
    with seeds.weights(seed, "joint"):
        scales = Scales(torch.ones(embedding.size), scale)
        beside = beside_a_latent(joint, scales)
        terms = joint.terms(embedding.size, scale)
        training = JointTraining(
            embedding, terms=terms, learning_rate=joint.learning_rate, **beside
        )
    windows = Windows(features, length=joint.window)
    loader = window_loader(windows, batch_size=joint.batch_size, seed=seed)
    trainer(joint.steps, hardware, f"latents of {title}").fit(training, loader)


def beside_a_latent(joint: Joint, scales: Scales) -> dict[str, Any]:
    """The dynamics that learn together with a latent, and how: see `foresight_loss`."""
    if joint.unknown is None:
        dynamics = KINDS[joint.kind](scales, hidden=joint.hidden)
        return {"dynamics": dynamics, "history": dynamics.told_first}
    head = partial(OutcomesHead, values=joint.unknown.values)
    dynamics = ResidualMLP(scales, hidden=joint.hidden, head=head)
    return by_free_energy(dynamics, joint.unknown.information)


def learn_world(
    out: Path,
    data: Trajectories,
    seen_by: Sight,
    latent: Latent,
    joint: Joint,
    dynamics: Dynamics,
    hardware: Hardware,
    name: str,
    seed: int,
) -> tuple[LatentWorldModel, Float[Tensor, "E T D"]]:
    """Embedding and dynamics, learnt one after the other; and the latents of all frames.

    What is learnt is kept in `out`, and not learnt again. See `new_embedding`.
    """
    title, device = "pixels" if seen_by is None else "a frozen encoder", hardware.device()
    frames = stacked(data, "observations")
    embedding = new_embedding(out, frames.flatten(0, 1), seen_by, latent, name, seed)
    features = all_features(embedding.to(device), frames)

    def learn() -> None:
        learn_jointly(embedding, with_observations(data, features), joint, hardware, title, seed)

    learnt(embedding, out / "embedding.safetensors", learn).eval()
    latents = all_latents(embedding.to(device), features)
    model = new_world_model(embedding.cpu(), latents, data, dynamics, seed)
    again = partial(learn_dynamics, model, latents, data, dynamics, hardware, title, seed)
    learnt(model.dynamics, out / "dynamics.safetensors", again)
    return model, latents


def learnt(module: Module, path: Path, learn: Callable[[], object]) -> Module:
    """The module with the weights of a file, which it learns and writes where there is none."""
    if not path.is_file():
        learn()
        with atomic_path(path) as temporary:
            save_file(module.state_dict(), temporary)
    load_strictly(module, load_file(path), str(path))
    return module


def new_world_model(
    embedding: Embedding,
    latents: Float[Tensor, "E T D"],
    data: Trajectories,
    dynamics: Dynamics,
    seed: int,
) -> LatentWorldModel:
    """The world model of an embedding, before its dynamics are learnt; `latents` of all frames."""
    scales = Scales(latents.flatten(0, 1).std(dim=0), action_scale(data))
    with seeds.weights(seed, "dynamics"):
        made = KINDS[dynamics.kind](scales, **dynamics.size)
        return LatentWorldModel(embedding=embedding, dynamics=made)


def learn_dynamics(
    model: LatentWorldModel,
    latents: Float[Tensor, "E T D"],
    data: Trajectories,
    dynamics: Dynamics,
    hardware: Hardware,
    title: str,
    seed: int,
) -> None:
    """Trains the dynamics on windows of the latents."""
    windows = Windows(with_observations(data, latents), length=dynamics.window)
    loader = window_loader(windows, batch_size=dynamics.batch_size, seed=seed)
    training = DynamicsTraining(
        model.dynamics,
        history=model.dynamics.told_first,
        learning_rate=dynamics.learning_rate,
    )
    trainer(dynamics.steps, hardware, f"dynamics on {title}").fit(training, loader)


def all_features(
    embedding: Embedding, frames: UInt8[Tensor, "E T H W C"]
) -> Shaped[Tensor, "E T *F"]:
    """What is fixed in the embedding, of all frames."""
    return features_of(embedding, frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def latents_seen(embedding: Embedding, episodes: Trajectories) -> Float[Tensor, "E T D"]:
    """Of every observation of episodes of one length."""
    return all_latents(embedding, all_features(embedding, stacked(episodes, "observations")))


def all_latents(embedding: Embedding, features: Shaped[Tensor, "E T *F"]) -> Float[Tensor, "E T D"]:
    """Latents of all frames."""
    return latents_of(embedding, features.flatten(0, 1)).unflatten(0, features.shape[:2])


def with_observations(data: Trajectories, observations: Shaped[Tensor, "E T *F"]) -> EpisodeArrays:
    """The episodes, with something else for observations."""
    others = [name for name in ("actions", "rewards") if name in data.names]
    fields = {"observations": observations} | {name: stacked(data, name) for name in others}
    return EpisodeArrays(data.lengths, {n: f.flatten(0, 1).numpy() for n, f in fields.items()})


def action_scale(data: Trajectories) -> Float[Tensor, " A"]:
    """Root mean square of each action component."""
    return stacked(data, "actions").square().mean(dim=(0, 1)).sqrt()


def trainer(steps: int, hardware: Hardware, title: str) -> lightning.Trainer:
    """Trains for so many steps, with a bar."""
    return lightning.Trainer(
        max_steps=steps,
        accelerator=hardware.accelerator,
        precision=hardware.lightning_precision(),
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[StepProgress(title)],
    )
