"""Dynamics that see velocities, on a world whose observations do not show them."""

from __future__ import annotations

import torch

from jepa.planning.dynamics import ResidualMLP, Scales
from jepa.planning.recurrent import GRU
from jepa.planning.second_order import SecondOrder
from jepa.planning.training import foresight_loss
from jepa.seeds import generator


def throws(count, steps):
    """Positions [B, L + 1, 1] of things that move on, pushed by actions [B, L, 1]."""
    draw = generator(0, "throws")
    velocity, position = 3 * torch.randn((2, count, 1), generator=draw)
    actions, positions = 0.3 * torch.randn((count, steps, 1), generator=draw), [position]
    for action in actions.unbind(1):
        velocity = velocity + action
        position = position + 0.3 * velocity
        positions.append(position)
    return torch.stack(positions, dim=1), actions


def test_told_of_one_decision_it_foresees_what_one_latent_does_not_tell():
    positions, actions = throws(256, 3)
    error = {}
    for kind in (ResidualMLP, SecondOrder, GRU):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            dynamics = kind(Scales(torch.ones(1), torch.ones(1)), hidden=32)
        optimiser = torch.optim.Adam(dynamics.parameters(), lr=1e-2)
        for _ in range(100):
            loss = foresight_loss(dynamics, positions, actions, history=1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        error[kind] = float(loss.detach())
    assert max(error[SecondOrder], error[GRU]) < 0.1 * error[ResidualMLP]


def test_it_remembers_the_latent_that_was_seen_and_starts_at_rest():
    dynamics = SecondOrder(Scales(torch.ones(2), torch.ones(1)), hidden=8)
    latents, actions = (
        torch.randn((3, n, k), generator=generator(1, k)) for n, k in ((3, 2), (2, 1))
    )
    state = dynamics.remember(latents, actions)
    assert torch.equal(state["memory"], latents[:, 1])
    assert torch.equal(state["latent"], latents[:, 2])
    assert torch.equal(dynamics.start(latents[:, 0])["memory"], latents[:, 0])
    assert set(dynamics.rollout(state, actions).keys()) == {"latent"}
