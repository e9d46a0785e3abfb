"""The attentive head: learnt queries look at all tokens; V-JEPA 1's and V-JEPA 2's.

A query never needs the keys and values of every token. With normalised tokens x_n, a
head's score is q . (W x_n + b) = (W^T q) . x_n + constant, and the softmax ignores the constant;
its value is W' (sum_n a_n x_n) + b', since the weights a_n sum to one. So an attention head is one
*direction* W^T q in token space, and the work per token falls from 2 D^2 to 2 D multiplications
per attention head. The outputs are those of the published classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.blocks import init_transformer, transformer_blocks

_EPS = 1e-5  # of every norm in the published classifiers; the encoders have 1e-6


class CrossAttention(nn.Module):
    """Parameters of the attention of queries, under their published names.

    There is no projection of the output: V-JEPA 1 has one in its files and never applies it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def directions(self, query: Float[Tensor, "1 Q D"]) -> Float[Tensor, "L D"]:
        """Where in token space each attention head of each query looks: W_k^T q / sqrt(d)."""
        q = self.q(query).unflatten(-1, (self.heads, -1))[0]
        keys = self.kv.weight.chunk(2)[0].unflatten(0, (self.heads, -1))
        return torch.einsum("qhd,hdD->qhD", q, keys).flatten(0, 1) * q.shape[-1] ** -0.5

    def values(self, seen: Float[Tensor, "B L D"]) -> Float[Tensor, "B Q D"]:
        """The values of what each attention head saw, those of a query side by side."""
        weights = self.kv.weight.chunk(2)[1].unflatten(0, (self.heads, -1))
        seen = seen.unflatten(1, (-1, self.heads))
        values = torch.einsum("bqhD,hdD->bqhd", seen, weights).flatten(2)
        return values + self.kv.bias.chunk(2)[1]


class CrossAttentionBlock(nn.Module):
    """The queries, plus what they see, plus an MLP. Tokens are normalised, queries are not."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.xattn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def directions(self, query: Float[Tensor, "1 Q D"]) -> Float[Tensor, "L D"]:
        """As the attention's, for tokens that `normalised` gives: the norm's gain is folded in."""
        return self.xattn.directions(query) * self.norm1.weight

    def finish(
        self, query: Float[Tensor, "1 Q D"], seen: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B Q D"]:
        """From weighted means of the normalised tokens to the pooled vectors."""
        pooled = query + self.xattn.values(seen * self.norm1.weight + self.norm1.bias)
        return pooled + self.mlp(self.norm2(pooled))


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

    def directions(self) -> Float[Tensor, "L D"]:
        """Where each attention head looks, among normalised tokens."""
        return self.cross_attention_block.directions(self.query_tokens)

    def finish(self, seen: Float[Tensor, "B L D"]) -> Float[Tensor, "B Q D"]:
        """The pooled vectors, from what each attention head saw."""
        return self.cross_attention_block.finish(self.query_tokens, seen)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        for block in self.blocks if self.depth > 1 else ():
            tokens = block(tokens)
        return self.finish(look(normalised(tokens), self.directions()))


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


def normalised(tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    """Each token with mean 0 and variance 1 over its width; a norm's gain and bias come later."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=_EPS)


def look(
    tokens: Float[Tensor, "B N D"], directions: Float[Tensor, "L D"]
) -> Float[Tensor, "B L D"]:
    """For each direction the mean of the tokens, weighted by softmax(tokens . direction)."""
    return F.linear(tokens, directions).transpose(1, 2).softmax(dim=-1).to(tokens) @ tokens


def read(
    heads: Sequence[nn.Module], tokens: Float[Tensor, "B N D"]
) -> list[Float[Tensor, "B outputs"]]:
    """What each head, attentive or not, says about the same tokens.

    Attentive heads of depth 1 share the normalised tokens and look at them in one product.
    """
    shallow = [h for h in heads if isinstance(h, AttentiveHead) and h.pooler.depth == 1]
    if len(shallow) < len(heads):
        return [head(tokens) for head in heads]
    directions = [head.pooler.directions() for head in shallow]
    seen = look(normalised(tokens), torch.cat(directions))
    parts = seen.split([len(d) for d in directions], dim=1)
    pooled = [head.pooler.finish(p)[:, 0] for head, p in zip(shallow, parts, strict=True)]
    return [head.linear(vector) for head, vector in zip(shallow, pooled, strict=True)]
