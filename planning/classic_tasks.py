"""Classic control from pixels: gymnasium's Pendulum, and its CartPole with a force of any size.

They pay a reward at every step, so that they serve for planning by learned rewards; their goal
images show what is wanted, too. Physics are gymnasium's; frames are drawn here, since its own are
400 to 600 px wide and take longer than a step of a planner's model.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv
from jaxtyping import Float, UInt8

from .pixel_tasks import Simulator, State

PALE, DARK, RED = (235, 235, 235), (40, 40, 40), (204, 77, 77)


class Pendulum(Simulator):
    """gymnasium's Pendulum-v1: a pole with a weak motor is to swing up and stand.

    The state is the angle from upright, in radians, and its velocity. The reward is gymnasium's,
    at most 0. Success is that the tip is near its highest place when the episode ends.

    Args:
        size: of images, px.
        radius: of success, in lengths of the pole.
        max_steps: of 0.05 s each; gymnasium's own limit is 200.
    """

    passing = False

    def __init__(self, *, size: int = 64, radius: float = 0.3, max_steps: int = 200) -> None:
        self.name, self.size, self.radius, self.max_steps = "pendulum", size, radius, max_steps
        self.env: Any = PendulumEnv()
        self.action_space = self.env.action_space

    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """Any angle, slow, as gymnasium starts; upright at rest."""
        return random.uniform([-np.pi, -1.0], [np.pi, 1.0]), np.zeros(2)

    def get_state(self) -> State:
        """The angle, within half a turn of upright, and its velocity, radians per second."""
        angle, velocity = self.env.state
        return np.array([(angle + np.pi) % (2 * np.pi) - np.pi, velocity])

    def set_state(self, state: State) -> None:
        """Both."""
        self.env.state = np.array(state, dtype=np.float64)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """A torque for 0.05 s."""
        _, reward, _, _, _ = self.env.step(np.asarray(action))
        return float(reward), False

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """The pole, from the middle of the image."""
        middle = np.array([0.5, 0.5])
        tip = middle + 0.4 * self.position(self.get_state()) * [1, -1]
        return painted(self.size, [(middle, tip, 0.04, RED), (middle, middle, 0.02, DARK)])

    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B 2"]:
        """Of the tip, x to the right and y upwards."""
        return np.stack([-np.sin(states[..., 0]), np.cos(states[..., 0])], axis=-1)


class CartPole(Simulator):
    """gymnasium's CartPole-v1 with any force between its two: a pole is to be balanced on a cart.

    The state is the cart's position and velocity, and the pole's angle from upright and its
    velocity. The reward is 1 for each step after which the pole has not fallen and the cart has
    not left, as in gymnasium; then all is lost. Success is an episode that is not lost.

    Args:
        size: of images, px.
        max_steps: of 0.02 s each.
    """

    passing = False
    radius = np.inf

    def __init__(self, *, size: int = 64, max_steps: int = 200) -> None:
        self.name, self.size, self.max_steps = "cart_pole", size, max_steps
        self.env: Any = CartPoleEnv()
        self.force = self.env.force_mag
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """Nearly upright in the middle, as gymnasium starts; and exactly so."""
        return random.uniform(-0.05, 0.05, 4), np.zeros(4)

    def draw_widely(self, random: np.random.Generator) -> tuple[State, State]:
        """Anywhere on the rail, moving, the pole not yet fallen: from where gymnasium starts, a
        random policy never comes to what a pole that stands for long is like."""
        return random.uniform(-1, 1, 4) * [2.0, 1.5, 0.2, 1.5], np.zeros(4)

    def get_state(self) -> State:
        """Position, velocity, angle, angular velocity."""
        return np.array(self.env.state, dtype=np.float64)

    def set_state(self, state: State) -> None:
        """All four."""
        self.env.state = np.array(state, dtype=np.float64)
        self.env.steps_beyond_terminated = None

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """A force for 0.02 s, in units of gymnasium's."""
        self.env.force_mag = self.force * float(np.clip(action, -1, 1)[0])
        self.env.steps_beyond_terminated = None
        _, _, lost, _, _ = self.env.step(1)
        return float(not lost), lost

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """The cart on its rail, which is as long as the image is wide, and the pole."""
        position, _, angle, _ = self.get_state()
        cart = np.array([0.5 + position / (2 * self.env.x_threshold), 0.75])
        tip = cart + 0.4 * np.array([np.sin(angle), -np.cos(angle)])
        side = np.array([0.06, 0.0])
        return painted(self.size, [(cart - side, cart + side, 0.04, DARK), (cart, tip, 0.025, RED)])

    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B 2"]:
        """The cart's place, and the pole's angle."""
        return states[..., [0, 2]]


def painted(size: int, strokes: list[tuple[Any, Any, float, Any]]) -> UInt8[np.ndarray, "H W 3"]:
    """Strokes on pale ground, each (from, to, half its width, colour), over one another; smooth.

    Places are (x to the right, y downwards), in sides of the image.
    """
    centres = (np.arange(size) + 0.5) / size
    places = np.stack(np.meshgrid(centres, centres), axis=-1)
    image = np.broadcast_to(np.array(PALE, dtype=np.float64), (size, size, 3))
    for begin, end, half, colour in strokes:
        along = np.subtract(end, begin)
        length = max(along @ along, 1e-12)
        share = np.clip((places - begin) @ along / length, 0, 1)
        away = np.linalg.norm(places - begin - share[..., None] * along, axis=-1)
        covered = np.clip((half - away) * size + 0.5, 0, 1)[..., None]
        image = (1 - covered) * image + covered * np.array(colour)
    return np.rint(image).astype(np.uint8)
