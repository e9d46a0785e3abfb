"""Mazes: motion against tiny steps, ways against a search of our own, pairs, gymnasium's checks."""

from __future__ import annotations

import heapq

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from jepa import seeds
from jepa.planning.agent import PlanningAgent, action_space_of
from jepa.planning.evaluation import evaluate
from jepa.planning.icem import ICEM
from jepa.planning.maze import Maze, NoLayout, spiral
from jepa.planning.oracle import MazeWay, TrueDynamics
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv
from jepa.planning.two_rooms_walks import random_walks

ALL = NoLayout()


def tiny_steps(maze, position, action, count=3000):
    """Reference: sub-steps until a wall stops one axis, then the other axis alone, more slowly."""

    def solid(x, y):
        inside = [left < x < right and top < y < bottom for left, top, right, bottom in walls]
        return any(inside)

    walls = maze.rectangles.tolist()
    (x, y), (dx, dy) = position, np.clip(action, -maze.max_action, maze.max_action) / count
    for i in range(count):
        if not solid(x + dx, y + dy):
            x, y = x + dx, y + dy
            continue
        left = (count - i) * maze.slide
        along = (dx, 0) if solid(x, y + dy) and not solid(x + dx, y) else (0, dy)
        for _ in range(round(left)):
            if solid(x + along[0], y + along[1]):
                break
            x, y = x + along[0], y + along[1]
        break
    return x, y


@pytest.mark.parametrize(("max_norm", "slide"), [(0.6, 0.25), (12.0, 0.5), (12.0, 0.0)])
def test_motion_equals_tiny_steps(max_norm, slide):
    maze, generator = Maze(max_norm=max_norm, slide=slide), seeds.generator(0, "motion")
    start = maze.starts(ALL, 80, generator)
    actions = (torch.rand(80, 2, generator=generator) * 2 - 1) * maze.max_action
    moved = maze.step(start, actions, ALL)
    for i in range(80):
        wanted = tiny_steps(maze, start[i].tolist(), actions[i].tolist())
        assert moved[i].tolist() == pytest.approx(wanted, abs=4e-3 * max_norm + 1e-4)


def test_no_wall_is_crossed_however_long_the_step():
    maze, generator = Maze(max_norm=100.0, slide=1.0), seeds.generator(0, "cross")
    start = maze.starts(ALL, 500, generator)
    left, top, right, bottom = maze.rectangles.T
    for _ in range(40):
        end = maze.step(start, torch.randn(500, 2, generator=generator) * 30, ALL)
        x, y = end[:, :1], end[:, 1:]
        assert not ((x > left) & (x < right) & (y > top) & (y < bottom)).any()
        start = end
    everywhere = maze.starts(ALL, 2000, generator)
    stuck = maze.step(everywhere, torch.zeros(2000, 2), ALL)
    assert torch.equal(stuck, everywhere)


def test_no_dot_gets_between_walls_that_join():
    """Dots exactly on the faces of walls, where rounding may put them, moved along these faces."""
    maze, free = Maze(max_norm=6.0), (Maze().picture == 0)
    faces = {side for wall in maze.rectangles[4:].tolist() for side in wall[2:]}
    along = np.arange(2.25, 30.0, 0.5)
    for axis in (0, 1):
        start = torch.tensor([[face, other] for face in sorted(faces) for other in along])
        start = start if axis == 0 else start.flip(1)
        start = start[free[start[:, 1].long(), start[:, 0].long()]].float()
        for move in (-3.0, 3.0):
            step = torch.tensor([[0.0, move]]) if axis == 0 else torch.tensor([[move, 0.0]])
            end = maze.step(start, step.expand_as(start), ALL)
            assert (maze.way(start, end) <= 4.5).all()


def test_ways_equal_a_search_of_our_own():
    maze = Maze(size=16, border=2, walls=[(2.0, 5.0, 11.0, 7.0), (8.0, 9.0, 14.0, 11.0)])
    free = {tuple(pixel) for pixel in maze.free.tolist()}
    assert len(free) == 12 * 12 - 9 * 2 - 6 * 2
    first = (2, 2)
    best, queue = {first: 0.0}, [(0.0, first)]
    while queue:
        length, (row, column) = heapq.heappop(queue)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                there = (row + down, column + right)
                beside = {(row + down, column), (row, column + right), there}
                further = length + (down**2 + right**2) ** 0.5
                if beside <= free and further < best.get(there, np.inf):
                    best[there] = further
                    heapq.heappush(queue, (further, there))
    start = torch.tensor([[2.5, 2.5]]).expand(len(free), 2)
    goal = torch.from_numpy(maze.free).flip(1) + 0.5
    wanted = [best[tuple(pixel)] for pixel in maze.free.tolist()]
    assert maze.way(start, goal).tolist() == pytest.approx(wanted, rel=1e-6)


def test_pairs_keep_their_limits_and_impossible_ones_are_refused():
    maze, generator = Maze(least=60.0, most=80.0), seeds.generator(0, "pairs")
    start, goal = maze.pairs(ALL, 200, generator)
    way = maze.way(start, goal)
    assert ((way >= 60) & (way <= 80)).all()
    assert ((start - goal).norm(dim=1) <= way + 2).all()
    with pytest.raises(ValueError, match="the longest is 1"):
        Maze(least=1000.0).pairs(ALL, 1, generator)
    with pytest.raises(ValueError, match="make fewer"):
        spiral(turns=3)


def test_the_picture_shows_walls_and_the_dot():
    maze = Maze()
    image = maze.render(torch.tensor([[3.5, 20.5]]), ALL)[0]
    assert image[20, 3].tolist() == [255, 176, 32]  # (x, y) is column, row
    walls = (maze.picture == 1).numpy()
    assert walls[:2].all()
    assert not walls[tuple(maze.free.T)].any()
    assert walls.sum() + len(maze.free) == maze.size**2


def test_walks_and_the_environment_stay_in_the_maze():
    maze = Maze()
    walks = list(random_walks(maze, episodes=3, decisions=5, repeat=4, seed=0))
    assert walks[0]["observations"].shape == (6, 32, 32, 3)
    check_env(gymnasium.make("jepa/Maze-v0").unwrapped, skip_render_check=True)
    envs = gymnasium.make_vec("jepa/Maze-v0", num_envs=2)
    _, info = envs.reset(seed=0)
    assert {"position", "goal_position", "success"} <= info.keys()


def test_the_oracle_finds_its_way():
    maze = Maze(least=50.0, most=70.0)
    env = TrueState(TwoRoomsVectorEnv(3, rooms=maze, radius=1.5, max_steps=400))
    agent = PlanningAgent(
        world_model=TrueDynamics(rooms=maze, repeat=4),
        planner=ICEM(horizon=6, samples=32, iterations=2),
        action_space=action_space_of(env.single_action_space),
        energy=lambda goal: MazeWay(maze, goal),
        repeat=4,
    )
    assert evaluate(agent, env, max_steps=400, seed=0).rate == 1.0
