"""The released weights that `jepa import` reads, by name: size, resolution, source, licence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import timm

from jepa.encoder import VisionTransformer, vit_giant, vit_huge, vit_large

from .commands import did_you_mean

Size = Literal["L", "H", "g"]

NC = "CC BY-NC 4.0 (NON-COMMERCIAL)"
CARD = "MIT; on the hub as the model card says"
META = "https://dl.fbaipublicfiles.com"
HUB = "hf-hub:facebook"


@dataclass(frozen=True)
class Model:
    """Weights that somebody has published.

    millions: parameters of the encoder.
    patch: side in pixels; with the frames of a tubelet before it for video.
    frames: of the clips it was trained on last; 1 for images.
    sources: what to download and then import, or what to import.
    licence: of the weights.
    """

    name: str
    size: Size
    millions: float
    patch: int
    resolution: int
    frames: int
    sources: tuple[str, ...]
    licence: str


MODELS = (
    Model("ijepa-vith14-1k", "H", 630.4, 14, 224, 1,
          (f"{META}/ijepa/IN1K-vit.h.14-300e.pth.tar", f"{HUB}/ijepa_vith14_1k",
           "vit_huge_patch14_gap_224.in1k_ijepa"), NC),
    Model("ijepa-vith16-1k-448", "H", 630.7, 16, 448, 1,
          (f"{META}/ijepa/IN1K-vit.h.16-448px-300e.pth.tar", f"{HUB}/ijepa_vith16_1k",
           "vit_huge_patch16_gap_448.in1k_ijepa"), NC),
    Model("ijepa-vith14-22k", "H", 630.4, 14, 224, 1,
          (f"{META}/ijepa/IN22K-vit.h.14-900e.pth.tar", f"{HUB}/ijepa_vith14_22k",
           "vit_huge_patch14_gap_224.in22k_ijepa"), NC),
    Model("ijepa-vitg16-22k", "g", 1011.1, 16, 224, 1,
          (f"{META}/ijepa/IN22K-vit.g.16-600e.pth.tar", f"{HUB}/ijepa_vitg16_22k",
           "vit_giant_patch16_gap_224.in22k_ijepa"), NC),
    Model("vjepa-vitl16", "L", 303.9, 16, 224, 16,
          (f"{META}/jepa/vitl16/vitl16.pth.tar",), NC),
    Model("vjepa-vith16", "H", 631.6, 16, 224, 16,
          (f"{META}/jepa/vith16/vith16.pth.tar",), NC),
    Model("vjepa-vith16-384", "H", 631.6, 16, 384, 16,
          (f"{META}/jepa/vith16-384/vith16-384.pth.tar",), NC),
    Model("vjepa2-vitl", "L", 303.9, 16, 256, 64,
          (f"{META}/vjepa2/vitl.pt", f"{HUB}/vjepa2-vitl-fpc64-256"), "MIT"),
    Model("vjepa2-vith", "H", 631.6, 16, 256, 64,
          (f"{META}/vjepa2/vith.pt", f"{HUB}/vjepa2-vith-fpc64-256"), CARD),
    Model("vjepa2-vitg", "g", 1012.2, 16, 256, 64,
          (f"{META}/vjepa2/vitg.pt", f"{HUB}/vjepa2-vitg-fpc64-256"), CARD),
    Model("vjepa2-vitg-384", "g", 1012.2, 16, 384, 64,
          (f"{META}/vjepa2/vitg-384.pt", f"{HUB}/vjepa2-vitg-fpc64-384"),
          "MIT; Apache 2.0 on the hub"),
    Model("vjepa2-ac-vitg", "g", 1012.2, 16, 256, 8,
          (f"{META}/vjepa2/vjepa2-ac-vitg.pt",), "MIT"),
)  # fmt: skip

NOTES = """Files (https) are downloaded by hand, then: jepa import FILE --out FOLDER. The rest is
fetched: jepa import hf-hub:OWNER/NAME --out FOLDER, or a timm name. Files hold the encoder and its
slow target, which is what --which takes by default; the hub's and timm's I-JEPA models are made of
the encoder. V-JEPA 2-AC comes with a predictor of 305.2 M, the other V-JEPA 2 with one of at most
22.4 M. Licences are as their publishers state them; read the model cards."""


def models(name: str = "") -> None:
    """List the weights that can be had: size, patch, resolution, source and licence.

    Args:
        name: only those whose name contains this.
    """
    chosen = [model for model in MODELS if name in model.name]
    if not chosen:
        names = [model.name for model in MODELS]
        raise ValueError(
            f"no weights called {name!r}.{did_you_mean(name, names)} timm's are listed by "
            f"timm.list_models('*{name}*')"
        )
    for model in chosen:
        patch = f"{'2x' if model.frames > 1 else ''}{model.patch}x{model.patch}"
        frames = f"{model.frames} frames of " if model.frames > 1 else ""
        print(
            f"{model.name:20} ViT-{model.size}, {model.millions} M, patch {patch}, "
            f"{frames}{model.resolution} px; {model.licence}"
        )
        for source in model.sources:
            print(f"{'':20}   {source}")
    print(f"\n{NOTES}\nFurther, any of timm's {len(timm.list_models())} models, by its name.")


def architecture(model: Model) -> VisionTransformer:
    """The encoder of some weights, with fresh ones; on the meta device it takes no memory."""
    sizes: dict[str, Any] = {"patch_size": model.patch, "image_size": model.resolution}
    if model.frames > 1:
        positions = "rope_legacy" if model.name.startswith("vjepa2") else "sincos"
        sizes |= {"frames": model.frames, "tubelet_size": 2, "positions": positions}
        if model.size == "g":
            sizes["heads"] = 22
    return {"L": vit_large, "H": vit_huge, "g": vit_giant}[model.size](**sizes)
