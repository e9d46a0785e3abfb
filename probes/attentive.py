"""The attentive head: a learnt query looks at all tokens; V-JEPA 1's and V-JEPA 2's.

A single query never needs the keys and values of every token. With normalised tokens x_n, a
head's score is q . (W x_n + b) = (W^T q) . x_n + constant, and the softmax ignores the constant;
its value is W' (sum_n a_n x_n) + b', since the weights a_n sum to one. So an attention head is one
*direction* W^T q in token space, and the work per token falls from 2 D^2 to 2 D multiplications
per attention head. The outputs are those of the published classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.blocks import init_transformer, transformer_blocks

_EPS = 1e-5  # of every norm in the published classifiers; the encoders have 1e-6


class CrossAttention(nn.Module):
    """Parameters of the attention of one query, under their published names.

    There is no projection of the output: V-JEPA 1 has one in its files and never applies it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def directions(self, query: Float[Tensor, "1 1 D"]) -> Float[Tensor, "heads D"]:
        """Where in token space each attention head looks: W_k^T q / sqrt(d)."""
        q = self.q(query).unflatten(-1, (self.heads, -1))[0, 0]
        keys = self.kv.weight.chunk(2)[0].unflatten(0, (self.heads, -1))
        return torch.einsum("hd,hdD->hD", q, keys) * q.shape[-1] ** -0.5

    def values(self, seen: Float[Tensor, "B heads D"]) -> Float[Tensor, "B 1 D"]:
        """The values of what each attention head saw, side by side."""
        weights = self.kv.weight.chunk(2)[1].unflatten(0, (self.heads, -1))
        values = torch.einsum("bhD,hdD->bhd", seen, weights).flatten(1)
        return (values + self.kv.bias.chunk(2)[1])[:, None]


class CrossAttentionBlock(nn.Module):
    """The query, plus what it sees, plus an MLP. Tokens are normalised, the query is not."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.xattn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def directions(self, query: Float[Tensor, "1 1 D"]) -> Float[Tensor, "heads D"]:
        """As the attention's, for tokens that `normalised` gives: the norm's gain is folded in."""
        return self.xattn.directions(query) * self.norm1.weight

    def finish(
        self, query: Float[Tensor, "1 1 D"], seen: Float[Tensor, "B heads D"]
    ) -> Float[Tensor, "B D"]:
        """From the weighted mean of the normalised tokens to the pooled vector."""
        pooled = query + self.xattn.values(seen * self.norm1.weight + self.norm1.bias)
        return (pooled + self.mlp(self.norm2(pooled)))[:, 0]


class AttentivePooler(nn.Module):
    """Tokens to one vector: `depth - 1` self-attention blocks over all tokens, then the query.

    Depth 1 is V-JEPA 1's pooler (Bardes et al. 2024, arXiv:2404.08471), depth 4 V-JEPA 2's
    (Assran et al. 2025, arXiv:2506.09985).
    """

    def __init__(self, dim: int, *, heads: int, depth: int) -> None:
        super().__init__()
        if dim % heads or depth < 1:
            raise ValueError(
                f"expected a depth of at least 1 and heads that divide the width {dim}; "
                f"got depth={depth}, heads={heads}"
            )
        self.query_tokens = nn.Parameter(torch.empty(1, 1, dim))
        self.cross_attention_block = CrossAttentionBlock(dim, heads)
        if depth > 1:
            self.blocks = transformer_blocks(dim, depth - 1, heads, mlp_ratio=4.0)
            for part in self.blocks.modules():
                if isinstance(part, nn.LayerNorm):
                    part.eps = _EPS
        self.depth = depth

    def directions(self) -> Float[Tensor, "heads D"]:
        """Where each attention head looks, among normalised tokens."""
        return self.cross_attention_block.directions(self.query_tokens)

    def finish(self, seen: Float[Tensor, "B heads D"]) -> Float[Tensor, "B D"]:
        """The pooled vector, from what each attention head saw."""
        return self.cross_attention_block.finish(self.query_tokens, seen)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
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
        init_transformer(self, self.pooler.blocks if depth > 1 else nn.ModuleList())
        nn.init.trunc_normal_(self.pooler.query_tokens, std=0.02)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B outputs"]:
        """Logits, or regressed numbers, for any number of tokens."""
        return self.linear(self.pooler(tokens))


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
    return [head.linear(head.pooler.finish(p)) for head, p in zip(shallow, parts, strict=True)]
