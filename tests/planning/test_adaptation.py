"""Changed rooms against the rooms they were; which dynamics hold, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.planning.changed_rooms import ChangedRooms
from jepa.planning.dynamics import Dynamics, Scales
from jepa.planning.identified import Identified
from jepa.planning.recurrent import GRU
from jepa.planning.second_order import SecondOrder
from jepa.planning.two_rooms import Layout, TwoRooms
from jepa.planning.two_rooms_env import TwoRoomsVectorEnv


def dots(rooms, count=400):
    generator = seeds.generator(0, "changed")
    layout = rooms.layouts(count, generator)
    near = torch.randn(count, 2, generator=generator) * 3
    starts = rooms.starts(layout, count, generator)
    door = torch.stack([layout.wall, layout.door], dim=1) + near
    door[:, 0] += 2.5 * near[:, 0].sign()
    positions = torch.where(torch.arange(count)[:, None] % 2 == 0, starts, door)
    actions = (torch.rand(count, 2, generator=generator) * 2 - 1) * rooms.max_action
    return positions, actions, layout


def test_a_weaker_or_stronger_action_is_that_action_of_the_old_world():
    rooms = TwoRooms()
    positions, actions, layout = dots(rooms)
    weak = ChangedRooms(gain=0.5).step(positions, actions, layout)
    assert torch.equal(weak, rooms.step(positions, 0.5 * actions, layout))
    strong = ChangedRooms(gain=1.5, drift=(0.3, -0.2)).step(positions, actions, layout)
    long = TwoRooms(max_norm=100.0)
    moves = 1.5 * actions + torch.tensor([0.3, -0.2])
    assert torch.equal(strong, long.step(positions, moves, layout))
    assert not torch.equal(strong, rooms.step(positions, moves, layout))  # those are cut
    same = ChangedRooms().step(positions, 9 * actions, layout)
    assert torch.equal(same, rooms.step(positions, 9 * actions, layout))  # as the agent's are


def test_the_door_has_moved_and_pairs_have_not():
    old, new = (TwoRoomsVectorEnv(20, rooms=r) for r in (TwoRooms(), ChangedRooms(door=9.0)))
    (_, was), (images, now) = old.reset(seed=4), new.reset(seed=4)
    assert np.array_equal(now["door"], was["door"] + 9)
    for name in ("position", "goal_position", "wall"):
        assert np.array_equal(now[name], was[name])
    layout = Layout(torch.as_tensor(now["wall"]), torch.as_tensor(now["door"]))
    drawn = TwoRooms().render(torch.as_tensor(now["position"]), layout)
    assert np.array_equal(images["observation"], drawn.numpy())
    with pytest.raises(ValueError, match="border"):
        ChangedRooms(door=30.0)


class Gain(Dynamics):
    """z' = z + gain * a."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def step(self, state, action):
        return self.start(state["latent"] + self.gain * action)


def test_the_dynamics_that_explain_the_last_steps_are_followed_in_each_environment():
    gains, forget = (1.0, 0.5, -1.0), 0.7
    model = Identified([Gain(g) for g in gains], forget=forget)
    true = torch.tensor([1.0, 0.5, -1.0, 0.5])  # of each environment; the last one changes later
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(4, 2, generator=generator)
    state, energy = model.start(latent), np.zeros((4, 3))
    ahead = torch.ones(5, 4, 3, 2)  # plans, environments, decisions
    first = model.rollout(state, ahead)["latent"]
    assert torch.allclose(first[0, :, -1], latent + 3.0)  # the first until something is known
    for t in range(12):
        if t == 4:
            true[3] = -1.0
        action = torch.randn(4, 2, generator=generator)
        noise = 0.05 * torch.randn(4, 2, generator=generator)
        came = latent + true[:, None] * action + noise
        foreseen = np.stack([(latent + g * action).numpy() for g in gains], axis=1)
        energy = forget * energy + np.square(foreseen - came.numpy()[:, None]).mean(-1)
        state = model.observe(model.step(state, action), came)
        latent = came
        assert state["memory", "energy"].numpy() == pytest.approx(energy, rel=1e-4)
        best = torch.tensor([gains[m] for m in energy.argmin(1)])
        rolled = model.rollout(state, ahead)["latent"]
        assert torch.allclose(rolled[2, :, -1], latent + 3 * best[:, None], atol=1e-5)
    assert best.tolist() == true.tolist()


@pytest.mark.parametrize("kind", [SecondOrder, GRU])
def test_the_dynamics_that_are_followed_remember_as_they_do_alone(kind):
    torch.manual_seed(0)
    members = [kind(Scales(torch.ones(2), torch.ones(2)), hidden=8) for _ in range(3)]
    actions, latents = torch.randn(4, 9, 2), torch.randn(4, 1, 2)
    true = members[1].rollout(members[1].start(latents[:, 0]), actions)["latent"]
    latents = torch.cat([latents, true[:, :5]], dim=1)
    state, alone = (d.remember(latents, actions[:, :5]) for d in (Identified(members), members[1]))
    assert (state["memory", "energy"].argmin(dim=1) == 1).all()
    foreseen = Identified(members).rollout(state, actions[:, 5:])["latent"]
    assert torch.equal(foreseen, members[1].rollout(alone, actions[:, 5:])["latent"])
    assert torch.allclose(foreseen, true[:, 5:], atol=1e-5)


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="forget"):
        Identified([Gain(1.0)], forget=1.0)
    with pytest.raises(ValueError, match="members"):
        Identified([])
