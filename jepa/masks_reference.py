"""The mask distribution of the I-JEPA release, faults included, for faithful comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from jepa.masks import block_tokens, check_grid, first_tokens, uniform
from jepa.shapes import Grid, Masks


def _size(grid: Grid, scale: float, aspect: float) -> tuple[int, int]:
    """As published: the area rounded down, sides strictly smaller than the grid's."""
    area = int(grid[0] * grid[1] * scale)
    rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return max(1, min(rows, grid[0] - 1)), max(1, min(columns, grid[1] - 1))


@dataclass(frozen=True, kw_only=True)
class ReferenceMultiBlockMasks:
    """Multi-block masks with the published code's distribution.

    One number draws both scale and aspect; the last row and column are never reached; contexts
    of a batch are cut to the shortest by keeping the first tokens in raster order, which leaves
    mostly top rows; a context of `min_keep` tokens or fewer is drawn again, and every 20 draws
    one target fewer is kept out of it. Use `MultiBlockMasks` for new training.

    Args as in `MultiBlockMasks`; `tries` draws before a target is given up.
    """

    targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    min_keep: int = 10
    tries: int = 20

    def sample(self, grid: Grid, batch: int, generator: torch.Generator) -> Masks:
        """Masks for `batch` images of `grid` patches, on the generator's device.

        Raises ValueError on grids on which the published code never ends: where even the whole
        context block has `min_keep` tokens or fewer.
        """
        check_grid(self, grid, 2)
        if min(grid) < 2:
            raise ValueError(f"the published sampler needs at least a 2x2 grid; got {grid}")
        u, v = uniform(generator, 2).tolist()
        target = _size(grid, _within(self.target_scale, u), _within(self.target_aspect, u))
        context = _size(grid, _within(self.context_scale, v), 1.0)
        if min(math.prod(context), math.prod(target)) <= 0 or math.prod(context) <= self.min_keep:
            raise ValueError(
                f"on a {grid[0]}x{grid[1]} grid the context block {context} has no more than "
                f"min_keep={self.min_keep} tokens, and the published sampler would never end: "
                "use MultiBlockMasks, or a smaller min_keep"
            )
        hidden = self._place(target, grid, (batch, self.targets), generator)
        allowed = self._contexts(hidden, context, grid, generator)
        return Masks(
            context=first_tokens(allowed, int(allowed.sum(dim=-1).min())),
            targets=first_tokens(hidden, math.prod(target)),
        )

    def _place(
        self,
        size: tuple[int, int],
        grid: Grid,
        shape: tuple[int, ...],
        generator: torch.Generator,
    ) -> Bool[Tensor, "*S N"]:
        """Blocks at random places; the last offset on each axis is never drawn, as published."""
        draw = torch.from_numpy(uniform(generator, 2, *shape))
        top = (draw[0] * (grid[0] - size[0])).long()
        left = (draw[1] * (grid[1] - size[1])).long()
        tokens = block_tokens(top.numpy(), left.numpy(), size, grid)
        return torch.from_numpy(tokens).to(generator.device)

    def _contexts(
        self,
        hidden: Bool[Tensor, "B M N"],
        size: tuple[int, int],
        grid: Grid,
        generator: torch.Generator,
    ) -> Bool[Tensor, "B N"]:
        """Draw again, for all images at once, until each has more than `min_keep` tokens.

        The last round keeps no target out, and there every draw will do.
        """
        batch = len(hidden)
        result = torch.zeros_like(hidden[:, 0])
        missing = torch.ones(batch, dtype=torch.bool, device=hidden.device)
        for kept_out in range(self.targets, -1, -1):
            for _ in range(self.tries):
                block = self._place(size, grid, (batch,), generator)
                block &= ~hidden[:, :kept_out].any(dim=1)
                fits = missing & (block.sum(dim=-1) > self.min_keep)
                result = torch.where(fits[:, None], block, result)
                missing &= ~fits
                if not missing.any():
                    return result
        raise AssertionError("unreachable: without targets every context block is large enough")


def _within(bounds: tuple[float, float], u: float) -> float:
    return bounds[0] + u * (bounds[1] - bounds[0])
