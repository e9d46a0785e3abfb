"""The attentive head: learnt queries look at all tokens; V-JEPA 1's and V-JEPA 2's.

A query never needs the keys and values of every token. With normalised tokens x_n, a
head's score is q . (W x_n + b) = (W^T q) . x_n + constant, and the softmax ignores the constant;
its value is W' (sum_n a_n x_n) + b', since the weights a_n sum to one. So an attention head is one
*direction* W^T q in token space, and the work per token falls from 2 D^2 to 2 D multiplications
per attention head. The outputs are those of the published classifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.blocks import init_transformer, transformer_blocks

_EPS = 1e-5  # of every norm in the published classifiers; the encoders have 1e-6


class CrossAttention(nn.Module):
    """Parameters of the attention of queries, under their published names; see `Queries`.

    There is no projection of the output: V-JEPA 1 has one in its files and never applies it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)


class CrossAttentionBlock(nn.Module):
    """Parameters of what follows the blocks over all tokens; see `Queries`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.xattn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = Mlp(dim, 4 * dim)


class AttentivePooler(nn.Module):
    """Tokens to a vector a query: `depth - 1` self-attention blocks over all tokens, then the
    queries. There are L = Q * heads directions in which they look.

    Depth 1 is V-JEPA 1's pooler (Bardes et al. 2024, arXiv:2404.08471), depth 4 V-JEPA 2's
    (Assran et al. 2025, arXiv:2506.09985).
    """

    def __init__(self, dim: int, *, heads: int, depth: int, queries: int = 1) -> None:
        super().__init__()
        if dim % heads or depth < 1:
            raise ValueError(
                f"expected a depth of at least 1 and heads that divide the width {dim}; "
                f"got depth={depth}, heads={heads}"
            )
        self.query_tokens = nn.Parameter(torch.empty(1, queries, dim))
        self.cross_attention_block = CrossAttentionBlock(dim, heads)
        if depth > 1:
            self.blocks = transformer_blocks(dim, depth - 1, heads, mlp_ratio=4.0)
            for part in self.blocks.modules():
                if isinstance(part, nn.LayerNorm):
                    part.eps = _EPS
        self.depth = depth

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        for block in self.blocks if self.depth > 1 else ():
            tokens = block(tokens)
        rows = {name: parameter[None] for name, parameter in self.named_parameters()}
        return Queries(self.cross_attention_block.xattn.heads, rows)(tokens)[0]


class Queries:
    """The learnt queries of G equal poolers, side by side: one product of all for each of one.

    The queries, plus what they see, plus an MLP. Tokens are normalised, queries are not.

    Args:
        heads: attention heads of each.
        weights: parameters of the poolers by name, each [G, *P].
    """

    def __init__(self, heads: int, weights: Mapping[str, Tensor]) -> None:
        self.heads = heads
        self.queries = weights["query_tokens"][:, 0]  # [G, Q, D]
        self.weights = _within("cross_attention_block.", weights)

    def __call__(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "G B Q D"]:
        """The pooled vectors."""
        directions = self.directions()
        seen = look(normalised(tokens), directions.flatten(0, 1))
        return self.finish(seen.unflatten(1, directions.shape[:2]).transpose(0, 1))

    def directions(self) -> Float[Tensor, "G L D"]:
        """Where in normalised tokens each attention head of each query looks: W_k^T q / sqrt(d),
        with the norm's gain folded in."""
        q = batched_linear(self.queries, *self._of("xattn.q")).unflatten(-1, (self.heads, -1))
        keys = self.weights["xattn.kv.weight"].chunk(2, dim=1)[0].unflatten(1, (self.heads, -1))
        directions = torch.einsum("gqhd,ghdD->gqhD", q, keys).flatten(1, 2) * q.shape[-1] ** -0.5
        return directions * self.weights["norm1.weight"][:, None]

    def finish(self, seen: Float[Tensor, "G B L D"]) -> Float[Tensor, "G B Q D"]:
        """From weighted means of the normalised tokens, one for each attention head."""
        seen = affine(seen, *self._of("norm1")).unflatten(2, (-1, self.heads))
        values, bias = (part.chunk(2, dim=1)[1] for part in self._of("xattn.kv"))
        each = values.unflatten(1, (self.heads, -1))
        found = torch.einsum("gbqhD,ghdD->gbqhd", seen, each).flatten(3)
        pooled = (self.queries[:, None] + found + bias[:, None, None]).flatten(1, 2)
        inner = affine(normalised(pooled), *self._of("norm2"))
        hidden = F.gelu(batched_linear(inner, *self._of("mlp.fc1")))
        pooled = pooled + batched_linear(hidden, *self._of("mlp.fc2"))
        return pooled.unflatten(1, (-1, self.queries.shape[1]))

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer."""
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]


class AttentiveHead(nn.Module):
    """Pooler and linear layer, with the parameter names of the published `AttentiveClassifier`.

    Args:
        dim: width D of the tokens.
        outputs: classes, or numbers to be regressed.
        heads: attention heads; must divide `dim`.
        depth: 1 (V-JEPA 1) or 4 (V-JEPA 2); see AttentivePooler.
    """

    def __init__(self, dim: int, outputs: int, *, heads: int, depth: int = 1) -> None:
        super().__init__()
        self.config = dict(dim=dim, outputs=outputs, heads=heads, depth=depth)
        self.pooler = AttentivePooler(dim, heads=heads, depth=depth)
        self.linear = nn.Linear(dim, outputs)
        _init_head(self, self.pooler)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B outputs"]:
        """Logits, or regressed numbers, for any number of tokens."""
        return self.linear(self.pooler(tokens)[:, 0])


class AnticipationHead(nn.Module):
    """A query and a linear layer for each of several questions, such as verb, noun and action.

    It is V-JEPA 2's classifier of EPIC-KITCHENS-100, with its parameter names; there the tokens
    are the encoder's and, after them, the predictor's of the time one second ahead
    (arXiv:2506.09985, section 6).

    Args:
        dim: width D of the tokens.
        outputs: question -> classes, in the order of the queries.
        heads: attention heads; must divide `dim`.
        depth: see AttentivePooler.
    """

    def __init__(self, dim: int, outputs: Mapping[str, int], *, heads: int, depth: int = 4) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(dim=dim, outputs=dict(outputs), heads=heads, depth=depth)
        self.pooler = AttentivePooler(dim, heads=heads, depth=depth, queries=len(outputs))
        for question, classes in outputs.items():
            self.add_module(f"{question}_classifier", nn.Linear(dim, classes))
        _init_head(self, self.pooler)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> dict[str, Float[Tensor, "B classes"]]:
        """Logits for each question."""
        return {
            question: self.get_submodule(f"{question}_classifier")(pooled)
            for question, pooled in zip(
                self.config["outputs"], self.pooler(tokens).unbind(1), strict=True
            )
        }


def _init_head(head: nn.Module, pooler: AttentivePooler) -> None:
    init_transformer(head, pooler.blocks if pooler.depth > 1 else nn.ModuleList())
    nn.init.trunc_normal_(pooler.query_tokens, std=0.02)


def batched_linear(
    x: Float[Tensor, "G B D"], weight: Float[Tensor, "G K D"], bias: Float[Tensor, "G K"]
) -> Float[Tensor, "G B K"]:
    """Each of G linear layers, on its own inputs.

    The weights stand on the left: so their gradients are laid out as they are, and not copied.
    """
    if len(weight) == 1:
        return F.linear(x[0], weight[0], bias[0])[None]
    return torch.baddbmm(bias[..., None], weight, x.transpose(1, 2)).transpose(1, 2)


def affine(
    x: Float[Tensor, "G *B D"], gain: Float[Tensor, "G D"], bias: Float[Tensor, "G D"]
) -> Float[Tensor, "G *B D"]:
    """Gain and bias of each of G norms."""
    shape = (len(gain), *(1,) * (x.ndim - 2), -1)
    return torch.addcmul(bias.view(shape), x, gain.view(shape))


def normalised(tokens: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Each token with mean 0 and variance 1 over its width; a norm's gain and bias come later."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=_EPS)


def look(
    tokens: Float[Tensor, "B N D"], directions: Float[Tensor, "L D"]
) -> Float[Tensor, "B L D"]:
    """For each direction the mean of the tokens, weighted by softmax(tokens . direction)."""
    return F.linear(tokens, directions).transpose(1, 2).softmax(dim=-1).to(tokens) @ tokens


Read: TypeAlias = Callable[[Float[Tensor, "B N D"]], Float[Tensor, "heads B outputs"]]


@contextmanager
def side_by_side(heads: Sequence[nn.Module]) -> Iterator[Read]:
    """What each head, attentive or not, says about the same tokens.

    Equal attentive heads of depth 1 share the normalised tokens, and their products are one each:
    their parameters are rows of common stacks until the end, and so are their gradients.
    """
    config = getattr(heads[0], "config", None)
    equal = [h for h in heads if isinstance(h, AttentiveHead) and h.config == config]
    if len(equal) < max(len(heads), 2) or equal[0].pooler.depth > 1:
        yield lambda tokens: torch.stack([head(tokens) for head in heads])
        return
    weights = {}
    for name, _ in equal[0].named_parameters():
        parameters = [head.get_parameter(name) for head in equal]
        stack = torch.stack([parameter.detach() for parameter in parameters])
        for parameter, row in zip(parameters, stack, strict=True):
            parameter.data = row
        weights[name] = stack.requires_grad_()
        stack.register_post_accumulate_grad_hook(partial(_hand_out, parameters))
    try:
        yield partial(_read, equal[0].config["heads"], weights)
    finally:
        for head in equal:
            for parameter in head.parameters():
                parameter.data = parameter.data.clone()


def _read(heads: int, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    pooled = Queries(heads, _within("pooler.", weights))(tokens)[:, :, 0]
    return batched_linear(pooled, weights["linear.weight"], weights["linear.bias"])


def _hand_out(parameters: Sequence[nn.Parameter], stack: Tensor) -> None:
    """To each parameter its row of the gradient, and no second reference to it."""
    assert stack.grad is not None
    for parameter, row in zip(parameters, stack.grad, strict=True):
        parameter.grad = row
    stack.grad = None


def _within(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
