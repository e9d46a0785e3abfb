"""What transformers' `IJepaModel` and `VJEPA2Model` call our tensors, and their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TYPES = ("ijepa", "vjepa2")
WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
SAME = {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True}


@dataclass(frozen=True)
class Names:
    """A layout's names for our modules.

    outer: names outside of the blocks.
    blocks: our list of blocks, and the layout's.
    inner: names inside a block; the joint layer of queries, keys and values is three.
    rows: ours -> the tensor whose rows our numbered ones are.
    """

    outer: Mapping[str, str]
    blocks: tuple[str, str]
    inner: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, ours: str) -> Sequence[str]:
        """See `jepa.keys.Pieces`."""
        module, _, kind = ours.rpartition(".")
        if module in self.rows:
            return (f"{self.rows[module]}[{kind}]",)
        if module in self.outer:
            return (f"{self.outer[module]}.{kind}",)
        number, _, inner = module.removeprefix(self.blocks[0] + ".").partition(".")
        return tuple(f"{self.blocks[1]}.{number}.{part}.{kind}" for part in self.inner[inner])


def _attention(*names: str) -> tuple[str, ...]:
    return tuple(f"attention.{name}" for name in names)


_IJEPA_OUTER = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
IJEPA_FILES = Names(  # as published, and as transformers writes
    _IJEPA_OUTER,
    ("blocks", "encoder.layer"),
    {
        "norm1": ("layernorm_before",),
        "attn.qkv": _attention("attention.query", "attention.key", "attention.value"),
        "attn.proj": ("attention.output.dense",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
)
IJEPA_CLASS = Names(  # the attributes of the class, since transformers 5
    _IJEPA_OUTER,
    ("blocks", "layers"),
    {
        "norm1": ("layernorm_before",),
        "attn.qkv": _attention("q_proj", "k_proj", "v_proj"),
        "attn.proj": ("attention.o_proj",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
)
_VJEPA2_INNER = {
    "norm1": ("norm1",),
    "attn.qkv": _attention("query", "key", "value"),
    "attn.proj": ("attention.proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
VJEPA2 = Names(
    {"patch_embed.proj": "encoder.embeddings.patch_embeddings.proj", "norm": "encoder.layernorm"},
    ("blocks", "encoder.layer"),
    _VJEPA2_INNER,
)
VJEPA2_PREDICTOR = Names(
    {
        "predictor_embed": "predictor.embeddings.predictor_embeddings",
        "predictor_norm": "predictor.layernorm",
        "predictor_proj": "predictor.proj",
    },
    ("predictor_blocks", "predictor.layer"),
    _VJEPA2_INNER,
    {"mask_tokens": "predictor.embeddings.mask_tokens"},
)
