"""Strips of pictures: a few episodes from start to end, beside what was wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from jepa.files import read_arrays, write_arrays

from ..planning.evaluation import Agent, evaluate
from . import page
from .page import Html

STRIPS = "strips.npz"
MOMENTS = 8
SHOWN = 4  # episodes in the report


class Filmed(VectorWrapper):
    """Keeps what was seen: `frames`, one [B, H, W, 3] at the start and after each step."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.frames: list[np.ndarray] = []

    def reset(self, **options: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """As the environment's."""
        observation, info = self.env.reset(**options)
        self.goals, self.frames = observation["desired_goal"], [observation["observation"]]
        return observation, info

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], Any, Any, Any, Any]:
        """As the environment's."""
        observation, rewards, terminated, truncated, info = self.env.step(actions)
        self.frames.append(observation["observation"])
        return observation, rewards, terminated, truncated, info


def save_strips(out: Path, agent: Agent, env: VectorEnv, *, max_steps: int, seed: int) -> None:
    """Plays an episode in each copy; of each MOMENTS frames, evenly spaced from start to end."""
    filmed = Filmed(env)
    found = evaluate(agent, filmed, max_steps=max_steps, seed=seed)
    moments = np.linspace(0, found.steps, MOMENTS).round().astype(np.int64).T  # [B, MOMENTS]
    frames = np.stack(filmed.frames, axis=1)
    write_arrays(
        out / STRIPS,
        {
            "frames": np.take_along_axis(frames, moments[:, :, None, None, None], axis=1),
            "goals": filmed.goals,
            "moments": moments,
            "success": found.success,
            "returns": found.returns,
        },
    )


def strips_part(run: Path) -> Html:
    """A row for each episode."""
    told = read_arrays(run / STRIPS)
    rows = ""
    for frames, goal, moments, success, gained in zip(
        told["frames"],
        told["goals"],
        told["moments"],
        told["success"],
        told["returns"],
        strict=True,
    ):
        words = f"{'reached' if success else 'not reached'}, {moments[-1]} steps"
        rows += f"<span>{words}<br>return {gained:.4g}</span>"
        rows += "".join(
            page.picture(frame, f"after {moment} steps")
            for frame, moment in zip(frames, moments, strict=True)
        )
        rows += f"<span></span>{page.picture(goal, 'the goal')}"
    columns = f"grid-template-columns: 92px repeat({MOMENTS}, 1fr) 4px 1fr"
    return "<h3>From start to end</h3>" + page.figure(
        f'<div class="scroll"><div class="sheet" style="{columns}">{rows}</div></div>',
        "A few episodes, played by themselves: moments evenly spaced from the start "
        "(left) to the end of the episode, and, on the right, the goal.",
    )
