"""Multi-block masks of I-JEPA, for a whole batch in one vectorised call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Integer
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
    top: Integer[np.ndarray, "*S"],
    left: Integer[np.ndarray, "*S"],
    size: tuple[int, int],
    grid: Grid,
) -> Bool[np.ndarray, "*S N"]:
    """True on the tokens of the blocks whose first row and column are `top` and `left`."""
    in_rows, in_columns = within(top, size[0], grid[0]), within(left, size[1], grid[1])
    tokens = in_rows[..., :, None] & in_columns[..., None, :]
    return tokens.reshape(*top.shape, grid[0] * grid[1])


def within(first: Integer[np.ndarray, "*S"], length: int, side: int) -> Bool[np.ndarray, "*S side"]:
    """True on `length` places of an axis, from `first` on."""
    places = np.arange(side) - first[..., None]
    return (places >= 0) & (places < length)


def first_good(
    batch: int,
    attempts: int,
    min_keep: int,
    attempt: Callable[[np.ndarray, int], tuple[np.ndarray, ...]],
) -> tuple[np.ndarray, ...]:
    """Of `attempts` draws of each sample the first that shows at least `min_keep` tokens, or else
    the one that shows the most. Later draws are worked out for the samples that need them only.

    Args:
        attempt: given samples [b] and a number, what was drawn for these: visible tokens, a bool
            [b, N], and whatever else is to be chosen with them, [b, ...].

    Returns:
        The same of all samples, and at the end how many tokens each shows, [batch].
    """
    missing = np.arange(batch)
    best = attempt(missing, 0)
    counts = best[0].sum(axis=1)
    for number in range(1, attempts):
        missing = missing[counts[missing] < min_keep]
        if not len(missing):
            break
        drawn = attempt(missing, number)
        count = drawn[0].sum(axis=1)
        better = count > counts[missing]
        for old, new in zip((*best, counts), (*drawn, count), strict=True):
            old[missing[better]] = new[better]
    return *best, counts


SAMPLED = {
    2: ("images, of (h, w) patches", "TubeBlockMasks, RandomTubeMasks or CausalMasks"),
    3: ("clips, of (t, h, w) patches", "MultiBlockMasks"),
}


def check_grid(sampler: object, grid: Grid, axes: int) -> None:
    """Raises ValueError unless a grid has the axes that a sampler masks."""
    if len(grid) != axes:
        what, instead = SAMPLED[axes]
        raise ValueError(f"{type(sampler).__name__} masks {what}; got a grid {grid}: use {instead}")


def uniform(generator: torch.Generator, *shape: int) -> Float32[np.ndarray, "*S"]:
    """Random numbers in [0, 1), drawn on the generator's device, whatever torch's default type."""
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.cpu().numpy()


def random_subset(
    allowed: Bool[np.ndarray, "B N"], size: int, draw: Float32[np.ndarray, "B N"]
) -> Int64[Tensor, "B K"]:
    """The `size` allowed tokens of each row for which the most was drawn, in raster order."""
    priority = np.subtract(draw, ~allowed, dtype=np.float32)  # less than 0 where refused
    place = allowed.shape[1] - size
    least = np.partition(priority, place, axis=1)[:, place]
    return token_indices(priority >= least[:, None], size)


def token_indices(picked: Bool[np.ndarray, "B N"], size: int) -> Int64[Tensor, "B K"]:
    """Where the first `size` True entries of each row are; no row has fewer."""
    batch, tokens = picked.shape
    index = np.flatnonzero(picked)
    if len(index) > batch * size:  # rare: numbers that are equal
        index = np.flatnonzero(picked & (picked.cumsum(axis=1) <= size))
    index = index.reshape(batch, size)
    index -= tokens * np.arange(batch)[:, None]
    return torch.from_numpy(index)


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

        Drawn there and worked out by numpy, which sorts and searches rows ten times as fast as
        torch. The same generator state gives the same masks. Raises ValueError where a target
        block and a context block cannot both fit, as on a 1x1 grid.
        """
        check_grid(self, grid, 2)
        scale, aspect, context_scale = self._sizes(generator)
        target = block_size(grid, scale, aspect)
        context = block_size(grid, context_scale, 1.0)
        if math.prod(target) >= math.prod(context):
            raise ValueError(
                f"on a {grid[0]}x{grid[1]} grid the target block {target} leaves nothing of the "
                f"context block {context}: use a larger image, a smaller patch or smaller targets"
            )

        def places(size: tuple[int, int], *shape: int) -> tuple[np.ndarray, np.ndarray]:
            draw = uniform(generator, 2, *shape)
            rows, columns = (
                (u * np.float32(side - length + 1)).astype(np.int64)
                for u, side, length in zip(draw, grid, size, strict=True)
            )
            return rows, columns

        top, left = places(target, batch, self.attempts, self.targets)
        for start in (top, left):
            start[:, -1] = start[:, -1, :1]
        seen_top, seen_left = places(context, batch, self.attempts)
        inside = np.add.outer(np.arange(target[0]) * grid[1], np.arange(target[1])).flatten()

        def attempt(rows: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
            corner = top[rows, number] * grid[1] + left[rows, number]
            hidden = corner[..., None] + inside
            seen = block_tokens(seen_top[rows, number], seen_left[rows, number], context, grid)
            seen.reshape(-1)[hidden + grid[0] * grid[1] * np.arange(len(rows))[:, None, None]] = (
                False
            )
            return seen, hidden

        seen, hidden, counts = first_good(batch, self.attempts, self.min_keep, attempt)
        kept = random_subset(seen, int(counts.min()), uniform(generator, *seen.shape))
        return Masks(kept, torch.from_numpy(hidden)).to(generator.device)

    def _sizes(self, generator: torch.Generator) -> list[float]:
        ranges = (self.target_scale, self.target_aspect, self.context_scale)
        draws = uniform(generator, 3).tolist()
        return [low + u * (high - low) for u, (low, high) in zip(draws, ranges, strict=True)]
