"""Pictures of planning on several levels: recorded as a run ends, drawn by the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from jepa.files import read_arrays, write_arrays

from ..planning.evaluation import Agent, played_steps
from ..planning.hierarchy import HierarchicalAgent
from . import figures, page
from .page import Html
from .results import Result

EPISODE = "hierarchy_episode.npz"


@torch.no_grad()
def save_episode(
    out: Path,
    agent: HierarchicalAgent,
    flat: Agent,
    env: VectorEnv,
    readouts: Sequence[Callable[[Tensor], Tensor]],
    episode: int,
    max_steps: int,
    seed: int,
) -> None:
    """One episode with the plans of all levels, and where the flat agent goes meanwhile.

    readouts: from the latents of each level to positions, px.
    """
    kept: dict[str, list[Any]] = {"frames": [], "positions": [], "energies": [], "final": []}
    plans: list[list[np.ndarray]] = [[] for _ in readouts]
    goal: dict[str, np.ndarray] = {}
    options = {"max_steps": max_steps, "seed": seed, "episode": episode}
    for step, (observation, info, row) in enumerate(played_steps(agent, env, **options)):
        if row is not None and step % agent.repeat:
            continue
        kept["frames"].append(observation["observation"][episode])
        kept["positions"].append(info["position"][episode])
        goal = {
            "goal": observation["desired_goal"][episode],
            "goal_position": info["goal_position"][episode],
        }
        if row is None:
            break
        thoughts = [thought for thought in agent.thoughts if thought is not None]
        kept["energies"].append([float(t.plan.energy[row]) for t in thoughts])
        kept["final"].append(bool(thoughts[0].final[row]))
        for plan, readout, thought in zip(plans, readouts, thoughts, strict=True):
            plan.append(readout(thought.imagined["latent"][row]).numpy())
    way = [info["position"][episode] for _, info, _ in played_steps(flat, env, **options)]
    write_arrays(
        out / EPISODE,
        {
            **goal,
            "flat_positions": np.stack(way),
            **{name: np.stack(values) for name, values in kept.items()},
            **{f"plan_{level}": np.stack(plan) for level, plan in enumerate(plans)},
        },
    )


def hierarchy_part(run: Path, result: Result) -> Html:
    """The animation, the plans over the map, energies over time, and the curves."""
    episode = read_arrays(run / EPISODE)
    levels = sorted(int(name[5:]) for name in episode if name.startswith("plan_"))
    plans = [episode[f"plan_{level}"] for level in levels]
    play = page.player(
        episode["frames"],
        episode["positions"],
        plans[0],
        episode["goal_position"],
        above=plans[-1],
    )
    chart = figures.plans_over_map(
        episode["frames"][0],
        episode["positions"],
        episode["flat_positions"],
        episode["goal_position"],
        plans,
    )
    energy = figures.energies_over_time(episode["energies"], episode["final"])
    html = (
        '<h3>An episode, and what each level imagined</h3><div class="control">'
        + page.figure(
            play,
            "What the agent sees. White: the way so far. Cyan: where the lowest level's plan "
            "leads. Orange: the macro-actions of the highest level, and its first aim, a ring. "
            "Green ring: the goal. Positions are read from the imagined latents.",
        )
        + page.figure(page.picture(episode["goal"], "the goal image"), "The goal, as an image.")
        + page.figure(
            chart,
            "The first plan of the highest level, some plans of the lowest, the way that was "
            "taken, and the way of the flat planner from the same start.",
        )
        + "</div>"
    )
    charts = f"<div><h3>Energy of the plan at each level</h3>{energy}</div>"
    for title, points, label in curves(result["metrics"]):
        charts += f"<div><h3>{title}</h3>{figures.success_curves(points, label)}</div>"
    return f'{html}<div class="large">{charts}</div>'


Points = dict[str, list[tuple[float, Any]]]  # by agent: (abscissa, number)


def curves(metrics: Mapping[str, Any]) -> list[tuple[str, Points, str]]:
    """Success against the way, from metrics WHO/success_LEAST_MOST; and, of those with several
    budgets, against compute, from WHO/success and WHO/model_calls, where WHO_xFACTOR is WHO with
    another budget."""
    ways: Points = {}
    compute: Points = {}
    for name, number in metrics.items():
        who, _, what = name.partition("/")
        if what.startswith("success_"):
            least, most = map(float, what.split("_")[1:])
            ways.setdefault(who, []).append(((least + most) / 2, number))
        elif what == "success" and f"{who}/model_calls" in metrics:
            agent, _, factor = who.rpartition("_x")
            calls = metrics[f"{who}/model_calls"]["value"]
            compute.setdefault(agent if factor and agent else who, []).append((calls, number))
    found = [
        (
            "Success by the length of the way",
            {who: points for who, points in ways.items() if "_x" not in who},
            "length of the way, px",
        ),
        (
            "Success of far pairs by compute",
            {who: points for who, points in compute.items() if len(points) > 1},
            "states foreseen per decision",
        ),
    ]
    return [curve for curve in found if curve[1]]
