"""JEPA: the place where encoder, predictor and target meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.choices import check_choice
from jepa.encoder import VisionTransformer
from jepa.levels import Levels
from jepa.losses import DISTANCES, Distance, Regulariser
from jepa.objective import Objective
from jepa.patches import take
from jepa.predictor import Predictor
from jepa.shapes import Grid, Masks, Pixels
from jepa.target import EMATarget


@dataclass(frozen=True)
class Foreseen:
    """One group of masks: what was seen, what was foreseen from it, what was really there.

    context: what the encoder said of the visible tokens.
    predicted, target: the predictor's and the target encoder's latents at the target tokens.
    """

    context: Float[Tensor, "B Nc D"]
    predicted: Float[Tensor, "B M Nt D"]
    target: Float[Tensor, "B M Nt D"]


@dataclass(frozen=True)
class JEPAOutput:
    """One forward pass.

    losses: named, weighted, reduced to scalars; training minimises their sum.
    groups: one record per group of masks.
    """

    losses: dict[str, Float[Tensor, ""]]
    groups: tuple[Foreseen, ...]

    @property
    def context(self) -> Float[Tensor, "B Nc D"]:
        """Of the first group."""
        return self.groups[0].context

    @property
    def target(self) -> Float[Tensor, "B M Nt D"]:
        """Of the first group."""
        return self.groups[0].target


class JEPA(Objective):
    """Foresee the target encoder's latents of what is hidden.

    I-JEPA (Assran et al. 2023): images, one group of masks of several target blocks, smooth L1
    distance (beta 1). V-JEPA (Bardes et al. 2024, arXiv:2404.08471) and V-JEPA 2 (Assran et al.
    2025, arXiv:2506.09985): clips, several groups with a mask token each, L1 distance. The
    distance is the mean over all target tokens of a group, then over the groups, to the
    layer-normalised latents of the target encoder, which sees everything.

    Args:
        encoder, predictor: built; the target encoder starts as a copy of the encoder.
        distance: between prediction and target.
        regulariser: further losses on the encoder's latents of the visible tokens, mean over
            the groups; neither paper has any.
    """

    def __init__(
        self,
        *,
        encoder: VisionTransformer | Levels,
        predictor: Predictor,
        distance: Distance = "smooth_l1",
        regulariser: Regulariser | None = None,
    ) -> None:
        super().__init__()
        check_choice("distance", distance, Distance)
        self.encoder = encoder
        self.predictor = predictor
        self.target = EMATarget(encoder)
        self.distance = DISTANCES[distance]
        self.regulariser = regulariser

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """`student` and `target`."""
        return {"student": self.encoder, "target": self.target.encoder}

    def follow(self, momentum: float) -> None:
        """Moves the target."""
        self.target.update(self.encoder, momentum)

    def forward(self, images: Pixels, masks: Masks | Sequence[Masks]) -> JEPAOutput:
        """Images [B, C, H, W] or clips [B, C, T, H, W], and their masks: one group or several."""
        whole, grid = self.target(images), self.encoder.grid(images)
        groups, losses = [], []
        for number, group in enumerate((masks,) if isinstance(masks, Masks) else masks):
            context = self.encoder(images, group.context)
            foreseen, loss = self.foresee(context, whole, group, grid, number)
            if self.regulariser is not None:
                loss |= self.regulariser(context[..., -self.encoder.dim :])
            groups.append(foreseen)
            losses.append(loss)
        means = {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}
        return JEPAOutput(means, tuple(groups))

    def foresee(
        self,
        context: Float[Tensor, "B Nc D"],
        whole: Float[Tensor, "B N D"],
        masks: Masks,
        grid: Grid,
        group: int,
    ) -> tuple[Foreseen, dict[str, Float[Tensor, ""]]]:
        """One group of masks, given the latents of what is seen, and the target's of everything:
        what was foreseen, and the losses of it."""
        predicted = self.predictor(context, masks.context, masks.targets, grid, group)
        target = take(whole, masks.targets)
        loss = {"prediction": self.distance(predicted.float(), target)}
        return Foreseen(context, predicted, target), loss
