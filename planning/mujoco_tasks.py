"""Tasks of MuJoCo, from pixels: gymnasium's Reacher and gymnasium-robotics' PointMaze.

Frames are drawn without shadows, reflections and antialiasing, which cost most of the time
where a processor does the drawing, from a camera that looks straight down.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Literal

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from jepa.optional import optional

from .pixel_tasks import Simulator, State


class Scene:
    """One MuJoCo model that is put into states and drawn.

    Between steps nothing is kept but positions and velocities, so that what a step does is a
    function of them and the action (a solver otherwise starts from the last step's forces).

    Args:
        env: gymnasium's, unwrapped.
        size: of images, px.
        height: of the camera, over the origin, metres.
        hidden: geoms and sites that are not drawn.
    """

    def __init__(self, env: Any, *, size: int, height: float, hidden: tuple[str, ...] = ()) -> None:
        self.env, self.size, self.hidden = env, size, hidden
        self.mujoco = mujoco()
        self.camera = self.mujoco.MjvCamera()
        self.camera.lookat[:] = 0
        self.camera.azimuth, self.camera.elevation, self.camera.distance = 90, -90, height
        self._drawing: Any = None

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Goes there exactly; nothing of the past is left."""
        self.mujoco.mj_resetData(self.env.model, self.env.data)
        self.env.set_state(positions, velocities)

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """The present state."""
        gl, model, data = self.mujoco, self.env.model, self.env.data
        if self._drawing is None:
            self._drawing = self._prepared()
        geoms, context = self._drawing
        gl.mjv_updateScene(
            model, data, gl.MjvOption(), None, self.camera, gl.mjtCatBit.mjCAT_ALL, geoms
        )
        gl.mjr_setBuffer(gl.mjtFramebuffer.mjFB_OFFSCREEN, context)
        area = gl.MjrRect(0, 0, self.size, self.size)
        image = np.empty((self.size, self.size, 3), np.uint8)
        gl.mjr_render(area, geoms, context)
        gl.mjr_readPixels(image, None, area, context)
        return image[::-1].copy()

    def _prepared(self) -> tuple[Any, Any]:
        model = self.env.model
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self.size
        for name in self.hidden:
            kind = "geom" if name in {model.geom(i).name for i in range(model.ngeom)} else "site"
            getattr(model, f"{kind}_rgba")[getattr(model, kind)(name).id, 3] = 0
        drawing_surface()
        context = self.mujoco.MjrContext(model, self.mujoco.mjtFontScale.mjFONTSCALE_100)
        return self.mujoco.MjvScene(model, maxgeom=1000), context


@functools.cache
def drawing_surface() -> Any:
    """The one surface of the process, without a screen unless MUJOCO_GL says otherwise. With
    several, MuJoCo draws wrong frames without a word."""
    library = os.environ.get("MUJOCO_GL", "egl")
    surface = optional(f"mujoco.{library}", extra="mujoco", purpose="drawing").GLContext(64, 64)
    surface.make_current()
    return surface


class Reacher(Simulator):
    """gymnasium's Reacher-v5 with its target hidden: a two-joint arm, to be brought where it is
    in the goal image. The distance is that of the finger tips, metres.

    Args:
        size: of images, px.
        radius: of the goal, metres; the arm is 0.21 long.
        max_steps: of 0.02 s each; gymnasium's own limit is 50.
    """

    passing = True

    def __init__(self, *, size: int = 64, radius: float = 0.02, max_steps: int = 50) -> None:
        self.name, self.size, self.radius, self.max_steps = "reacher", size, radius, max_steps
        mujoco()
        self.env: Any = gymnasium.make("Reacher-v5").unwrapped
        self.action_space = self.env.action_space
        self.scene = Scene(self.env, size=size, height=0.6, hidden=("target",))

    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """Any two poses, at rest."""
        first, second = random.uniform([-np.pi, -2.8], [np.pi, 2.8], (2, 2))
        return np.append(first, [0.0, 0.0]), np.append(second, [0.0, 0.0])

    def get_state(self) -> State:
        """Angles and angular velocities of the two joints."""
        return np.concatenate([self.env.data.qpos[:2], self.env.data.qvel[:2]])

    def set_state(self, state: State) -> None:
        """The target is kept at the origin."""
        self.scene.set_state(np.append(state[:2], [0, 0]), np.append(state[2:], [0, 0]))

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Torques for 0.02 s."""
        self.env.do_simulation(np.clip(action, -1, 1), self.env.frame_skip)
        return 0.0, False

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """From above."""
        return self.scene.render()

    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B 2"]:
        """Of the finger tip."""
        return finger(states, 0.1, 0.11)


class PointMaze(Simulator):
    """gymnasium-robotics' PointMaze: a ball that is pushed through a maze.

    Args:
        maze: of Farama's mazes.
        size: of images, px.
        radius: of the goal, in cells; the package's own.
        max_steps: of 0.01 s each; the package's own limits.
    """

    passing = True

    def __init__(
        self,
        maze: Literal["UMaze", "Medium"] = "UMaze",
        *,
        size: int = 64,
        radius: float = 0.45,
        max_steps: int | None = None,
    ) -> None:
        mujoco()
        gymnasium.register_envs(optional("gymnasium_robotics", extra="mujoco", purpose="PointMaze"))
        self.name, self.size, self.radius = f"point_maze_{maze.lower()}", size, radius
        self.max_steps = max_steps or {"UMaze": 300, "Medium": 600}[maze]
        outer: Any = gymnasium.make(f"PointMaze_{maze}-v3").unwrapped
        self.env, self.cells = outer.point_env, np.stack(outer.maze.unique_reset_locations)
        self.action_space = outer.action_space
        height = {"UMaze": 6.6, "Medium": 10.2}[maze]
        self.scene = Scene(self.env, size=size, height=height, hidden=("target",))

    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """At rest in two cells that are no neighbours, up to a quarter of a cell from their
        centres."""
        first = self.cells[random.integers(len(self.cells))]
        far = self.cells[np.linalg.norm(self.cells - first, axis=1) > 1.5]
        second = far[random.integers(len(far))]
        start, goal = np.stack([first, second]) + random.uniform(-0.25, 0.25, (2, 2))
        return np.append(start, [0.0, 0.0]), np.append(goal, [0.0, 0.0])

    def get_state(self) -> State:
        """Position, in cells, and velocity."""
        return np.concatenate([self.env.data.qpos, self.env.data.qvel])

    def set_state(self, state: State) -> None:
        """Position and velocity."""
        self.scene.set_state(state[:2], state[2:])

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """A force for 0.01 s."""
        self.env.step(action)
        return 0.0, False

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """From above."""
        return self.scene.render()

    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B 2"]:
        """Where the ball is."""
        return states[..., :2]


def finger(
    states: Float[np.ndarray, "*B S"], upper: float, lower: float
) -> Float[np.ndarray, "*B 2"]:
    """Where an arm of two parts ends, of these lengths; states begin with its two angles."""
    shoulder, elbow = states[..., 0], states[..., 0] + states[..., 1]
    x = upper * np.cos(shoulder) + lower * np.cos(elbow)
    return np.stack([x, upper * np.sin(shoulder) + lower * np.sin(elbow)], axis=-1)


def mujoco() -> Any:
    """The package."""
    return optional("mujoco", extra="mujoco", purpose="this task")
