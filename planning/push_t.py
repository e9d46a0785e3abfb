"""Push-T from pixels (gym-pusht): a disc is to push a T to where it lies in a goal image."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from jepa.optional import optional

from .pixel_tasks import Simulator, State


class PushT(Simulator):
    """gym-pusht's PushT with goals of the block anywhere; the drawn target zone stays in place.

    Its own reset does not reach the state that is asked for (it sets the block's position before
    its angle, and then goes on for a moment), and its five numbers have no velocities: here the
    state has both, is set exactly, and nothing else is left of the past. An action is where the
    disc is drawn to, relative to where it is.

    Args:
        size: of images, px.
        radius: of the goal, px of the 512 px world; a turn of the block by 1 rad counts as 60 px.
        max_steps: of 0.1 s each; the package's own limit is 300.
        reach: longest action along each axis, px.
        pushes: decisions of a random policy between start and goal, each 5 steps long.
    """

    passing = True

    def __init__(
        self,
        *,
        size: int = 64,
        radius: float = 20.0,
        max_steps: int = 100,
        reach: float = 100.0,
        pushes: int = 8,
    ) -> None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        package, self.pygame, self.cv2 = (
            optional(name, extra="pusht", purpose="Push-T")
            for name in ("gym_pusht.envs", "pygame", "cv2")
        )
        self.name, self.size, self.radius, self.max_steps = "push_t", size, radius, max_steps
        self.reach, self.pushes = np.float32(reach), pushes
        self.env: Any = package.PushTEnv(  # it draws when it is told to, and not in every step
            obs_type="state", observation_width=size, observation_height=size
        )
        self.env._get_coverage = lambda: 0.0  # of its own target, for rewards: half of a step
        self.env.reset(seed=0)
        self.action_space = gymnasium.spaces.Box(-self.reach, self.reach, (2,), np.float32)

    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """The disc beside the block; and the block where random pushes have brought it."""
        start = self._beside(random, random.uniform(180, 332, 2), 150.0)
        self.set_state(start)
        for _ in range(self.pushes):
            towards = np.array(self.env.block.position) - self.get_state()[:2]
            push = 0.5 * towards + random.uniform(-60, 60, 2)
            for _ in range(5):
                self.step(push.clip(-self.reach, self.reach))
        goal = self.get_state()
        goal[[2, 3, 7, 8, 9]] = 0
        return start, goal

    def draw_widely(self, random: np.random.Generator) -> tuple[State, State]:
        """The block anywhere, the disc where it soon touches it; the goal is where all is, since
        pushing would cost more than collecting."""
        start = self._beside(random, random.uniform(100, 412, 2), random.uniform(60, 130))
        return start, start

    def _beside(self, random: np.random.Generator, block: np.ndarray, away: float) -> State:
        """Disc and block at rest, the block turned and the disc on its side at random."""
        turn, side = random.uniform(-np.pi, np.pi, 2)
        disc = block + away * np.array([np.cos(side), np.sin(side)])
        return np.concatenate([disc.clip(20, 492), [0, 0], block, [turn, 0, 0, 0]])

    def get_state(self) -> State:
        """Disc: position, velocity; block: position, angle, velocity, angular velocity."""
        disc, block = self.env.agent, self.env.block
        parts = (disc.position, disc.velocity, block.position, [block.angle], block.velocity)
        return np.concatenate([*map(np.array, parts), [block.angular_velocity]])

    def set_state(self, state: State) -> None:
        """In a new space, since contacts of the old one would be remembered. The angle goes
        first: turning moves the position, since it is not the centre of gravity."""
        self.env._setup()
        disc, block = self.env.agent, self.env.block
        disc.position, disc.velocity = state[:2].tolist(), state[2:4].tolist()
        block.angle = float(state[6])
        block.position, block.velocity = state[4:6].tolist(), state[7:9].tolist()
        block.angular_velocity = float(state[9])
        self.env.space.reindex_shapes_for_body(disc)
        self.env.space.reindex_shapes_for_body(block)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """The disc is drawn towards a place inside the walls for 0.1 s."""
        place = np.clip(np.array(self.env.agent.position) + action, 20, 492)
        self.env.step(place)
        return 0.0, False

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """From above, without a mark for the action: the package's own picture, which is made
        smaller before its colours are sorted, in a third of the time."""
        words = self.pygame.surfarray.pixels2d(self.env._draw()).T
        blue_first = words.view(np.uint8).reshape(*words.shape, 4)
        return self.cv2.resize(blue_first, (self.size, self.size))[..., 2::-1]

    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B 4"]:
        """Where the block is, and how it is turned; the disc may be anywhere."""
        turn = states[..., 6:7]
        return np.concatenate([states[..., 4:6], 60 * np.cos(turn), 60 * np.sin(turn)], axis=-1)
