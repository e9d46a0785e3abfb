"""The cost module against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from jepa.planning.energies import ActionEffort
from jepa.planning.intrinsic import Away, Boundary, CostModule, Effort, IntrinsicCost, Unknown

S, B, H, D, A = 4, 3, 5, 6, 2


def future(seed=0):
    generator = torch.Generator().manual_seed(seed)
    entries = {
        "latent": torch.randn(S, B, H, D, generator=generator),
        "disagreement": torch.rand(S, B, H, generator=generator),
    }
    actions = torch.randn(S, B, H, A, generator=generator)
    goal = torch.randn(B, D, generator=generator)
    return (
        TensorDict(entries, batch_size=[S, B, H]),
        actions,
        TensorDict({"latent": goal}, batch_size=[B]),
    )


def first(states):
    return states["latent"][..., 0] - 0.5


TERMS = {
    "goal": lambda goal: Away(goal, width=2.0),
    "effort": lambda goal: Effort(),
    "wall": lambda goal: Boundary(first),
    "unknown": lambda goal: Unknown(),
}


def test_steps_and_sums_against_loops():
    states, actions, goal = future()
    weights = {"goal": 1.0, "effort": 0.1, "wall": 3.0, "unknown": 0.5}
    cost = CostModule(terms=TERMS, discount=0.9).intrinsic(goal, weights)
    steps, total = cost.steps(states, actions), cost(states, actions)
    parts = cost.parts(states, actions)
    assert torch.allclose(sum(parts.values()), steps)
    z, g = states["latent"].double().numpy(), goal["latent"].double().numpy()
    a, u = actions.double().numpy(), states["disagreement"].double().numpy()
    for s, b in np.ndindex(S, B):
        wanted = [
            1
            - np.exp(-((z[s, b, t] - g[b]) ** 2).sum() / 8)
            + 0.1 * (a[s, b, t] ** 2).sum()
            + 3 * max(0, z[s, b, t, 0] - 0.5)
            + 0.5 * u[s, b, t]
            for t in range(H)
        ]
        assert steps[s, b].tolist() == pytest.approx(wanted, rel=1e-5)
        assert total[s, b].item() == pytest.approx(
            sum(0.9**t * value for t, value in enumerate(wanted)), rel=1e-5
        )
    alone = cost(states[0], actions[0])  # without samples, and beside other energies
    both = (cost + 2.0 * ActionEffort())(states, actions)
    assert torch.allclose(alone, total[0])
    assert torch.allclose(both, total + 2 * ActionEffort()(states, actions))


def test_attention_leaves_numbers_of_the_latent_out():
    states, actions, goal = future()
    goal["attention"] = torch.tensor([1.0, 0, 0, 2, 0, 0]).expand(B, D)
    seen = Away(goal, width=1.0)(states, actions)
    gap = (states["latent"] - goal["latent"][:, None]).double()
    wanted = 1 - (-(gap[..., 0] ** 2 + 2 * gap[..., 3] ** 2) / 2).exp()
    assert torch.allclose(seen.double(), wanted, atol=1e-6)


def test_the_critic_counts_where_a_plan_ends_discounted_and_by_trust():
    states, actions, goal = future()

    def critic(latents, goals):
        return (latents - goals).abs().sum(dim=-1)

    module = CostModule(terms=TERMS, discount=0.9, critic=critic)
    weights = {"goal": 1.0}
    plain = module(goal, weights, trust=0.0)(states, actions)
    rest = (states["latent"][..., -1, :] - goal["latent"]).abs().sum(dim=-1)
    for trust in (1.0, 0.5):
        found = module(goal, weights, trust=trust)(states, actions)
        assert torch.allclose(found, plain + trust * 0.9**H * rest, rtol=1e-5)
    alone = CostModule(terms=TERMS, discount=0.9)(goal, weights)
    assert torch.allclose(alone(states, actions), plain)


def test_the_intrinsic_cost_cannot_be_changed():
    states, actions, goal = future()
    weights = {"goal": 1.0}
    cost = CostModule(terms=TERMS).intrinsic(goal, weights)
    before = cost(states, actions)
    weights["goal"] = 9.0
    assert torch.equal(cost(states, actions), before)
    with pytest.raises(TypeError):
        cost.weights["goal"] = 2.0
    with pytest.raises(AttributeError):
        cost.discount = 0.5


def test_terms_of_weight_0_are_never_computed():
    states, actions, goal = future()
    module = CostModule(terms=TERMS)
    del states["disagreement"]
    module(goal, {"goal": 1.0, "unknown": 0.0})(states, actions)
    with pytest.raises(KeyError):
        module(goal, {"unknown": 1.0})(states, actions)


def test_nonsense_is_refused():
    goal = future()[2]
    with pytest.raises(ValueError, match=r"no term 'gaol'.*effort.*goal"):
        CostModule(terms=TERMS).intrinsic(goal, {"gaol": 1.0})
    with pytest.raises(ValueError, match="at least 0"):
        CostModule(terms=TERMS).intrinsic(goal, {"goal": -1.0})
    with pytest.raises(ValueError, match="discount"):
        IntrinsicCost(terms={}, weights={}, discount=0.0)
    with pytest.raises(ValueError, match="width"):
        Away(goal, width=0.0)
