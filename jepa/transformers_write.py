"""Our encoders as folders of transformers' `IJepaModel` and `VJEPA2Model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.encoder import VisionTransformer
from jepa.files import write_json, write_safetensors
from jepa.frozen import FrozenEncoder
from jepa.keys import taken_apart
from jepa.positions import sincos
from jepa.predictor import Predictor
from jepa.transformers_names import (
    IJEPA_FILES,
    PROCESSORS,
    SAME,
    VJEPA2,
    VJEPA2_PREDICTOR,
    WEIGHTS,
)


def write_transformers(
    folder: str | Path, frozen: FrozenEncoder, *, predictor: Predictor | None = None
) -> Path:
    """A folder that `IJepaModel.from_pretrained` or `VJEPA2Model.from_pretrained` loads.

    `VJEPA2Model` always has a predictor. Without one of ours it is written without blocks and
    with zeros, so that nothing in it is random. Its rotary positions are right at the encoder's
    native image size alone, of any clip length.

    Raises:
        ValueError: the encoder has positions that neither class knows.
    """
    encoder, folder = frozen.encoder, Path(folder)
    if not isinstance(encoder, VisionTransformer):
        raise ValueError(f"only our encoder has their layout; got a {type(encoder).__name__}")
    config, sizes = encoder.config, _their_sizes(encoder)
    if not encoder.video and encoder.positions == "sincos":
        state = taken_apart(encoder.state_dict(), IJEPA_FILES.pieces)
        patches = IJEPA_FILES.pieces("patch_embed.proj.weight")[0]
        table = sincos(encoder.dim, encoder.native_grid, encoder.native_grid)
        state["embeddings.position_embeddings"] = table[None].clone()
        about = sizes | {
            "model_type": "ijepa",
            "architectures": ["IJepaModel"],
            "num_channels": encoder.channels,
            "intermediate_size": int(encoder.dim * config["mlp_ratio"]),
            "image_size": config["image_size"],
        }
    elif encoder.video and encoder.positions == "rope_legacy":
        state = taken_apart(encoder.state_dict(), VJEPA2.pieces)
        patches = VJEPA2.pieces("patch_embed.proj.weight")[0]
        about = sizes | {
            "model_type": "vjepa2",
            "architectures": ["VJEPA2Model"],
            "in_chans": encoder.channels,
            "mlp_ratio": config["mlp_ratio"],
            "crop_size": config["image_size"],
            "frames_per_clip": encoder.frames,
            "tubelet_size": encoder.tubelet_size,
        }
        state |= _their_predictor(encoder, predictor, about)
    else:
        raise ValueError(
            f"positions {encoder.positions!r} of {'clips' if encoder.video else 'images'}: "
            "IJepaModel has sine-cosine positions of images, VJEPA2Model rotary ones of clips in "
            "the legacy style; there is no class for this encoder"
        )
    kernel = (encoder.tubelet_size,) * encoder.video + (encoder.patch_size,) * 2
    state[patches] = state[patches].unflatten(1, (encoder.channels, *kernel))
    write_safetensors(folder / WEIGHTS, state, {"format": "pt"})
    write_json(folder / PROCESSORS[encoder.video], _processor(frozen))
    write_json(folder / "config.json", about)
    return folder


def _their_sizes(encoder: VisionTransformer) -> dict[str, Any]:
    return SAME | {
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "patch_size": encoder.patch_size,
        "torch_dtype": "float32",
    }


def _their_predictor(
    encoder: VisionTransformer, predictor: Predictor | None, about: dict[str, Any]
) -> dict[str, Tensor]:
    """The tensors of the predictor; its sizes go into `about`."""
    if predictor is not None and predictor.positions != "rope_legacy":
        raise ValueError(f"VJEPA2Model's predictor is rotary; got {predictor.positions!r}")
    given = predictor or Predictor(encoder.dim, encoder.native_grid, dim=encoder.dim, depth=0,
                                   heads=encoder.heads, positions="rope_legacy")  # fmt: skip
    config, tokens = given.config, len(given.mask_tokens)
    about |= {
        "pred_hidden_size": given.dim,
        "pred_num_hidden_layers": config["depth"],
        "pred_num_attention_heads": given.heads,
        "pred_num_mask_tokens": tokens,
        "pred_mlp_ratio": config["mlp_ratio"],
    }
    state = taken_apart(given.state_dict(), VJEPA2_PREDICTOR.pieces)
    return state if predictor else {k: torch.zeros_like(v) for k, v in state.items()}


def _processor(frozen: FrozenEncoder) -> dict[str, Any]:
    """What their processors read of pixels."""
    encoder = frozen.encoder
    side = encoder.config["image_size"]
    size = {"height": side, "width": side}
    pixels = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(frozen.normalize.mean),
        "image_std": list(frozen.normalize.std),
        "rescale_factor": 1 / 255,
    }
    if encoder.video:
        resize = {
            "size": {"shortest_edge": side * 256 // 224},
            "crop_size": size,
            "do_center_crop": True,
        }
        return pixels | resize | {"video_processor_type": "VJEPA2VideoProcessor"}
    return pixels | {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 3}
