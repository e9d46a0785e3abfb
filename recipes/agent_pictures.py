"""Pictures of the whole agent: what its critic says of every place, and its ways in each task."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from jepa import seeds
from jepa.files import read_arrays, write_arrays

from ..planning.autonomous import AutonomousAgent
from ..planning.evaluation import played_steps
from ..planning.intrinsic import Critic
from ..planning.maze import Maze, NoLayout
from ..planning.two_rooms_env import TwoRoomsVectorEnv
from . import figures, page
from .agent_tasks import Chores
from .page import Html

PICTURES = "agent_pictures.npz"


@torch.no_grad()
def save_pictures(
    out: Path,
    ours: AutonomousAgent,
    critic: Critic,
    maze: Maze,
    chores: Chores,
    env: TwoRoomsVectorEnv,
    seed: int,
) -> None:
    """Of the pair of longest way among a few.

    env: a few copies of the world.
    """
    _, info = env.reset(seed=seeds.derive(seed, "evaluation"))
    start, goal = (torch.from_numpy(info[key]) for key in ("position", "goal_position"))
    episode = int(maze.way(start, goal).argmax())
    free = torch.from_numpy(maze.free).flip(1) + 0.5
    here, there = (
        ours.world_model.encode(maze.render(places, NoLayout()))["latent"]
        for places in (free, goal[episode : episode + 1])
    )
    says, length = (np.full((maze.size, maze.size), np.nan) for _ in range(2))
    says[tuple(maze.free.T)] = critic(here, there.expand_as(here)).numpy()
    length[tuple(maze.free.T)] = maze.way(free, goal[episode].expand_as(free)).numpy()
    ways = {}
    for name, task in chores.tasks().items():
        ours.configure(task)
        played = played_steps(ours, env, max_steps=env.max_steps, seed=seed, episode=episode)
        ways[f"way_{name}"] = np.stack([told["position"][episode] for _, told, _ in played])
    write_arrays(
        out / PICTURES,
        {
            "critic": says,
            "length": length,
            "goal": info["goal_position"][episode],
            "discs": np.array(chores.discs),
            **ways,
        },
    )


def agent_part(run: Path) -> Html:
    """The critic beside the truth, and the ways."""
    told = read_arrays(run / PICTURES)
    ways = {name[4:]: told[name] for name in told if name.startswith("way_")}
    steps = ", ".join(f"{name} {len(way) - 1} steps" for name, way in ways.items())
    charts = (
        (over_map(told, "critic", "cost to go, says the critic"), "What the critic says it costs "
         "to go to the green goal, read off images of the dot at each place."),
        (over_map(told, "length", "length of the way, px"), "The truth: the length of the way."),
        (ways_over_map(told, ways), f"One agent, told three tasks: {steps}. Rings are the places "
         'to keep clear of in "clear".'),
    )  # fmt: skip
    drawn = "".join(page.figure(chart, words) for chart, words in charts)
    return f'<div class="maps">{drawn}</div>'


def over_map(told: dict[str, np.ndarray], name: str, label: str) -> str:
    """Numbers of all places, in colours."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.1, 3.5))
        axes = figure.add_subplot(aspect="equal")
        size = len(told[name])
        values = np.ma.masked_invalid(told[name])
        image = axes.imshow(values, cmap="viridis", extent=(0, size, size, 0))
        axes.plot(*told["goal"], "o", color=figures.GREEN, markersize=9, fillstyle="none", mew=2)
        axes.set_axis_off()
        figure.colorbar(image, ax=axes, label=label, shrink=0.9).outline.set_visible(False)
        return figures.svg(figure, label)


def ways_over_map(told: dict[str, np.ndarray], ways: dict[str, np.ndarray]) -> str:
    """The dot at every step of each task."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.1, 4.0))
        axes = figure.add_subplot(aspect="equal")
        size = len(told["length"])
        walls = np.isnan(told["length"])
        axes.imshow(
            np.where(walls, 0.5, np.nan), cmap="gray", vmin=0, vmax=1, extent=(0, size, size, 0)
        )
        for x, y, radius in told["discs"]:
            axes.add_patch(Circle((x, y), radius, fill=False, color=figures.MUTED))
        colours = (figures.BLUE, figures.ORANGE, figures.TEAL)
        for (name, way), colour in zip(ways.items(), colours, strict=True):
            axes.plot(*way.T, ".-", color=colour, markersize=4, linewidth=1, label=name)
        axes.plot(*told["goal"], "o", color=figures.GREEN, markersize=9, fillstyle="none", mew=2)
        axes.set_axis_off()
        figure.legend(loc="outside lower center", ncols=3)
        return figures.svg(figure, "Ways in each task")
