"""I-JEPA and V-JEPA 2 read plainly: what the speed of a training step is measured against.

Written by us from the papers (arXiv:2301.08243, 2404.08471, 2506.09985) and from what is known of
the releases, in float32: attention of images written out, of clips by torch's fused call with
rotary positions worked out in every layer, as the releases have them; patches by a convolution of
the whole picture for every mask; the target encoder on all tokens of all layers; the context
repeated for every block of targets; AdamW as torch has it by default; the target's update and the
masks one parameter, and one sample, at a time. Names of parameters are the releases' and ours:
weights go from one to the other, and `tests/test_benchmarks.py` shows that both are one model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.shapes import Grid, Masks


def gathered(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of tokens [B, N, D]."""
    return torch.gather(tokens, 1, index.unsqueeze(-1).repeat(1, 1, tokens.shape[-1]))


def sincos(dim: int, side: int) -> Tensor:
    """[1, side^2, dim]: the first half of the width is the column's, the second the row's."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = axis.repeat(side, 1), axis.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()[None]


def turned(x: Tensor, position: Tensor) -> Tensor:
    """Neighbouring channels turned by position times frequency; the angles tiled, as released."""
    channels = x.shape[-1]
    omega = 1.0 / 10000 ** (torch.arange(channels // 2, dtype=x.dtype) / (channels / 2))
    angle = position.to(x.dtype)[..., None] * omega
    sin, cos = torch.cat([angle, angle], -1).sin(), torch.cat([angle, angle], -1).cos()
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin


class Attention(nn.Module):
    """Written out for images; for clips, on a grid (t, h, w), turned and fused."""

    def __init__(self, dim: int, heads: int, grid: Grid) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if len(self.grid) == 3:
            q, k = self.rotary(q, keep), self.rotary(k, keep)
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
            out = scores.softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))

    def rotary(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """The place of every token of every head, and its share of the channels turned by it."""
        _, h, w = self.grid
        token = torch.arange(x.shape[2])
        if keep is not None:
            token = keep.unsqueeze(1).repeat(1, self.heads, 1)
        frame = token // (h * w)
        row = (token - frame * h * w) // w
        places = (frame, row, token - frame * h * w - row * w)
        each = 2 * (x.shape[-1] // 3 // 2)
        axes = [turned(x[..., i * each :][..., :each], place) for i, place in enumerate(places)]
        return torch.cat([*axes, x[..., 3 * each :]], dim=-1)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, grid: Grid) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, grid)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), keep)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, dim: int, patch: int, tubelet: int, video: bool) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = (
            nn.Conv3d(channels, dim, size, size)
            if video
            else nn.Conv2d(channels, dim, patch, patch)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Takes the arguments of `jepa.encoder.VisionTransformer`."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        channels: int,
        frames: int,
        tubelet_size: int,
        positions: str,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        video, side = frames > 1, image_size // patch_size
        assert positions == ("rope_legacy" if video else "sincos")
        self.grid: Grid = (frames // tubelet_size, side, side) if video else (side, side)
        self.patch_embed = PatchEmbed(channels, dim, patch_size, tubelet_size, video)
        self.register_buffer("pos_embed", sincos(dim, side), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, self.grid) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.patch_embed(images)
        if len(self.grid) == 2:
            x = x + self.pos_embed
        if keep is not None:
            x = gathered(x, keep)
        for block in self.blocks:
            x = block(x, keep)
        return self.norm(x)


class Predictor(nn.Module):
    """Takes the arguments of `jepa.predictor.Predictor`."""

    pos_embed: Tensor

    def __init__(
        self,
        *,
        encoder_dim: int,
        native_grid: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        mask_tokens: int,
        positions: str,
    ) -> None:
        super().__init__()
        self.grid: Grid = tuple(native_grid)
        self.predictor_embed = nn.Linear(encoder_dim, dim)
        self.mask_tokens = nn.ParameterList(torch.zeros(1, 1, dim) for _ in range(mask_tokens))
        self.register_buffer("pos_embed", sincos(dim, self.grid[-1]), persistent=False)
        self.predictor_blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, self.grid) for _ in range(depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=1e-6)
        self.predictor_proj = nn.Linear(dim, encoder_dim)

    def forward(self, context: Tensor, masks: Masks, group: int) -> Tensor:
        """[M * B, Nt, D]: all samples for the first block of targets, then for the second."""
        batch, blocks, size = masks.targets.shape
        targets = torch.cat([masks.targets[:, i] for i in range(blocks)])
        x = self.predictor_embed(context)
        asked = self.mask_tokens[group].repeat(batch * blocks, size, 1)
        if len(self.grid) == 2:
            x = x + gathered(self.pos_embed.repeat(batch, 1, 1), masks.context)
            asked = asked + gathered(self.pos_embed.repeat(batch * blocks, 1, 1), targets)
        x = torch.cat([x.repeat(blocks, 1, 1), asked], dim=1)
        keep = torch.cat([masks.context.repeat(blocks, 1), targets], dim=1)
        for block in self.predictor_blocks:
            x = block(x, keep)
        x = self.predictor_norm(x)
        return self.predictor_proj(x[:, masks.context.shape[1] :])


class PlainJEPA(nn.Module):
    """Weights and arguments are those of a `jepa.model.JEPA`; images have smooth L1, clips L1."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = Encoder(**model.encoder.config)
        self.predictor = Predictor(**model.predictor.config)
        copied(self.encoder, model.encoder)
        copied(self.predictor, model.predictor)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        copied(self.target, model.target.encoder)
        self.loss = F.l1_loss if len(self.encoder.grid) == 3 else F.smooth_l1_loss

    def forward(self, images: Tensor, groups: Sequence[Masks]) -> Tensor:
        """The loss: mean over the groups of masks."""
        with torch.no_grad():
            whole = self.target(images)
            whole = F.layer_norm(whole, (whole.shape[-1],))
        losses = []
        for number, masks in enumerate(groups):
            predicted = self.predictor(self.encoder(images, masks.context), masks, number)
            blocks = range(masks.targets.shape[1])
            target = torch.cat([gathered(whole, masks.targets[:, i]) for i in blocks])
            losses.append(self.loss(predicted, target))
        return sum(losses, torch.zeros(())) / len(losses)

    def optimizer(self, learning_rate: float) -> torch.optim.AdamW:
        """torch's, as it is by default; parameters of one dimension are not decayed."""
        learnt = [p for p in self.parameters() if p.requires_grad]
        flat = [p for p in learnt if p.ndim <= 1]
        rest = [p for p in learnt if p.ndim > 1]
        groups = [{"params": rest}, {"params": flat, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=learning_rate)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the target, one parameter at a time."""
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.data.mul_(momentum).add_((1.0 - momentum) * fast.detach().data)


def copied(plain: nn.Module, ours: nn.Module) -> None:
    """Weights by name; a convolution's are stored flat in ours."""
    given, wanted = ours.state_dict(), plain.state_dict()
    plain.load_state_dict({name: given[name].reshape(wanted[name].shape) for name in wanted})


def collate_blocks(grid: Grid, batch: int, generator: torch.Generator, min_keep: int = 10) -> Masks:
    """Multi-block masks of I-JEPA, image by image, drawn again until they have enough tokens."""

    def size(scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
        u = torch.rand(1, generator=generator).item()
        area = int(grid[0] * grid[1] * (scale[0] + u * (scale[1] - scale[0])))
        ratio = aspect[0] + u * (aspect[1] - aspect[0])
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        return min(h, grid[0] - 1), min(w, grid[1] - 1)

    def block(size: tuple[int, int], outside: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        tries, obeyed = 0, len(outside)
        while True:
            top = int(torch.randint(0, grid[0] - size[0], (1,), generator=generator))
            left = int(torch.randint(0, grid[1] - size[1], (1,), generator=generator))
            mask = torch.zeros(grid, dtype=torch.int32)
            mask[top : top + size[0], left : left + size[1]] = 1
            complement = 1 - mask
            for region in outside[:obeyed]:
                mask *= region
            tokens = torch.nonzero(mask.flatten()).squeeze(1)
            if len(tokens) > min_keep:
                return tokens, complement
            tries += 1
            if tries % 20 == 0:
                obeyed = max(obeyed - 1, 0)

    target, context = size((0.15, 0.2), (0.75, 1.5)), size((0.85, 1.0), (1.0, 1.0))
    contexts, targets = [], []
    for _ in range(batch):
        drawn = [block(target, ()) for _ in range(4)]
        targets.append([tokens for tokens, _ in drawn])
        contexts.append(block(context, [complement for _, complement in drawn])[0])
    kept = min(len(tokens) for tokens in contexts)
    shortest = min(len(tokens) for blocks in targets for tokens in blocks)
    return Masks(
        context=torch.stack([tokens[:kept] for tokens in contexts]),
        targets=torch.stack([torch.stack([t[:shortest] for t in blocks]) for blocks in targets]),
    )


def collate_tubes(grid: Grid, batch: int, generator: torch.Generator) -> list[Masks]:
    """Short- and long-range masks of V-JEPA, clip by clip, drawn again while nothing is seen."""
    groups = []
    for blocks, scale in ((8, 0.15), (2, 0.7)):
        u = torch.rand(1, generator=generator).item()
        area, aspect = int(grid[1] * grid[2] * scale), 0.75 + 0.75 * u
        h = min(round(math.sqrt(area * aspect)), grid[1])
        w = min(round(math.sqrt(area / aspect)), grid[2])
        contexts, targets = [], []
        while len(contexts) < batch:
            seen = torch.ones(grid, dtype=torch.int32)
            for _ in range(blocks):
                top = int(torch.randint(0, grid[1] - h + 1, (1,), generator=generator))
                left = int(torch.randint(0, grid[2] - w + 1, (1,), generator=generator))
                one = torch.ones(grid, dtype=torch.int32)
                one[:, top : top + h, left : left + w] = 0
                seen *= one
            flat = seen.flatten()
            if flat.any():
                contexts.append(torch.nonzero(flat).squeeze(1))
                targets.append(torch.nonzero(flat == 0).squeeze(1))
        kept, asked = (min(len(tokens) for tokens in some) for some in (contexts, targets))
        context = torch.stack([tokens[:kept] for tokens in contexts])
        groups.append(Masks(context, torch.stack([t[:asked] for t in targets])[:, None]))
    return groups
