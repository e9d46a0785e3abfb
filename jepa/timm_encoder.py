"""Any timm model as an encoder of patch tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
from jaxtyping import Float
from timm.models import load_model_config_from_hf
from torch import Tensor, nn

from jepa.patches import grid_of
from jepa.shapes import Grid, Images


class TimmEncoder(nn.Module):
    """The tokens of a timm model: patch tokens of a ViT, or the last feature map of a network.

    Layers are `blocks.<i>`, one per level that timm's `forward_intermediates` knows; `cls`, the
    class token, of models that have one; and `norm`, the output of `forward_features`. All but
    `cls` are without class and register tokens.

    Args:
        name: timm model name, e.g. `vit_small_patch14_dinov2.lvd142m`; or `hf-hub:OWNER/NAME` or
            `local-dir:FOLDER`, where a config.json of timm names the model.
        pretrained: fetch the published weights (needs a network or timm's cache), or read those
            of the folder.
        options: arguments of the model's constructor, besides what its name says.

    Raises:
        ValueError: unknown name or option, or its weights could not be had.
    """

    def __init__(
        self, name: str, *, pretrained: bool = True, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        architecture, options = _told(name, options or {})
        given: dict[str, Any] = {"num_classes": 0, **options}
        try:
            self.model: Any = _made(name, architecture, pretrained=pretrained, **given)
        except (RuntimeError, OSError, TypeError) as error:
            raise ValueError(
                f"cannot make the timm model {name!r} (pretrained={pretrained}): {error}. "
                "Names: timm.list_models(); without weights: pretrained=False"
            ) from error
        self.config: dict[str, Any] = {"name": architecture, "pretrained": False}  # to be filled
        if options:
            self.config["options"] = options
        self.classed = getattr(self.model, "cls_token", None) is not None
        self.dim: int = self.model.num_features
        self.channels: int = given.get("in_chans", self.model.pretrained_cfg["input_size"][0])
        self.levels = len(self.model.feature_info)
        self.patch_size: int = self.model.feature_info[-1]["reduction"]

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the pixels that the weights were trained on."""
        return self._by_channel(self.model.pretrained_cfg["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of the pixels that the weights were trained on."""
        return self._by_channel(self.model.pretrained_cfg["std"])

    def _by_channel(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """For all channels their mean, where the weights were trained on another number of them."""
        if len(numbers) in (1, self.channels):
            return tuple(numbers)
        return (sum(numbers) / len(numbers),) * self.channels

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names that `layers` accepts."""
        blocks = (f"blocks.{i}" for i in range(self.levels))
        return (*blocks, *(("cls",) if self.classed else ()), "norm")

    def grid(self, images: Tensor) -> Grid:
        """(h, w) of the patches of images; refuses sizes that the patch does not divide."""
        return grid_of(images, self.patch_size)[1:]

    def forward(self, images: Images) -> Float[Tensor, "B N D"]:
        """Tokens in raster order: those of `grid`, or what a model that pools or pads them ends in.

        Raises ValueError for a model that ends in several tensors, or in a class token alone."""
        return self._patches(self.model.forward_features(images))

    def _patches(self, features: Any) -> Float[Tensor, "B N D"]:
        if isinstance(features, Tensor) and (tokens := self._flat(features)).shape[1]:
            return tokens
        raise ValueError(
            f"timm's {self.config['name']} does not end in one tensor of patch tokens: take "
            "another of timm.list_models()"
        )

    def _flat(self, features: Tensor) -> Float[Tensor, "B N D"]:
        if features.ndim == 3:  # those that do not tell have no tokens but the class's in front
            return features[:, getattr(self.model, "num_prefix_tokens", int(self.classed)) :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)

    def layers(self, images: Images, names: Sequence[str]) -> dict[str, Tensor]:
        """Tokens [B, N, D] after each named layer; N and D differ between levels of a pyramid."""
        unknown = sorted(set(names) - set(self.layer_names))
        if unknown:
            raise ValueError(f"no layer {unknown}; this encoder has {list(self.layer_names)}")
        levels = sorted({int(n.split(".")[1]) for n in names if n.startswith("blocks.")})
        maps: list[Tensor] = []  # in the network's order, whatever order they are asked in
        if levels:  # one pass: what it ends with is what `forward_features` gives
            features, maps = self.model.forward_intermediates(
                images, indices=levels, stop_early=False
            )
        else:
            features = self.model.forward_features(images)
        maps = [m.flatten(2).transpose(1, 2) for m in maps]
        found = dict(zip((f"blocks.{i}" for i in levels), maps, strict=True))
        found["norm"] = self._patches(features)
        if self.classed:
            found["cls"] = features[:, :1]
        return {name: found[name] for name in names}


def _made(name: str, architecture: str, **given: Any) -> nn.Module:
    """The model; for images of any size, if it is a ViT that has an option for that."""
    if architecture.startswith(("vit_", "deit", "eva", "beit")):
        with suppress(TypeError):  # BEiT and ViTs of relative positions have none
            return timm.create_model(name, **{"dynamic_img_size": True, **given})
    return timm.create_model(name, **given)


def _told(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture, with its tag if it has one, and the arguments that a config.json adds."""
    source, _, place = name.partition(":")
    if source == "local-dir":
        try:
            config = json.loads((Path(place) / "config.json").read_text())
            architecture, arguments = config["architecture"], config.get("model_args") or {}
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{name}: no config.json of timm in that folder, which names the architecture: "
                f"{type(error).__name__} {error}"
            ) from error
    elif source == "hf-hub":
        _, architecture, arguments = load_model_config_from_hf(place)
        arguments = arguments or {}
    else:
        return name, dict(options)
    kept = {key: value for key, value in arguments.items() if key != "num_classes"}
    return architecture, {**kept, **options}
