"""dm_control's reacher from pixels: a two-joint arm whose finger is to be held in a target."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from jepa.optional import optional

from .mujoco_tasks import Scene, finger, mujoco
from .pixel_tasks import Simulator, State

UPPER, LOWER = 0.12, 0.12  # lengths of the arm, metres


class DmReacher(Simulator):
    """The suite's reacher. The state is the joints' angles and velocities, and the target's place.

    As in the suite, 1 is paid for each step after which the finger is in the target. In the goal
    image it is in the target's centre, at rest; success is to be in it when the episode ends.

    Args:
        size: of images, px.
        target: its radius, metres: 0.05 is the suite's "easy", 0.015 its "hard".
        max_steps: of 0.02 s each; the suite's own limit is 1000.
    """

    passing = False

    def __init__(self, *, size: int = 64, target: float = 0.05, max_steps: int = 200) -> None:
        mujoco()
        suite: Any = optional("dm_control.suite", extra="dm-control", purpose="this task")
        self.name, self.size, self.max_steps = "dm_reacher", size, max_steps
        self.env = SuiteModel(suite.load("reacher", "easy").physics)
        self.env.model.geom("target").size[0] = target
        self.radius = target + float(self.env.model.geom("finger").size[0])
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.scene = Scene(self.env, size=size, height=0.75)

    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """Any pose at rest and a target 0.05 to 0.2 m away, as in the suite; the pose in it."""
        shoulder, wrist = random.uniform([-np.pi, -2.79], [np.pi, 2.79])
        angle, away = random.uniform(-np.pi, np.pi), random.uniform(0.05, 0.2)
        target = away * np.array([np.cos(angle), np.sin(angle)])
        bend = np.arccos((away**2 - UPPER**2 - LOWER**2) / (2 * UPPER * LOWER))
        turn = angle - np.arctan2(LOWER * np.sin(bend), UPPER + LOWER * np.cos(bend))
        return (
            np.array([shoulder, wrist, 0, 0, *target]),
            np.array([turn, bend, 0, 0, *target]),
        )

    def get_state(self) -> State:
        """Angles and velocities, and the target's x and y."""
        data = self.env.data
        return np.concatenate([data.qpos, data.qvel, self.env.model.geom("target").pos[:2]])

    def set_state(self, state: State) -> None:
        """All of it."""
        self.env.model.geom("target").pos[:2] = state[4:]
        self.scene.set_state(state[:2], state[2:4])

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Torques for 0.02 s."""
        self.env.data.ctrl[:] = np.clip(action, -1, 1)
        self.scene.mujoco.mj_step(self.env.model, self.env.data)
        state = self.get_state()
        away = np.linalg.norm(self.position(state) - state[4:])
        return float(away <= self.radius), False

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """From above."""
        return self.scene.render()

    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B 2"]:
        """Of the finger."""
        return finger(states, UPPER, LOWER)


class SuiteModel:
    """What a `Scene` wants of an environment, of dm_control's physics."""

    def __init__(self, physics: Any) -> None:
        self.physics = physics  # kept: model and data belong to it
        self.model, self.data = physics.model.ptr, physics.data.ptr

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Goes there."""
        self.data.qpos[:], self.data.qvel[:] = positions, velocities
        mujoco().mj_forward(self.model, self.data)
