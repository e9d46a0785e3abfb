"""TwoRooms for gymnasium: importing this module registers `jepa/TwoRooms-v0` and its like.

    import gymnasium
    import jepa.planning.two_rooms_env

    env = gymnasium.make("jepa/TwoRooms-v0")
    envs = gymnasium.make_vec("jepa/TwoRooms-v0", num_envs=100)

Start and goal are in different rooms. Observations are images: `observation` shows the dot
where it is, `desired_goal` where it should be. An episode ends with success, and reward 1, when
the dot is within `radius` px of the goal, or is truncated after `max_steps` steps. The truth is
in `info`: `position`, `goal_position`, `wall`, `door` (px), `distance` (px), `success`.

The other worlds are `jepa/Maze-v0` and `jepa/StochasticDoor-v0`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, UInt8
from torch import Tensor

from .maze import Maze
from .stochastic_door import StochasticDoor
from .two_rooms import Positions, TwoRooms

Arrays = dict[str, np.ndarray]


@runtime_checkable
class Rooms(Protocol):
    """The rules of a world of one dot: `TwoRooms`, `Maze`. A layout is a dataclass of what differs
    between episodes, [B] each; it is also in `info`."""

    @property
    def size(self) -> int: ...

    @property
    def max_action(self) -> float: ...

    def layouts(self, count: int, generator: torch.Generator) -> Any:
        """Layouts of `count` episodes."""
        ...

    def starts(self, layout: Any, count: int, generator: torch.Generator) -> Positions:
        """Anywhere."""
        ...

    def pairs(
        self, layout: Any, count: int, generator: torch.Generator
    ) -> tuple[Positions, Positions]:
        """Starts and goals."""
        ...

    def step(self, positions: Positions, actions: Positions, layout: Any) -> Positions:
        """The positions after one step."""
        ...

    def render(self, positions: Positions, layout: Any) -> UInt8[Tensor, "B size size 3"]:
        """RGB images."""
        ...


@runtime_checkable
class Changing(Rooms, Protocol):
    """Rules of a world whose layout changes by itself, at random: `StochasticDoor`."""

    def changed(self, layout: Any, positions: Positions, generator: torch.Generator) -> Any:
        """The layouts before the next step; positions are those of the dots now."""
        ...


def next_layout(rooms: Rooms, layout: Any, positions: Positions, generator: torch.Generator) -> Any:
    """The layouts in which the next step is made: the same ones, unless the world is `Changing`."""
    return rooms.changed(layout, positions, generator) if isinstance(rooms, Changing) else layout


class TwoRoomsVectorEnv(VectorEnv):
    """`num_envs` copies stepped together. A finished copy stands still until it is reset.

    Autoreset is disabled, in gymnasium's sense: `reset(options={"reset_mask": mask})` resets
    the masked copies, `reset()` all of them.

    Args:
        num_envs: number of copies, B.
        rooms: the rules of the world.
        radius: distance from the goal that counts as success, px.
        max_steps: steps after which an episode is truncated.
    """

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        rooms: Rooms | None = None,
        radius: float = 3.0,
        max_steps: int = 200,
        render_mode: str | None = None,
    ) -> None:
        self.num_envs, self.radius, self.max_steps = num_envs, radius, max_steps
        self.rooms: Rooms = TwoRooms() if rooms is None else rooms
        self.render_mode = render_mode
        image = gymnasium.spaces.Box(0, 255, (self.rooms.size, self.rooms.size, 3), np.uint8)
        self.single_observation_space = gymnasium.spaces.Dict(
            {"observation": image, "desired_goal": image}
        )
        bound = np.float32(self.rooms.max_action)
        self.single_action_space = gymnasium.spaces.Box(-bound, bound, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._position = self._goal = torch.zeros(num_envs, 2)
        self._generator = torch.Generator()  # of what changes by itself
        self._layout = self.rooms.layouts(num_envs, self._generator)
        self._steps = torch.zeros(num_envs, dtype=torch.int64)
        self._goal_image = np.zeros((num_envs, *image.shape), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, Arrays]:
        """New layouts, starts and goals, all drawn from `seed`."""
        super().reset(seed=seed)
        everyone = np.ones(self.num_envs, dtype=bool)
        chosen = torch.as_tensor((options or {}).get("reset_mask", everyone))
        generator = torch.Generator().manual_seed(int(self.np_random.integers(2**63 - 1)))
        layout = self.rooms.layouts(self.num_envs, generator)
        start, goal = self.rooms.pairs(layout, self.num_envs, generator)
        kept = vars(self._layout)
        self._layout = type(layout)(
            **{name: torch.where(chosen, new, kept[name]) for name, new in vars(layout).items()}
        )
        self._position = torch.where(chosen[:, None], start, self._position)
        self._goal = torch.where(chosen[:, None], goal, self._goal)
        self._steps = self._steps.masked_fill(chosen, 0)
        self._goal_image = self.rooms.render(self._goal, self._layout).numpy()
        self._generator = generator
        return self._observation(), self._info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, Arrays]:
        """Move every copy that has not finished by its action, px."""
        running = ~(self._arrived() | (self._steps >= self.max_steps))
        self._layout = next_layout(self.rooms, self._layout, self._position, self._generator)
        moved = self.rooms.step(
            self._position, torch.as_tensor(actions, dtype=torch.float32), self._layout
        )
        self._position = torch.where(running[:, None], moved, self._position)
        self._steps += running
        success = self._arrived()
        truncated = ~success & (self._steps >= self.max_steps)
        reward = (success & running).numpy().astype(np.float64)
        return self._observation(), reward, success.numpy(), truncated.numpy(), self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current images, [H, W, 3] each."""
        return tuple(self._observation()["observation"]) if self.render_mode else None

    def _arrived(self) -> Bool[Tensor, " B"]:
        return (self._position - self._goal).norm(dim=1) <= self.radius

    def _observation(self) -> Arrays:
        image = self.rooms.render(self._position, self._layout).numpy()
        return {"observation": image, "desired_goal": self._goal_image.copy()}

    def _info(self) -> Arrays:
        return {
            "position": self._position.numpy().copy(),
            "goal_position": self._goal.numpy().copy(),
            **{name: value.numpy().copy() for name, value in vars(self._layout).items()},
            "distance": (self._position - self._goal).norm(dim=1).numpy(),
            "success": self._arrived().numpy(),
        }


class TwoRoomsEnv(gymnasium.Env):
    """One copy, with gymnasium's plain API; arguments as in `TwoRoomsVectorEnv`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        *,
        rooms: Rooms | None = None,
        radius: float = 3.0,
        max_steps: int = 200,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._envs = TwoRoomsVectorEnv(
            1, rooms=rooms, radius=radius, max_steps=max_steps, render_mode=render_mode
        )
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, Arrays]:
        """A new layout, start and goal."""
        super().reset(seed=seed)
        observation, info = self._envs.reset(seed=int(self.np_random.integers(2**62)))
        return _first(observation), _first(info)

    def step(self, action: np.ndarray) -> tuple[Arrays, float, bool, bool, Arrays]:
        """Move by `action`, px."""
        observation, reward, success, truncated, info = self._envs.step(np.asarray(action)[None])
        return (
            _first(observation),
            float(reward[0]),
            bool(success[0]),
            bool(truncated[0]),
            _first(info),
        )

    def render(self) -> np.ndarray | None:
        """The current image [H, W, 3]."""
        images = self._envs.render()
        return None if images is None else images[0]


class TrueState(VectorWrapper):
    """Shows the truth instead of images, for the oracle planner: (x, y, wall, door) in px; in other
    worlds x, y and what their layouts hold."""

    def __init__(self, env: TwoRoomsVectorEnv) -> None:
        super().__init__(env)
        self._names = list(vars(env.rooms.layouts(1, torch.Generator())))
        state = gymnasium.spaces.Box(0, env.rooms.size, (2 + len(self._names),), np.float32)
        self.single_observation_space = gymnasium.spaces.Dict(
            {"observation": state, "desired_goal": state}
        )
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, **options: Any) -> tuple[Arrays, Arrays]:
        """As the environment's."""
        _, info = self.env.reset(**options)
        return self._truth(info), info

    def step(self, actions: np.ndarray) -> tuple[Arrays, Any, Any, Any, Arrays]:
        """As the environment's."""
        _, reward, success, truncated, info = self.env.step(actions)
        return self._truth(info), reward, success, truncated, info

    def _truth(self, info: Arrays) -> Arrays:
        layout = [info[name][:, None] for name in self._names]
        return {
            "observation": np.concatenate([info["position"], *layout], axis=1),
            "desired_goal": np.concatenate([info["goal_position"], *layout], axis=1),
        }


def _first(arrays: Arrays) -> Arrays:
    return {key: value[0] for key, value in arrays.items()}


gymnasium.register(
    id="jepa/TwoRooms-v0",
    entry_point="jepa.planning.two_rooms_env:TwoRoomsEnv",
    vector_entry_point="jepa.planning.two_rooms_env:TwoRoomsVectorEnv",
)
gymnasium.register(
    id="jepa/Maze-v0",
    entry_point="jepa.planning.two_rooms_env:TwoRoomsEnv",
    vector_entry_point="jepa.planning.two_rooms_env:TwoRoomsVectorEnv",
    kwargs={"rooms": Maze(), "radius": 1.5, "max_steps": 480},
)
gymnasium.register(
    id="jepa/StochasticDoor-v0",
    entry_point="jepa.planning.two_rooms_env:TwoRoomsEnv",
    vector_entry_point="jepa.planning.two_rooms_env:TwoRoomsVectorEnv",
    kwargs={"rooms": StochasticDoor()},
)
