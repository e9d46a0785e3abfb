"""V-JEPA 2-AC's network: from frames, actions and poses so far to the next frame's tokens.

Assran et al. 2025 (arXiv:2506.09985, section 3). One frame is a group of tokens: the action taken
there, the robot's state, optionally the camera's, and the patches. Attention is full inside a
frame and causal between frames, so that what a frame is to later ones never changes: its keys and
values are computed once.

Letters: B batch, S plans of one environment, T frames, N patches, M tokens of a frame, D width of
the encoder's tokens, A P E sizes of action, state and extrinsics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.attention import attend
from jepa.blocks import LAYER_NORM, init_transformer, transformer_blocks
from jepa.choices import check_choice
from jepa.rope import Rope, RopeStyle, rope_table
from jepa.shapes import Grid
from jepa.tables import shared_table

Past: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values [B, S or 1, heads, n, d] of some frames, of every layer; with 1, all plans of an
environment share them."""


class ActionConditionedPredictor(nn.Module):
    """Block-causal transformer over [action, state, (extrinsics), patches] of each frame.

    Args:
        encoder_dim: width D of the encoder's tokens.
        grid: (h, w) in patches of a frame.
        actions: size of an action, A.
        states: size of the robot's state, P.
        extrinsics: size of the camera's pose, E.
        use_extrinsics: whether the camera's pose is one of the tokens; its layer is there anyway.
        dim: width inside.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        positions: `rope`, or `rope_legacy` as in the released weights.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: Grid,
        *,
        actions: int = 7,
        states: int = 7,
        extrinsics: int = 6,
        use_extrinsics: bool = False,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        positions: RopeStyle = "rope",
    ) -> None:
        super().__init__()
        check_choice("positions", positions, RopeStyle)
        self.config: dict[str, Any] = dict(
            encoder_dim=encoder_dim,
            grid=list(grid),
            actions=actions,
            states=states,
            extrinsics=extrinsics,
            use_extrinsics=use_extrinsics,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            positions=positions,
        )
        self.grid, self.actions, self.use_extrinsics = tuple(grid), actions, use_extrinsics
        self.head_dim = dim // heads
        self.positions: RopeStyle = positions
        self.predictor_embed = nn.Linear(encoder_dim, dim)
        self.action_encoder = nn.Linear(actions, dim)
        self.state_encoder = nn.Linear(states, dim)
        self.extrinsics_encoder = nn.Linear(extrinsics, dim)
        self.predictor_blocks = transformer_blocks(dim, depth, heads, mlp_ratio)
        self.predictor_norm = LAYER_NORM(dim)
        self.predictor_proj = nn.Linear(dim, encoder_dim)
        init_transformer(self, self.predictor_blocks)
        self.extrinsics_encoder.requires_grad_(use_extrinsics)

    @property
    def conditions(self) -> int:
        """Tokens of a frame before its patches."""
        return 3 if self.use_extrinsics else 2

    def forward(
        self,
        tokens: Float[Tensor, "B T N D"],
        actions: Float[Tensor, "B T A"],
        states: Float[Tensor, "B T P"],
        extrinsics: Float[Tensor, "B T E"] | None = None,
    ) -> Float[Tensor, "B T N D"]:
        """At each frame the next one's tokens, before their layer norm, from the frames up to it.

        Frames are given, not foreseen (teacher forcing).
        """
        camera = None if extrinsics is None else extrinsics[:, None]
        after, _ = self.extend(tokens[:, None], actions[:, None], states[:, None], camera)
        return after[:, 0]

    def extend(
        self,
        tokens: Float[Tensor, "B s T N D"],
        actions: Float[Tensor, "B S T A"],
        states: Float[Tensor, "B s T P"],
        extrinsics: Float[Tensor, "B 1 T E"] | None = None,
        pasts: Sequence[Past] = (),
    ) -> tuple[Float[Tensor, "B S T N D"], Past]:
        """`forward` for frames that follow those of `pasts`, with S plans an environment.

        Tokens and states may be those of every plan (s = S), or shared (s = 1).

        Returns:
            what follows each of the new frames, and what the new frames are to later ones.
        """
        x = self._frames(tokens, actions, states, extrinsics)
        batch, plans, frames, size, _ = x.shape
        seen = sum(past[0][0].shape[3] for past in pasts) // size
        rope = frame_rope(
            self.head_dim, seen, frames, self.grid, self.conditions, self.positions, x.device
        ).to(x)
        x, new = x.flatten(2, 3).flatten(0, 1), []
        block: Any
        for layer, block in enumerate(self.predictor_blocks):
            q, *own = block.attn.project(block.norm1(x), rope)
            own = tuple(part.unflatten(0, (batch, plans)) for part in own)
            parts = [past[layer] for past in pasts]
            k, v = (joined([*before, now]) for *before, now in zip(*parts, own, strict=True))
            heads = attend_causally(q, k, v, frames)
            x = x + block.attn.proj(heads.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
            # copies, or the queries would be kept in memory with them
            new.append(tuple(part.contiguous() for part in own))
        x = x.unflatten(0, (batch, plans)).unflatten(2, (frames, size))
        patches = x[..., self.conditions :, :]
        return self.predictor_proj(self.predictor_norm(patches)), new

    def _frames(
        self, tokens: Tensor, actions: Tensor, states: Tensor, extrinsics: Tensor | None
    ) -> Float[Tensor, "B S T M dim"]:
        """The tokens of each frame, embedded."""
        if tokens.shape[-2] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"this predictor foresees frames of {self.grid[0]}x{self.grid[1]} patches; got "
                f"{tokens.shape[-2]} patches: resize the images, or build it with their grid"
            )
        if (extrinsics is not None) != self.use_extrinsics:
            raise ValueError(
                f"use_extrinsics is {self.use_extrinsics}, but extrinsics are "
                f"{'missing' if extrinsics is None else 'given'}"
            )
        parts = [self.action_encoder(actions), self.state_encoder(states)]
        if extrinsics is not None:
            parts.append(self.extrinsics_encoder(extrinsics))
        rows = [part[..., None, :] for part in parts] + [self.predictor_embed(tokens)]
        plans = actions.shape[1]
        return torch.cat([row.expand(-1, plans, -1, -1, -1) for row in rows], dim=-2)


def joined(parts: Sequence[Float[Tensor, "B _ heads _ d"]]) -> Float[Tensor, "BS heads n d"]:
    """One after the other, those that plans share put beside each plan's own."""
    plans = parts[-1].shape[1]
    spread = [part.expand(-1, plans, -1, -1, -1) for part in parts]
    return torch.cat(spread, dim=3).flatten(0, 1)


def attend_causally(
    q: Float[Tensor, "B heads n d"],
    k: Float[Tensor, "B heads m d"],
    v: Float[Tensor, "B heads m d"],
    frames: int,
) -> Float[Tensor, "B heads n d"]:
    """Each of the queries' frames, the last ones of the keys', attends up to its own end.

    Frame by frame and without a mask: what would be masked out is not computed.
    """
    size, ends = q.shape[2] // frames, range(k.shape[2] - q.shape[2], k.shape[2])
    return torch.cat(
        [
            attend(now, k[:, :, : end + size], v[:, :, : end + size])
            for now, end in zip(q.split(size, dim=2), ends[::size], strict=True)
        ],
        dim=2,
    )


@shared_table
def frame_rope(
    head_dim: int,
    first: int,
    frames: int,
    grid: Grid,
    conditions: int,
    style: RopeStyle,
    device: torch.device,
) -> Rope:
    """What turns the tokens of `frames` frames from the `first` on, [T * M, d].

    Action, state and extrinsics stand at (t, 0, 0) and so are turned in time only. Shared by all
    callers: do not write to it.
    """
    table = rope_table(head_dim, (first + frames, *grid), style)
    tokens = torch.arange(len(table.cos)).unflatten(0, (first + frames, -1))[first:]
    index = torch.cat([tokens[:, :1].expand(-1, conditions), tokens], dim=1).flatten()
    return table.take(index).to(device)
