"""Masks of clips: blocks, tubes and futures, each a pure function of the generator.

A clip may have several groups of masks, each with its own contexts and targets: V-JEPA has two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float32

from jepa.choices import check_choice
from jepa.masks import (
    block_size,
    check_grid,
    first_good,
    first_tokens,
    random_subset,
    uniform,
    within,
)
from jepa.shapes import Grid, Masks

Truncation: TypeAlias = Literal["random", "tubes", "first"]


def _range(value: float | tuple[float, float]) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


@dataclass(frozen=True, kw_only=True)
class TubeBlockMasks:
    """The union of several blocks is hidden, the rest is seen (V-JEPA, section 3.2).

    A block spans `time` of the clip's tubelets and `scale` of a frame. Its size is drawn once a
    batch, scale and aspect independently; its place for every clip. Contexts of a batch are cut
    to the smallest of them, and so are targets. There is no loop to run for ever: of `attempts`
    draws a clip keeps the first whose context has `min_keep` tokens, or else the one with most;
    in the last draw all blocks lie on one place, so the context is never empty.

    Args:
        blocks: per clip.
        scale: a block's share of a frame, or a range of it.
        aspect: range of its height over width.
        time: share of the clip's length that a block lasts, or a range of it.
        min_keep: context tokens wanted at least, where the grid has them.
        attempts: draws per clip.
        truncation: `random` keeps a uniformly random choice of tokens, so that no time and no
            place is preferred; `tubes` one of places, each for the whole clip, as long as blocks
            last (`time` 1). `first` keeps the first tokens, as the published code does: these are
            in the order of time, so the context is left with the beginning of the clip.
    """

    blocks: int = 8
    scale: float | tuple[float, float] = 0.15
    aspect: tuple[float, float] = (0.75, 1.5)
    time: float | tuple[float, float] = 1.0
    min_keep: int = 1
    attempts: int = 8
    truncation: Truncation = "random"

    def __post_init__(self) -> None:
        for name in ("scale", "aspect", "time"):
            low, high = _range(getattr(self, name))
            if not 0 < low <= high:
                raise ValueError(f"{name} must be positive, (low, high) ascending; got {low, high}")
            if name != "aspect" and high > 1:
                raise ValueError(f"{name} is a share, at most 1; got {high}")
        for name in ("blocks", "min_keep", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        check_choice("truncation", self.truncation, Truncation)
        if self.truncation == "tubes" and _range(self.time)[0] < 1:
            raise ValueError(
                "truncation='tubes' keeps whole tubes, so blocks must last for the whole clip, "
                f"time=1.0; got time={self.time}: use truncation='random'"
            )

    def sample(self, grid: Grid, batch: int, generator: torch.Generator) -> Masks:
        """Masks for `batch` clips of `grid` (t, h, w) patches; targets [batch, 1, Nt].

        A block that would hide the whole of a coarse grid is made one row or column smaller.
        Raises ValueError where there is no room for that.
        """
        check_grid(self, grid, 3)
        size = self._size(grid, generator)
        if self.truncation == "tubes":
            fewest = math.ceil(self.min_keep / grid[0])
            frame = self._drawn((1, *size[1:]), (1, *grid[1:]), batch, fewest, generator)
            return lasting(frame, grid)
        return self._drawn(size, grid, batch, self.min_keep, generator)

    def _drawn(
        self, size: Grid, grid: Grid, batch: int, min_keep: int, generator: torch.Generator
    ) -> Masks:
        """Masks of blocks of `size`."""

        def attempt(rows: np.ndarray, number: int) -> tuple[np.ndarray]:
            blocks = 1 if number == self.attempts - 1 else self.blocks
            draw = uniform(generator, 3, len(rows), blocks)
            times, down, across = (
                within((u * np.float32(side - length + 1)).astype(np.int64), length, side)
                for u, side, length in zip(draw, grid, size, strict=True)
            )
            edges = (times[..., :, None] & down[..., None, :]).reshape(len(rows), blocks, -1)
            hits = edges.mT.astype(np.float32) @ across.astype(np.float32)
            return (hits.reshape(len(rows), -1) == 0,)

        seen = first_good(batch, self.attempts, min_keep, attempt)[0]
        return cut(seen, generator, self.truncation)

    def _size(self, grid: Grid, generator: torch.Generator) -> tuple[int, int, int]:
        """(tubelets, rows, columns) of a block."""
        draws = uniform(generator, 3).tolist()
        ranges = (_range(self.time), _range(self.scale), self.aspect)
        time, scale, aspect = (
            low + u * (high - low) for u, (low, high) in zip(draws, ranges, strict=True)
        )
        length = min(max(round(grid[0] * time), 1), grid[0])
        rows, columns = block_size(grid[1:], scale, aspect)
        if (length, rows, columns) == grid:
            rows, columns = (rows - 1, columns) if rows >= columns else (rows, columns - 1)
        if not rows or not columns:
            raise ValueError(f"nothing to hide and to see on a {grid} grid: use smaller patches")
        return length, rows, columns


@dataclass(frozen=True, kw_only=True)
class RandomTubeMasks:
    """Patches drawn at random, each hidden for the whole clip (Tong et al. 2022, VideoMAE).

    Args:
        ratio: share of the patches of a frame that is hidden.
    """

    ratio: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is a share between 0 and 1; got {self.ratio}")

    def sample(self, grid: Grid, batch: int, generator: torch.Generator) -> Masks:
        """Masks for `batch` clips of `grid` (t, h, w) patches; targets [batch, 1, Nt]."""
        check_grid(self, grid, 3)
        places = math.prod(grid[1:])
        if places < 2:
            raise ValueError(f"nothing to hide and to see on a {grid} grid: 2 patches are needed")
        count = min(max(round(self.ratio * places), 1), places - 1)
        everywhere = np.ones((batch, places), dtype=bool)
        drawn = random_subset(everywhere, count, uniform(generator, batch, places))
        seen = torch.from_numpy(everywhere).scatter_(1, drawn, False)
        frame = Masks(first_tokens(seen, places - count), drawn[:, None])
        return lasting(frame, grid).to(generator.device)


@dataclass(frozen=True, kw_only=True)
class CausalMasks:
    """The beginning of the clip is seen, all that follows is hidden.

    Args:
        seen: share of the clip's length, or a range of it, drawn once a batch.
    """

    seen: float | tuple[float, float] = 0.5

    def __post_init__(self) -> None:
        low, high = _range(self.seen)
        if not 0 < low <= high < 1:
            raise ValueError(f"seen is a share between 0 and 1, or a range; got {self.seen}")

    def sample(self, grid: Grid, batch: int, generator: torch.Generator) -> Masks:
        """Masks for `batch` clips of `grid` (t, h, w) patches; targets [batch, 1, Nt]."""
        check_grid(self, grid, 3)
        if grid[0] < 2:
            raise ValueError(f"a future needs 2 tubelets or more; the grid is {grid}")
        low, high = _range(self.seen)
        u = uniform(generator).item()
        length = min(max(round(grid[0] * (low + u * (high - low))), 1), grid[0] - 1)
        tokens = torch.arange(math.prod(grid), device=generator.device)
        context, target = tokens.tensor_split([length * math.prod(grid[1:])])
        return Masks(context.expand(batch, -1), target.expand(batch, 1, -1))


TubeMasks: TypeAlias = TubeBlockMasks | RandomTubeMasks | CausalMasks


@dataclass(frozen=True, kw_only=True)
class MaskGroups:
    """Several samplers on the same batch, one group of masks each.

    The default is V-JEPA's (Bardes et al. 2024, section 3.2): 8 short-range blocks of 15 % of a
    frame, and 2 long-range ones of 70 %.

    Args:
        groups: the samplers, in the order of the predictor's mask tokens.
    """

    groups: tuple[TubeMasks, ...] = (
        TubeBlockMasks(blocks=8, scale=0.15),
        TubeBlockMasks(blocks=2, scale=0.7),
    )

    def sample(self, grid: Grid, batch: int, generator: torch.Generator) -> tuple[Masks, ...]:
        """One `Masks` per group, drawn one after the other."""
        return tuple(group.sample(grid, batch, generator) for group in self.groups)


def lasting(frame: Masks, grid: Grid) -> Masks:
    """Masks of one frame, for all times of a clip of `grid` (t, h, w) patches."""
    starts = math.prod(grid[1:]) * torch.arange(grid[0], device=frame.context.device)[:, None]
    context, targets = (
        (starts + tokens[..., None, :]).flatten(-2) for tokens in (frame.context, frame.targets)
    )
    return Masks(context, targets)


def cut(seen: Bool[np.ndarray, "B N"], generator: torch.Generator, truncation: Truncation) -> Masks:
    """Contexts, and targets of all that is not seen, each cut to the smallest of the batch."""
    counts = seen.sum(axis=1)
    hidden = seen.shape[1] - counts
    most, fewest = int(counts.min()), int(hidden.min())
    if truncation == "first":
        allowed = torch.from_numpy(seen)
        context, targets = first_tokens(allowed, most), first_tokens(~allowed, fewest)
    else:
        draw = turned(generator, *seen.shape)
        context, targets = random_subset(seen, most, draw), random_subset(~seen, fewest, draw)
    return Masks(context, targets[:, None]).to(generator.device)


def turned(
    generator: torch.Generator, batch: int, tokens: int
) -> Float32[np.ndarray, "batch tokens"]:
    """One row of random numbers in [0, 1), turned by a random number of tokens for each clip.

    To a clip the same as numbers of its own.
    """
    draw = uniform(generator, tokens + batch)
    row, turn = draw[:tokens], (draw[tokens:] * tokens).astype(np.int64)
    return np.lib.stride_tricks.sliding_window_view(np.concatenate([row, row]), tokens)[turn]
