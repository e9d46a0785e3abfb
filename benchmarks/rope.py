"""Rotary positions: one table for all layers, against computing them anew in every layer.

Forward pass over whole clips, and training step on masked contexts (V-JEPA's long- and short-range
masks), of a V-JEPA 2 encoder: the same weights, the same clips, the same output. As in the release,
the reference works out the angles of kept tokens for every clip and every head. It is timed twice:
with everything but the positions the same code on both sides (anew), and with the release's call
of torch's fused attention in every precision as well (published). Prints a Markdown table.

    python benchmarks/rope.py --threads 2
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa import seeds
from jepa.attention import attend
from jepa.encoder import VisionTransformer, vit_small, vit_tiny
from jepa.linear import Linear
from jepa.masks_video import MaskGroups
from jepa.recipes.hardware import fast_bfloat16
from jepa.shapes import Grid

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def turn_axis(x: Tensor, position: Tensor) -> Tensor:
    """As published: angles from positions, tiled, on interleaved pairs."""
    channels = x.shape[-1]
    omega = torch.arange(channels // 2, dtype=x.dtype, device=x.device) / (channels / 2)
    angle = position[..., None] * (1.0 / 10000**omega)
    tiled = (*(1,) * position.ndim, 2)
    sin, cos = angle.sin().repeat(tiled), angle.cos().repeat(tiled)
    pairs = x.unflatten(-1, (-1, 2))
    first, second = pairs.unbind(-1)
    return x * cos + torch.stack((-second, first), dim=-1).flatten(-2) * sin


class AnewInEveryLayer(nn.Module):
    """Attention that works out every token's place and angles itself, for q and for k."""

    def __init__(self, attention: Any, grid: Grid, attend: Attend) -> None:
        super().__init__()
        self.attention, self.grid, self.attend = attention, grid, attend
        self.keep: Tensor | None = None  # [B, K]

    def forward(self, x: Tensor, rope: object = None, asked: int | None = None) -> Tensor:
        attention, asked = self.attention, x.shape[1] if asked is None else asked
        _, h, w = self.grid
        qkv = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        token = torch.arange(x.shape[1], device=x.device)
        if self.keep is not None:
            token = self.keep[:, None].repeat(1, attention.num_heads, 1)
        places = (token // (h * w), token % (h * w) // w, token % w)
        each = 2 * (q.shape[-1] // 3 // 2)

        def turned(x: Tensor) -> Tensor:
            parts = [
                turn_axis(x[..., i * each : (i + 1) * each], place.to(x.dtype))
                for i, place in enumerate(places)
            ]
            return torch.cat([*parts, x[..., 3 * each :]], dim=-1)

        return attention.proj(
            self.attend(turned(q)[:, :, -asked:], turned(k), v).transpose(1, 2).flatten(2)
        )


def anew(encoder: VisionTransformer, grid: Grid) -> VisionTransformer:
    """A copy with the same weights, with positions in the published way."""
    copy = VisionTransformer(**encoder.config)
    copy.load_state_dict(encoder.state_dict())
    for block in copy.blocks:
        block.attn = AnewInEveryLayer(block.attn, grid, attend)
    return copy


def published(encoder: VisionTransformer, grid: Grid) -> VisionTransformer:
    """`anew`, with torch's fused attention and torch's linear layers everywhere."""
    copy = anew(encoder, grid)
    for module in list(copy.modules()):
        if isinstance(module, AnewInEveryLayer):
            module.attend = F.scaled_dot_product_attention
        for name, layer in module.named_children():
            if isinstance(layer, Linear):
                plain = nn.Linear(layer.in_features, layer.out_features)
                plain.load_state_dict(layer.state_dict())
                setattr(module, name, plain)
    return copy


def masked(encoder: nn.Module, clips: Tensor, keep: Tensor | None) -> Tensor:
    """The encoder on the kept tokens; the reference's layers are told which they are."""
    for layer in encoder.modules():
        if isinstance(layer, AnewInEveryLayer):
            layer.keep = keep
    return encoder(clips, keep)


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(works: list[Callable[[], object]], repeats: int) -> tuple[float, list[float]]:
    """Median time of the first, and of the others' ratios to it, all taken in turns."""
    for work in works:
        work()
    turns = [[seconds(work) for work in works] for _ in range(repeats)]
    ratios = [
        statistics.median(turn[other] / turn[0] for turn in turns) for other in range(1, len(works))
    ]
    return statistics.median(turn[0] for turn in turns), ratios


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Rotary positions, made once or in every layer.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    video = {"frames": 16, "tubelet_size": 2, "positions": "rope_legacy"}
    small = {"image_size": 32, "patch_size": 8, "channels": 1, "dim": 128, "depth": 4, "heads": 4}
    cases = {
        "the recipes' encoder, 16 x 32 x 32": (VisionTransformer(**small, **video), 16, 32),
        "ViT-Ti/16, 16 x 64 x 64": (vit_tiny(image_size=64, **video), 8, 64),
        "ViT-Ti/16, 16 x 128 x 128": (vit_tiny(image_size=128, **video), 4, 128),
        "ViT-S/16, 16 x 224 x 224": (vit_small(image_size=224, **video), 1, 224),
    }
    precisions = ["float32", "bfloat16"] if fast_bfloat16("cpu") else ["float32"]
    print(f"{options.threads} threads, median of {options.repeats}, {' and '.join(precisions)}")
    if "bfloat16" not in precisions:
        print("bfloat16 is left out: this processor has no products of it")
    print()
    print("| model, clip | precision | what | one table, ms | anew | published | difference |")
    print("|---|---|---|---|---|---|---|")
    for name, (encoder, batch, side) in cases.items():
        clips = torch.randn(batch, encoder.channels, 16, side, side)
        grid = encoder.grid(clips)
        references = [anew(encoder, grid), published(encoder, grid)]
        drawn = MaskGroups().sample(grid, batch, seeds.generator(0, name))
        contexts = [masks.context for masks in drawn]
        with torch.no_grad():
            differences = [
                (masked(encoder, clips, keep) - masked(reference, clips, keep)).abs().max()
                for keep in (None, *contexts)
                for reference in references
            ]
        difference = max(differences).item()
        for precision in precisions:
            half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

            def forward(model: nn.Module, clips=clips, half=half) -> None:
                with torch.no_grad(), half:
                    masked(model, clips, None)

            def step(model: nn.Module, clips=clips, half=half, contexts=contexts) -> None:
                for keep in contexts:
                    with half:
                        loss = masked(model, clips, keep).float().square().mean()
                    loss.backward()
                model.zero_grad(set_to_none=True)

            for what, work in (("forward", forward), ("training step", step)):
                models = (encoder, *references)
                ours, ratios = medians([partial(work, model) for model in models], options.repeats)
                print(
                    f"| {name} | {precision} | {what} | {1e3 * ours:.0f} | {ratios[0]:.2f} | "
                    f"{ratios[1]:.2f} | {difference:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
