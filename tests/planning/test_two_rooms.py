"""TwoRooms: the swept motion against a motion in tiny steps, drawing, gymnasium's checks."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from jepa import seeds
from jepa.planning.two_rooms import DOT, WALL, Layout, TwoRooms
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from jepa.planning.two_rooms_walks import random_walks


def tiny_steps(rooms, position, action, wall, door, count=4000):
    """Reference: one dot in `count` sub-steps, each axis moved unless it would enter a wall."""
    (x, y), (dx, dy) = position, np.clip(action, -rooms.max_action, rooms.max_action) / count
    low, high = rooms.border, rooms.size - rooms.border

    def solid(x, y):
        return abs(x - wall) < rooms.wall_width / 2 and abs(y - door) > rooms.door_width / 2

    for _ in range(count):
        if not solid(x + dx, y):
            x = min(max(x + dx, low), high)
        if not solid(x, y + dy):
            y = min(max(y + dy, low), high)
    return x, y


def random_dots(rooms, count, name):
    generator = seeds.generator(0, name)
    layout = rooms.layouts(count, generator)
    right = torch.rand(count, generator=generator) < 0.5
    return rooms.positions(layout, right, generator), layout, generator


@pytest.mark.parametrize("max_norm", [2.45, 30.0])
def test_swept_motion_equals_tiny_steps(max_norm):
    rooms = TwoRooms(random_layout=True, max_norm=max_norm)
    positions, layout, generator = random_dots(rooms, 60, "sweep")
    near = torch.randn(60, 2, generator=generator) * 4
    start = torch.stack([layout.wall - 2 - near[:, 0].abs(), layout.door + near[:, 1]], dim=1)
    start[30:] = positions[30:]
    start = start.clamp(rooms.border, rooms.size - rooms.border)
    actions = (torch.rand(60, 2, generator=generator) * 2 - 1) * rooms.max_action
    moved = rooms.step(start, actions, layout)
    for i in range(60):
        wanted = tiny_steps(
            rooms,
            start[i].tolist(),
            actions[i].tolist(),
            float(layout.wall[i]),
            float(layout.door[i]),
        )
        assert moved[i].tolist() == pytest.approx(wanted, abs=2 * max_norm / 4000 + 1e-4)


def test_no_tunnelling_however_long_the_step():
    rooms = TwoRooms(max_norm=1000.0, random_layout=True)
    positions, layout, generator = random_dots(rooms, 500, "tunnel")
    for _ in range(50):
        before = positions
        positions = rooms.step(positions, torch.randn(500, 2, generator=generator) * 300, layout)
        inside = (positions[:, 0] - layout.wall).abs() < rooms.wall_width / 2 - 1e-4
        beside = (positions[:, 1] - layout.door).abs() > rooms.door_width / 2 + 1e-4
        assert not (inside & beside).any()
        crossed = (before[:, 0] < layout.wall) != (positions[:, 0] < layout.wall)
        slope = (layout.wall - before[:, 0]) / (positions[:, 0] - before[:, 0])
        assert ((slope >= 0) & (slope <= 1))[crossed].all()
        assert ((positions >= rooms.border) & (positions <= rooms.size - rooms.border)).all()


def test_the_door_is_the_only_way():
    rooms = TwoRooms()
    layout = Layout(wall=torch.full((2,), 32.0), door=torch.full((2,), 32.0))
    positions = torch.tensor([[20.0, 32.0], [20.0, 45.0]])
    for _ in range(20):
        positions = rooms.step(positions, torch.tensor([[1.7, 0.0], [1.7, 0.0]]), layout)
    assert positions[0, 0] > 50
    assert positions[1].tolist() == [30.0, 45.0]


@pytest.mark.parametrize("dx", [0.0, 1.0, -1.0])
def test_a_dot_on_the_face_slides_along_it(dx):
    rooms = TwoRooms()
    layout = Layout(wall=torch.tensor([32.0]), door=torch.tensor([32.0]))
    moved = rooms.step(torch.tensor([[30.0, 50.0]]), torch.tensor([[dx, 1.5]]), layout)
    assert moved.tolist() == [[min(30.0 + dx, 30.0), 51.5]]


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("dx", [-1.0, 0.0, 1.0])
def test_a_dot_that_rests_on_a_face_never_slips_into_the_wall(side, dx):
    """Wherever the wall is: its face is rounded, and so is the place of the dot."""
    rooms = TwoRooms(random_layout=True)
    layout = rooms.layouts(2000, seeds.generator(0, "faces"))
    away = rooms.door_width / 2 + 4
    y = layout.door + torch.where(layout.door > rooms.size / 2, -away, away)
    beside = torch.stack([layout.wall + side * (rooms.wall_width / 2 + 0.3), y], dim=1)
    resting = rooms.step(beside, torch.tensor([[-side * 1.0, 0.0]]).expand(2000, 2), layout)
    moved = rooms.step(resting, torch.tensor([[dx, 0.5]]).expand(2000, 2), layout)
    assert (moved[:, 1] - resting[:, 1] - 0.5).abs().max() < 1e-4
    free = dx if dx * side > 0 else 0.0
    assert (moved[:, 0] - resting[:, 0] - free).abs().max() < 1e-4


def test_drawing_has_the_dot_where_it_is_and_the_wall_where_it_stands():
    rooms = TwoRooms(random_layout=True)
    positions, layout, _ = random_dots(rooms, 20, "draw")
    images = rooms.render(positions, layout).float()
    far = (positions[:, 0] - layout.wall).abs() > 8
    light = (images - images.flatten(1, 2).median(dim=1).values[:, None, None])[..., 0]
    light = light * (images[..., 0] > images[..., 2])
    centres = torch.arange(64) + 0.5
    x = (light.sum(1) * centres).sum(1) / light.sum((1, 2))
    assert torch.allclose(x[far], positions[far, 0], atol=0.6)
    assert (images[:, 0, 0] == torch.tensor(WALL)).all()
    assert TwoRooms(dot_sigma=50.0).render(positions, layout)[0, 32, 32, 0] > 0.5 * DOT[0]


def test_check_env_and_registration():
    env = gymnasium.make("jepa.planning.two_rooms_env:jepa/TwoRooms-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(env.unwrapped)
    envs = gymnasium.make_vec("jepa/TwoRooms-v0", num_envs=3)
    observation, info = envs.reset(seed=1)
    assert envs.observation_space.contains(observation)
    assert observation["observation"].shape == (3, 64, 64, 3)
    assert ((info["position"][:, 0] < 32) != (info["goal_position"][:, 0] < 32)).all()


def test_vector_env_is_reproducible_and_finished_copies_stand_still():
    def play(seed):
        envs, actions = TwoRoomsVectorEnv(4, max_steps=5), np.random.default_rng(0)
        envs.reset(seed=seed)
        for _ in range(7):
            result = envs.step(actions.uniform(-1.7, 1.7, (4, 2)).astype(np.float32))
        return result

    observation, _, _, truncated, info = play(3)
    again = play(3)
    assert truncated.all()
    assert (observation["observation"] == again[0]["observation"]).all()
    assert (info["position"] == again[4]["position"]).all()
    assert (info["position"] != play(4)[4]["position"]).any()


def test_reset_mask_resets_only_the_masked_copies():
    envs = TrueState(TwoRoomsVectorEnv(3))
    before, _ = envs.reset(seed=0)
    after, _ = envs.reset(options={"reset_mask": np.array([True, False, True])})
    same = (before["observation"] == after["observation"]).all(axis=1)
    assert same.tolist() == [False, True, False]


def test_success_pays_once():
    envs = TwoRoomsVectorEnv(1, radius=100.0)
    _, info = envs.reset(seed=0)
    assert info["success"].all()
    _, reward, terminated, truncated, _ = envs.step(np.zeros((1, 2), np.float32))
    assert (reward.item(), terminated.item(), truncated.item()) == (0.0, True, False)


def test_random_walks_replay_exactly_and_cover_both_rooms():
    rooms, options = TwoRooms(), dict(episodes=40, decisions=6, repeat=4, seed=7, batch=20)
    first, second = (list(random_walks(rooms, **options)) for _ in range(2))
    late = list(random_walks(rooms, **options, first=25))
    for one, two in zip(first + first[25:], second + late, strict=True):
        assert all((one[key] == two[key]).all() for key in one)
    middle = torch.full((1,), 32.0)
    layout = Layout(wall=middle, door=middle)
    for walk in first[::5]:
        assert walk["observations"].shape == (7, 64, 64, 3)
        actions, positions = (torch.as_tensor(walk[k]) for k in ("actions", "infos.position"))
        position = positions[:1]
        for t in range(6):
            for _ in range(4):
                position = rooms.step(position, actions[t : t + 1], layout)
            assert torch.equal(position[0], positions[t + 1])
            drawn = rooms.render(position, layout).numpy()[0]
            assert (drawn == walk["observations"][t + 1]).all()
    sides = np.stack([walk["infos.position"][:, 0] for walk in first]) > 32
    assert (sides[:, 1:] != sides[:, :-1]).sum() > 3
    assert 0.3 < sides.mean() < 0.7
    assert not list(random_walks(rooms, **options, first=40))


def test_a_door_wider_than_a_room_is_refused():
    with pytest.raises(ValueError, match="narrower than the door"):
        TwoRooms(door_width=40.0)
