"""The door that opens and shuts at random: against its Markov chain, the rules, the pictures."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from jepa import seeds
from jepa.planning.oracle import TrueDynamics
from jepa.planning.stochastic_door import DoorLayout, StochasticDoor
from jepa.planning.two_rooms import Layout, TwoRooms
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv, next_layout
from jepa.planning.two_rooms_walks import random_walks


def test_the_door_is_the_markov_chain_that_flip_says():
    door, count, steps = StochasticDoor(flip=0.1), 20_000, 6
    generator = seeds.generator(0, "chain")
    layout = door.layouts(count, generator)
    first, away = layout.open, torch.tensor([[10.0, 10.0]]).expand(count, 2)
    assert first.mean().item() == pytest.approx(0.5, abs=0.02)
    for _ in range(steps):
        layout = next_layout(door, layout, away, generator)
    same = (layout.open == first).double().mean().item()
    assert same == pytest.approx(0.5 + 0.5 * (1 - 2 * door.flip) ** steps, abs=0.015)


def test_the_door_never_shuts_on_a_dot_in_it():
    door, generator = StochasticDoor(flip=1.0), seeds.generator(0, "in")
    positions = torch.tensor([[32.0, 32.0], [29.0, 32.0]])
    layout = DoorLayout(torch.full((2,), 32.0), torch.full((2,), 32.0), torch.ones(2))
    assert door.changed(layout, positions, generator).open.tolist() == [1.0, 0.0]


def test_open_it_is_two_rooms_and_shut_it_is_a_wall():
    plain, door = TwoRooms(random_layout=True), StochasticDoor(rooms=TwoRooms(random_layout=True))
    generator = seeds.generator(0, "both")
    layout = plain.layouts(500, generator)
    starts = plain.starts(layout, 500, generator)
    near = torch.stack([layout.wall - 2.5, layout.door], dim=1)
    positions = torch.cat([starts[:250], near[250:]])
    actions = (torch.rand(500, 2, generator=generator) * 2 - 1) * plain.max_action
    opened = DoorLayout(layout.wall, layout.door, torch.ones(500))
    shut = DoorLayout(layout.wall, layout.door, torch.zeros(500))
    assert torch.equal(
        door.step(positions, actions, opened), plain.step(positions, actions, layout)
    )
    assert torch.equal(door.render(positions, opened), plain.render(positions, layout))
    stopped = door.step(positions, actions, shut)
    left = positions[:, 0] < layout.wall
    assert ((stopped[:, 0] < layout.wall) == left).all()
    assert (stopped[:, 0] != door.step(positions, actions, opened)[:, 0]).sum() > 50
    column = door.render(starts, shut)[torch.arange(500), :, layout.wall.long()]
    none = Layout(layout.wall, torch.full((500,), -1000.0))
    assert torch.equal(column, plain.render(starts, none)[torch.arange(500), :, layout.wall.long()])


@pytest.mark.parametrize("vector", [False, True])
def test_gymnasium_makes_it_and_its_episodes_are_functions_of_the_seed(vector):
    if not vector:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(gymnasium.make("jepa/StochasticDoor-v0").unwrapped)
        return
    envs = [gymnasium.make_vec("jepa/StochasticDoor-v0", num_envs=8) for _ in range(2)]
    actions, states = np.ones((8, 2), np.float32), []
    for env in envs:
        env.reset(seed=3)
        states.append([env.step(actions)[4] for _ in range(40)])
    for a, b in zip(*states, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    opened = np.stack([info["open"] for info in states[0]])
    assert 0 < np.abs(np.diff(opened, axis=0)).mean() < 0.15  # flips, about one step in 20


def test_walks_show_doors_that_change_and_are_parts_of_one_another():
    door = StochasticDoor(rooms=TwoRooms(size=32, border=2.0, wall_width=2.0, door_width=5.0))
    make = {"episodes": 6, "decisions": 12, "repeat": 4, "seed": 1, "batch": 3}
    walks = list(random_walks(door, **make))
    (last,) = random_walks(door, **make, first=5)
    assert np.array_equal(last["observations"], walks[5]["observations"])
    middle = np.stack([w["observations"][:, 16, 16] for w in walks]).astype(int)
    assert (np.abs(np.diff(middle, axis=1)).sum(axis=-1) > 100).any()


def test_dots_that_want_across_reach_the_door_push_at_it_and_pass_when_it_opens():
    rooms = TwoRooms(size=32, border=2.0, wall_width=2.0, door_width=5.0, random_layout=True)
    door, generator, count, repeat = (
        StochasticDoor(flip=0.0, rooms=rooms),
        seeds.generator(0, "w"),
        300,
        4,
    )
    layout = door.layouts(count, generator)
    positions = door.starts(layout, count, generator)
    left = positions[:, 0] < layout.wall
    crossed = torch.zeros(count, dtype=torch.bool)
    for _ in range(15):
        actions = door.across(positions, layout, repeat=repeat)
        assert actions.abs().max() <= door.max_action
        for _ in range(repeat):
            positions = door.step(positions, actions, layout)
        crossed |= (positions[:, 0] < layout.wall) != left
    opened = layout.open > 0.5
    assert torch.equal(crossed, opened)
    waiting = positions[~opened] - torch.stack([layout.wall, layout.door], dim=1)[~opened]
    assert torch.allclose(waiting.abs(), torch.tensor([1.0, 0.0]).expand_as(waiting), atol=1e-3)


def test_walks_with_a_wish_mix_it_with_chance_episode_by_episode():
    door = StochasticDoor(flip=0.0)
    make = {"episodes": 400, "decisions": 5, "repeat": 2, "seed": 1, "batch": 200}

    def wish(positions, layout):
        return torch.zeros_like(positions)

    def actions_of(**more):
        return np.stack([walk["actions"] for walk in random_walks(door, **make, **more)])

    chance, some, alike = (
        actions_of(),
        actions_of(wish=wish, share=0.5),
        actions_of(wish=wish, share=0.0),
    )
    assert np.array_equal(chance, alike)
    # w * 0 + (1 - w) * random: to rest is what these dots want
    moves = np.abs(chance) > 0.1
    left = some / np.where(moves, chance, 1.0)
    weight = np.array(
        [1 - episode[where].mean() for episode, where in zip(left, moves, strict=True)]
    )
    spread = np.array([episode[where].std() for episode, where in zip(left, moves, strict=True)])
    assert spread.max() < 1e-3  # one weight for all actions of an episode
    assert np.mean(weight < 1e-3) == pytest.approx(0.5, abs=0.08)
    wanting = np.sort(weight[weight > 1e-3])
    assert np.abs(wanting - np.linspace(0, 1, len(wanting))).max() < 0.12  # uniform
    (last,) = random_walks(door, **make, wish=wish, first=399)
    assert np.array_equal(last["actions"], some[399])


def test_the_oracle_foresees_the_door_as_it_is():
    door = StochasticDoor(flip=0.0)
    env = TrueState(TwoRoomsVectorEnv(16, rooms=door))
    observation, _ = env.reset(seed=0)
    model, action = TrueDynamics(rooms=door), np.full((16, 2), 1.0, np.float32)
    state = model.encode(torch.as_tensor(observation["observation"]))
    for _ in range(60):
        state = model.step(state, torch.as_tensor(action))
        *_, info = env.step(action)
    going = ~info["success"]
    assert np.allclose(state["position"].numpy()[going], info["position"][going])


def test_a_flip_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="probability"):
        StochasticDoor(flip=1.5)
