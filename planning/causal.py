"""Causal transformer dynamics: the last latents and actions foresee the next latent.

Letters: B batch, S plans of one environment, T decisions, n and m kept ones, D latent, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from tensordict import TensorDict
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from .dynamics import Dynamics, Scales
from .heads import PointHead

Kept: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values of one layer: [B, heads, n, d] what all plans share, [B, S, heads, m, d] each
plan's own."""


class CausalTransformer(Dynamics):
    """One token a decision: the latent before it, which its action modulates (AdaLN-Zero, Peebles
    & Xie 2023, arXiv:2212.09748). It attends to itself and the `window` - 1 decisions before it.

    What a decision is to later ones never changes: keys and values of the past are computed once,
    and all plans of an environment share them. The layers see the past of the past, so that
    `depth` of them reach back depth (window - 1) decisions.

    `memory` has `keys` and `values` [B, layers, heads, n, d] of the last n < window decisions.

    Args:
        scales: of latents and actions.
        window: decisions that a decision attends to, itself included.
        dim: width.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        head: makes the head, see `heads`.
    """

    told_first = 1

    def __init__(
        self,
        scales: Scales,
        *,
        window: int = 8,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        head: Callable[[int, int], nn.Module] = PointHead,
    ) -> None:
        super().__init__()
        if window < 1 or dim % heads:
            raise ValueError(
                f"need window >= 1 and a width that the heads divide; got {window}, {dim}, {heads}"
            )
        self.scales, size = scales, len(scales.latent)
        self.window, self.heads = window, heads
        self.embed = nn.Linear(size, dim)
        self.action = nn.Sequential(
            nn.Linear(len(scales.action), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )
        self.blocks = nn.ModuleList(Block(dim, heads, window, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zeros(nn.Linear(dim, 2 * dim))
        self.head = head(dim, size)

    def start(self, latent: Float[Tensor, "B D"]) -> TensorDict:
        """A state without a past."""
        width = self.embed.out_features // self.heads
        nothing = latent.new_zeros(len(latent), len(self.blocks), self.heads, 0, width)
        memory = TensorDict({"keys": nothing, "values": nothing}, batch_size=[len(latent)])
        return TensorDict({"latent": latent, "memory": memory}, batch_size=[len(latent)])

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one decision."""
        shared = shared_of(state)
        entries, own = self._foresee(
            state["latent"][:, None, None], action[:, None, None], shared, none_of(shared, 1)
        )
        names, memory = ("keys", "values"), TensorDict({}, batch_size=state.batch_size)
        for name, new in zip(names, zip(*own, strict=True), strict=True):
            both = torch.cat([state["memory", name], torch.stack(new, dim=1)[:, :, 0]], dim=3)
            memory[name] = both[..., max(0, both.shape[3] - self.window + 1) :, :]
        entries = {name: values[:, 0, 0] for name, values in entries.items()}
        return TensorDict(entries | {"memory": memory}, batch_size=state.batch_size)

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """See `Dynamics`. Each step computes one token for every plan."""
        plans = actions.reshape(-1, *actions.shape[-3:]).transpose(0, 1)
        latent = state["latent"][:, None].expand(-1, plans.shape[1], -1)
        shared, states = shared_of(state), []
        own = none_of(shared, plans.shape[1])
        for action in plans.unbind(dim=2):
            entries, own = self._foresee(latent[:, :, None], action[:, :, None], shared, own)
            entries = {name: values[:, :, 0] for name, values in entries.items()}
            latent = entries["latent"]
            states.append(TensorDict(entries, batch_size=latent.shape[:2]))
        return TensorDict.stack(states, dim=2).transpose(0, 1).reshape(actions.shape[:-1])

    def follow(
        self, latents: Float[Tensor, "B T D"], actions: Float[Tensor, "B T A"]
    ) -> TensorDict:
        """See `Dynamics`. All decisions at once."""
        shared = shared_of(self.start(latents[:, 0]))
        entries, _ = self._foresee(latents[:, None], actions[:, None], shared, none_of(shared, 1))
        entries = {name: values[:, 0] for name, values in entries.items()}
        return TensorDict(entries, batch_size=latents.shape[:2])

    def _foresee(
        self,
        latent: Float[Tensor, "B S T D"],
        action: Float[Tensor, "B S T A"],
        shared: list[Kept],
        own: list[Kept],
    ) -> tuple[dict[str, Tensor], list[Kept]]:
        """What follows each of T decisions, and `own` with these decisions."""
        x = self.embed(latent / self.scales.latent)
        condition, after = self.action(action / self.scales.action), []
        for block, before, kept in zip(self.blocks, shared, own, strict=True):
            x, kept = block(x, condition, before, kept)
            after.append(kept)
        features = modulated(self.norm(x), *self.modulation(condition).chunk(2, dim=-1))
        return self.head(latent, features, self.scales.latent), after


class Block(nn.Module):
    """Attention and MLP, whose normed inputs are shifted and scaled and whose outputs are gated
    by a condition; at first all gates are shut.

    Each head adds a learnt number for each distance in time to its scores; there are no other
    positions. torch's layers: `jepa.linear` has no vmap, which ensembles need.
    """

    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, round(mlp_ratio * dim))
        self.modulation = zeros(nn.Linear(dim, 6 * dim))
        self.lags = nn.Parameter(torch.zeros(heads, window))

    def forward(
        self,
        x: Float[Tensor, "B S T dim"],
        condition: Float[Tensor, "B S T dim"],
        shared: Kept,
        own: Kept,
    ) -> tuple[Float[Tensor, "B S T dim"], Kept]:
        """What x becomes, and `own` with x."""
        change1, change2 = self.modulation(condition).chunk(2, dim=-1)
        shift, scale, gate = change1.chunk(3, dim=-1)
        qkv = self.qkv(modulated(self.norm1(x), shift, scale)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        own = (torch.cat([own[0], k], dim=3), torch.cat([own[1], v], dim=3))
        scores = self._bias(x.shape[2], shared[0].shape[2] + own[0].shape[3])
        x = x + gate * self.proj(attended(q, shared, own, scores).transpose(2, 3).flatten(3))
        shift, scale, gate = change2.chunk(3, dim=-1)
        return x + gate * self.mlp(modulated(self.norm2(x), shift, scale)), own

    def _bias(self, now: int, known: int) -> Float[Tensor, "heads now known"]:
        """What scores start from: by how long ago it was; never the future or before the window."""
        places = torch.arange(known, device=self.lags.device)
        lag = places[-now:, None] - places
        hidden = (lag < 0) | (lag >= self.window)
        return self.lags[:, lag.clamp(0, self.window - 1)].masked_fill(hidden, -torch.inf)


def attended(
    q: Float[Tensor, "B S heads T d"],
    shared: Kept,
    own: Kept,
    bias: Float[Tensor, "heads T nm"],
) -> Float[Tensor, "B S heads T d"]:
    """Attention over what all plans share, which is not copied for each, and each plan's own."""
    q = q * q.shape[-1] ** -0.5
    before, now = torch.einsum("bshtd,bhnd->bshtn", q, shared[0]), q @ own[0].mT
    shares = (torch.cat([before, now], dim=-1) + bias).softmax(dim=-1)
    before, now = shares.split([before.shape[-1], now.shape[-1]], dim=-1)
    return torch.einsum("bshtn,bhnd->bshtd", before, shared[1]) + now @ own[1]


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's last step."""
    return x * (1 + scale) + shift


def zeros(layer: nn.Linear) -> nn.Linear:
    """The layer, which at first gives 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def shared_of(state: TensorDict) -> list[Kept]:
    """Keys and values of every layer that a state remembers."""
    layers = (state["memory", name].unbind(dim=1) for name in ("keys", "values"))
    return list(zip(*layers, strict=True))


def none_of(shared: list[Kept], plans: int) -> list[Kept]:
    """No keys and values, for each of the plans."""
    return [(_none(keys, plans), _none(values, plans)) for keys, values in shared]


def _none(part: Float[Tensor, "B heads n d"], plans: int) -> Float[Tensor, "B S heads 0 d"]:
    return part[:, None, :, :0].expand(-1, plans, -1, -1, -1)
