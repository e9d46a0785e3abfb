"""Our image encoder as a timm model with the same features, and back.

timm's ViTs name their parameters as the official I-JEPA checkpoints do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import Block
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from jepa.encoder import VisionTransformer
from jepa.files import write_json, write_safetensors
from jepa.frozen import FrozenEncoder
from jepa.keys import Given, KeyTable, MisfitError
from jepa.official import build_encoder
from jepa.positions import sincos

ARCHITECTURE = "vit_base_patch16_224"  # whose every size is an argument


def to_timm(encoder: VisionTransformer) -> TimmViT:
    """A timm ViT whose `forward_features` are our latents, at our native image size.

    At other sizes, with `dynamic_img_size`, timm interpolates the table of positions, where ours
    are computed.

    Raises ValueError for encoders of clips and for rotary positions, which timm's ViTs lack.
    """
    if encoder.video or encoder.positions != "sincos":
        raise ValueError(
            "timm's ViTs take images and add their positions; this encoder takes "
            f"{'clips' if encoder.video else 'images'}, with positions {encoder.positions!r}"
        )
    model: Any = timm.create_model(ARCHITECTURE, pretrained=False, **timm_arguments(encoder))
    state = encoder.state_dict()
    patches = (encoder.channels, encoder.patch_size, encoder.patch_size)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unflatten(1, patches)
    state["pos_embed"] = sincos(encoder.dim, encoder.native_grid, encoder.native_grid)[None]
    model.load_state_dict(state, strict=True)
    return model.eval()


def timm_arguments(encoder: VisionTransformer) -> dict[str, Any]:
    """What `timm.create_model` is to be told besides the architecture."""
    sizes = encoder.config
    return {
        "img_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "in_chans": sizes["channels"],
        "embed_dim": sizes["dim"],
        "depth": sizes["depth"],
        "num_heads": sizes["heads"],
        "mlp_ratio": sizes["mlp_ratio"],
        "num_classes": 0,
        "global_pool": "",
        "class_token": False,
    }


def write_timm(folder: str | Path, frozen: FrozenEncoder) -> Path:
    """A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, as on the hub.

    Raises ValueError as `to_timm`.
    """
    folder, encoder = Path(folder), frozen.encoder
    if not isinstance(encoder, VisionTransformer):
        raise ValueError(f"only our encoder is made a timm model; got a {type(encoder).__name__}")
    model, side = to_timm(encoder), encoder.config["image_size"]
    pixels = {
        "input_size": [encoder.channels, side, side],
        "fixed_input_size": True,
        "mean": list(frozen.normalize.mean),
        "std": list(frozen.normalize.std),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    write_safetensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})
    about = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": encoder.dim,
        "model_args": timm_arguments(encoder),
        "pretrained_cfg": pixels,
    }
    write_json(folder / "config.json", about)
    return folder


def from_timm(model: nn.Module, what: str) -> tuple[VisionTransformer, KeyTable] | None:
    """Our encoder, if the model is a ViT as ours is: timm's I-JEPA models, or what `to_timm` made.

    None for every other network: class tokens, learnt positions, other norms.
    """
    if not isinstance(model, TimmViT) or model.num_prefix_tokens or model.pos_embed is None:
        return None
    kinds = {type(part) for part in model.modules()}
    block: Any = model.blocks[0]
    if not isinstance(block, Block) or nn.GELU not in kinds or block.norm1.eps != 1e-6:
        return None
    heads: Any = block.attn.num_heads
    given = Given(dict(model.state_dict()), what)
    try:
        encoder, table = build_encoder(
            given, heads=heads, frames=1, image_size=None, positions="sincos"
        )
    except MisfitError:
        return None
    return encoder.eval(), table
