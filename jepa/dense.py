"""V-JEPA 2.1: what is seen is foreseen too, near what is hidden, and at several depths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa.blocks import init_transformer
from jepa.encoder import VisionTransformer
from jepa.levels import Levels
from jepa.linear import Linear
from jepa.losses import Distance, Regulariser
from jepa.model import JEPA, Foreseen
from jepa.patches import take
from jepa.predictor import Predictor
from jepa.schedules import linear
from jepa.shapes import Grid, Masks
from jepa.tables import shared_table


@dataclass(frozen=True, kw_only=True)
class Dense:
    """What V-JEPA 2.1 adds to V-JEPA 2; the numbers are its published ones, of long runs.

    Args:
        blocks: blocks whose latents are foreseen beside the encoder's output, e.g. [2, 5, 8] of
            an encoder 12 deep; none: the output alone.
        weight: of the visible tokens' loss in the end; 0: they are not foreseen.
        first_step: optimiser step until which that weight is 0.
        last_step: step at which it reaches `weight`, on a line.
    """

    blocks: tuple[int, ...] = ()
    weight: float = 0.5
    first_step: int = 15_000
    last_step: int = 30_000

    def __post_init__(self) -> None:
        if self.weight < 0 or not 0 <= self.first_step < self.last_step:
            raise ValueError(
                "need weight >= 0 and 0 <= first_step < last_step; got weight "
                f"{self.weight}, first_step {self.first_step}, last_step {self.last_step}"
            )

    def weight_at(self, step: int) -> float:
        """Weight of the visible tokens' loss at optimiser step `step`."""
        return linear(
            max(step - self.first_step, 0), self.last_step - self.first_step, 0.0, self.weight
        )


class DenseJEPA(JEPA):
    """A JEPA with a second loss, on the visible tokens, and with latents of several depths.

    The loss of the visible tokens is their distance to the target encoder's latents over
    sqrt(d), with d the Euclidean distance to the nearest hidden token in patches along (t, h, w);
    mean over tokens and dimensions, times `Dense.weight_at`. A second projection foresees them.
    Latents of L levels stand side by side, each layer-normalised by itself in the target.

    Args:
        encoder: built; the part that is kept.
        predictor: given the width L * D of the latents and the encoder's grid.
        dense: levels and weight.
        distance, regulariser: see `JEPA`; the regulariser sees the encoder's output.
    """

    def __init__(
        self,
        *,
        encoder: VisionTransformer,
        predictor: Callable[[int, Grid], Predictor],
        dense: Dense,
        distance: Distance = "l1",
        regulariser: Regulariser | None = None,
    ) -> None:
        levels = Levels(encoder, dense.blocks)
        built = predictor(levels.width, encoder.native_grid)
        if dense.blocks:
            built.predictor_embed = nn.Sequential(
                Linear(levels.width, levels.dim), nn.GELU(), Linear(levels.dim, built.dim)
            )
            init_transformer(built.predictor_embed, nn.ModuleList())
        super().__init__(
            encoder=levels, predictor=built, distance=distance, regulariser=regulariser
        )
        self.dense, self.step = dense, 0
        self.projection = None
        if dense.weight:
            self.projection = Linear(built.dim, levels.width)
            init_transformer(self.projection, nn.ModuleList())

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """Without what only training needs."""
        return {name: cast(Levels, part).encoder for name, part in super().encoders.items()}

    def begin(self, step: int) -> None:
        """Sets the weight of the visible tokens' loss."""
        self.step = step

    def foresee(
        self,
        context: Float[Tensor, "B Nc E"],
        whole: Float[Tensor, "B N E"],
        masks: Masks,
        grid: Grid,
        group: int,
    ) -> tuple[Foreseen, dict[str, Float[Tensor, ""]]]:
        """As a JEPA's, with the loss of the visible tokens as "context"."""
        if self.projection is None:
            return super().foresee(context, whole, masks, grid, group)
        tokens = self.predictor.tokens(context, masks.context, masks.targets, grid, group)
        tokens = self.predictor.predictor_norm(tokens)
        seen, asked = tokens.split([masks.context.shape[1], masks.targets.shape[2]], dim=2)
        predicted, target = self.predictor.predictor_proj(asked), take(whole, masks.targets)
        there = take(whole, masks.context)[:, None].expand(*seen.shape[:3], -1)
        errors = self.distance(self.projection(seen).float(), there, reduction="none")
        near = nearest(masks.context, masks.targets, grid).rsqrt()[..., None]
        return Foreseen(context, predicted, target), {
            "prediction": self.distance(predicted.float(), target),
            "context": self.dense.weight_at(self.step) * (errors * near).mean(),
        }


def nearest(
    context: Int64[Tensor, "B Nc"], targets: Int64[Tensor, "B M Nt"], grid: Grid
) -> Float[Tensor, "B M Nc"]:
    """Distance in patches from each visible token to the nearest of each block's hidden ones.

    At least 1: masks that let a token be both seen and hidden count it as a neighbour.
    """
    table = places(grid, context.device)
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(table[context][:, None], table[targets], compute_mode=exact)
    return apart.amin(dim=-1).clamp(min=1)


@shared_table
def places(grid: Grid, device: torch.device) -> Float[Tensor, "N axes"]:
    """Where each token is, in patches. Shared by all callers: do not write to it."""
    return torch.cartesian_prod(*(torch.arange(side) for side in grid)).float().to(device)
