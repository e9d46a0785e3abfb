"""Multi-block masks of I-JEPA, for a whole batch in one vectorised call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from jepa.shapes import Grid, Masks


def block_size(grid: Grid, scale: float, aspect: float) -> tuple[int, int]:
    """(rows, columns) of a block of `scale` of the grid's area, `aspect` = height over width.

    The aspect is relative to the grid's own, so that a block of scale 1 and aspect 1 is the
    grid, whatever its shape. At least 1x1, at most the grid.
    """
    h, w = grid
    rows, columns = h * math.sqrt(scale * aspect), w * math.sqrt(scale / aspect)
    return min(max(round(rows), 1), h), min(max(round(columns), 1), w)


def block_tokens(
    top: Int64[Tensor, "*S"], left: Int64[Tensor, "*S"], size: tuple[int, int], grid: Grid
) -> Bool[Tensor, "*S N"]:
    """True on the tokens of the blocks whose first row and column are `top` and `left`."""
    rows = torch.arange(grid[0], device=top.device)
    columns = torch.arange(grid[1], device=top.device)
    in_rows = (rows >= top[..., None]) & (rows < top[..., None] + size[0])
    in_columns = (columns >= left[..., None]) & (columns < left[..., None] + size[1])
    return (in_rows[..., :, None] & in_columns[..., None, :]).flatten(-2)


def random_subset(
    allowed: Bool[Tensor, "B N"], size: int, generator: torch.Generator
) -> Int64[Tensor, "B K"]:
    """`size` allowed tokens of each row, uniformly at random, in raster order."""
    priority = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    picked = priority.masked_fill(~allowed, -1.0).topk(size, dim=1).indices
    return picked.sort(dim=1).values


def first_tokens(allowed: Bool[Tensor, "*S N"], size: int) -> Int64[Tensor, "*S K"]:
    """The first `size` allowed tokens in raster order."""
    return allowed.int().argsort(dim=-1, descending=True, stable=True)[..., :size]


@runtime_checkable
class MaskSampler(Protocol):
    """Draws the masks of one batch, in one group or several; same generator state, same masks."""

    def sample(
        self, grid: Grid, batch: int, generator: torch.Generator
    ) -> Masks | tuple[Masks, ...]: ...


@dataclass(frozen=True, kw_only=True)
class MultiBlockMasks:
    """Several target blocks, and a large context block minus all of them (I-JEPA, section 3).

    Block sizes are drawn once a batch, scale and aspect independently; places are drawn for
    every image and cover the border. Contexts of a batch are cut to the smallest of them by a
    uniformly random choice of tokens. There is no loop to run for ever: of `attempts` draws an
    image keeps the first whose context has at least `min_keep` tokens, or else the one with
    the most; the last draw puts all targets on one place, so the context is never empty.

    Args:
        targets: target blocks per image, M.
        target_scale: range of a target block's share of the grid.
        target_aspect: range of its height over width.
        context_scale: range of the context block's share of the grid, before the cut.
        min_keep: context tokens wanted at least, where the grid has them.
        attempts: draws per image.
    """

    targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    min_keep: int = 10
    attempts: int = 8

    def __post_init__(self) -> None:
        for name in ("target_scale", "target_aspect", "context_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"{name} must be (low, high) with 0 < low <= high; got {(low, high)}"
                )
        if self.target_scale[1] >= self.context_scale[0] or self.context_scale[1] > 1:
            raise ValueError(
                "a target block must be smaller than the context block, and that at most 1; got "
                f"target_scale {self.target_scale}, context_scale {self.context_scale}"
            )
        for name in ("targets", "min_keep", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def sample(self, grid: Grid, batch: int, generator: torch.Generator) -> Masks:
        """Masks for `batch` images of `grid` patches, on the generator's device.

        The same generator state gives the same masks. Raises ValueError where a target block
        and a context block cannot both fit, as on a 1x1 grid.
        """
        device = generator.device
        scale, aspect, context_scale = self._sizes(generator)
        target = block_size(grid, scale, aspect)
        context = block_size(grid, context_scale, 1.0)
        if math.prod(target) >= math.prod(context):
            raise ValueError(
                f"on a {grid[0]}x{grid[1]} grid the target block {target} leaves nothing of the "
                f"context block {context}: use a larger image, a smaller patch or smaller targets"
            )

        def places(size: tuple[int, int], *shape: int) -> tuple[Tensor, Tensor]:
            draw = torch.rand((2, *shape), generator=generator, device=device)
            return (
                (draw[0] * (grid[0] - size[0] + 1)).long(),
                (draw[1] * (grid[1] - size[1] + 1)).long(),
            )

        top, left = places(target, batch, self.attempts, self.targets)
        for start in (top, left):
            start[:, -1] = start[:, -1, :1]
        hidden = block_tokens(top, left, target, grid)
        allowed = block_tokens(*places(context, batch, self.attempts), context, grid)
        allowed &= ~hidden.any(dim=2)

        count = allowed.sum(dim=-1)
        enough = count >= self.min_keep
        chosen = torch.where(enough.any(dim=1), enough.int().argmax(dim=1), count.argmax(dim=1))
        rows = torch.arange(batch, device=device)
        allowed, hidden = allowed[rows, chosen], hidden[rows, chosen]
        kept = int(count[rows, chosen].min())
        return Masks(
            context=random_subset(allowed, kept, generator),
            targets=hidden.nonzero()[:, -1].reshape(batch, self.targets, math.prod(target)),
        )

    def _sizes(self, generator: torch.Generator) -> list[float]:
        ranges = (self.target_scale, self.target_aspect, self.context_scale)
        draws = torch.rand(3, generator=generator, device=generator.device).tolist()
        return [low + u * (high - low) for u, (low, high) in zip(draws, ranges, strict=True)]
