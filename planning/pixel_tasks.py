"""Goal images to reach in any simulator whose state can be set: one instance plays all copies.

    envs = PixelTasks(100, simulator=Reacher(), pairs=fixed_pairs("pairs.npz", Reacher(), 100, 7))

Every copy is a state; to step or draw it, the one simulator is put into that state, so that a
process has one renderer however many copies there are (two of MuJoCo's in one process give wrong
frames without a word). Interface and rules are those of `two_rooms_env.TwoRoomsVectorEnv`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from jaxtyping import Float, UInt8

from jepa import seeds
from jepa.files import read_arrays, write_arrays

Arrays = dict[str, np.ndarray]
State = Float[np.ndarray, " S"]


class Simulator(ABC):
    """A world of which the state tells everything: the same state and action, the same next state.

    name: of the task.
    action_space: flat Box, or Discrete.
    size: of images, px.
    radius: distance from the goal that counts as success, in units of `position`.
    max_steps: simulator steps of an episode.
    passing: whether coming near the goal once ends the episode with success; otherwise the
        episode goes on, and being near the goal at its end is success.

    A pickled simulator is made anew from what it was constructed with: it may hold what cannot be
    sent to another process.
    """

    name: str
    action_space: gymnasium.Space
    size: int
    radius: float
    max_steps: int
    passing: bool
    _made_from: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *given: Any, **options: Any) -> Any:
        simulator = super().__new__(cls)
        simulator._made_from = given, options
        return simulator

    def __reduce__(self) -> tuple[Any, ...]:
        given, options = self._made_from
        return partial(type(self), *given, **options), ()

    @abstractmethod
    def draw(self, random: np.random.Generator) -> tuple[State, State]:
        """A start and a goal."""
        ...

    def draw_widely(self, random: np.random.Generator) -> tuple[State, State]:
        """A start from which experience is collected, and a goal; unless it says otherwise, as
        `draw`."""
        return self.draw(random)

    @abstractmethod
    def get_state(self) -> State:
        """Where it is now."""
        ...

    @abstractmethod
    def set_state(self, state: State) -> None:
        """Goes there exactly."""
        ...

    @abstractmethod
    def step(self, action: Any) -> tuple[float, bool]:
        """One simulator step: the reward, and whether all is lost."""
        ...

    @abstractmethod
    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """What is seen of the present state."""
        ...

    @abstractmethod
    def position(self, states: Float[np.ndarray, "*B S"]) -> Float[np.ndarray, "*B P"]:
        """That part of states by which the Euclidean distance to the goal is measured."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Starts and goals of one task.

    name: of the task.
    seed: that they were drawn from.
    start, goal: states.
    """

    name: str
    seed: int
    start: Float[np.ndarray, "B S"]
    goal: Float[np.ndarray, "B S"]

    def __getitem__(self, chosen: slice) -> Pairs:
        """Some of them."""
        return replace(self, start=self.start[chosen], goal=self.goal[chosen])


def draw_pairs(simulator: Simulator, count: int, seed: int, *, widely: bool = False) -> Pairs:
    """The first `count` pairs of a seed: more are the same and further ones."""
    draw = simulator.draw_widely if widely else simulator.draw
    drawn = [
        draw(np.random.default_rng(seeds.derive(seed, "pairs", simulator.name, i)))
        for i in range(count)
    ]
    start, goal = (np.stack(states) for states in zip(*drawn, strict=True))
    return Pairs(simulator.name, seed, start, goal)


def fixed_pairs(path: str | Path, simulator: Simulator, count: int, seed: int) -> Pairs:
    """The pairs in the file; drawn and written if there is none. ValueError if it has others."""
    if not Path(path).is_file():
        write_arrays(path, vars(draw_pairs(simulator, count, seed)))
    read = read_arrays(path)
    pairs = Pairs(str(read["name"]), int(read["seed"]), read["start"], read["goal"])
    found, wanted = (pairs.name, pairs.seed, len(pairs.start)), (simulator.name, seed, count)
    if found != wanted:
        raise ValueError(
            f"{path} has the pairs (task, seed, count) {found}, not {wanted}: name another file, "
            "or remove this one to draw new pairs"
        )
    return pairs


class PixelTasks(VectorEnv):
    """`num_envs` copies stepped together. A finished copy stands still until it is reset.

    Autoreset is disabled, in gymnasium's sense. In `info`: `state`, `goal_state`, `position`,
    `goal_position`, `distance`, `success`. Reaching a goal in `passing` pays 1; the reward of other
    tasks is the simulator's own, summed over `repeat`.

    Args:
        num_envs: number of copies, B.
        simulator: plays all of them.
        pairs: starts and goals of every reset; None: drawn anew.
        repeat: simulator steps for which an action is held: one step of this environment.
        max_steps: simulator steps after which an episode is truncated; None: the simulator's.
        endless: neither reaching a goal nor losing ends an episode, and starts are drawn widely:
            for collecting.
    """

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        simulator: Simulator,
        pairs: Pairs | None = None,
        repeat: int = 1,
        max_steps: int | None = None,
        endless: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if pairs is not None and len(pairs.start) != num_envs:
            raise ValueError(f"{num_envs} copies need as many pairs; got {len(pairs.start)}")
        self.num_envs, self.simulator, self.repeat = num_envs, simulator, repeat
        self.pairs, self.render_mode = pairs, render_mode
        self.endless = endless
        self.max_steps = simulator.max_steps if max_steps is None else max_steps
        image = gymnasium.spaces.Box(0, 255, (simulator.size, simulator.size, 3), np.uint8)
        self.single_observation_space = gymnasium.spaces.Dict(
            {"observation": image, "desired_goal": image}
        )
        self.single_action_space = simulator.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._lost = np.zeros(num_envs, dtype=bool)
        self._images, self._goal_images = np.zeros((2, num_envs, *image.shape), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, Arrays]:
        """The fixed starts and goals, or new ones drawn from `seed`."""
        super().reset(seed=seed)
        pairs = self.pairs or draw_pairs(
            self.simulator,
            self.num_envs,
            int(self.np_random.integers(2**63 - 1)),
            widely=self.endless,
        )
        everyone = np.ones(self.num_envs, dtype=bool)
        chosen = np.asarray((options or {}).get("reset_mask", everyone))
        if chosen.all():
            self._states, self._goals = pairs.start.copy(), pairs.goal.copy()
        self._states[chosen], self._goals[chosen] = pairs.start[chosen], pairs.goal[chosen]
        self._steps[chosen], self._lost[chosen] = 0, False
        for i in np.flatnonzero(chosen).tolist():
            self._images[i] = self._goal_images[i] = self._seen(self._states[i])
            if (self._goals[i] != self._states[i]).any():
                self._goal_images[i] = self._seen(self._goals[i])
        return self._observation(), self._info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, Arrays]:
        """Every copy that has not finished does its action `repeat` times, or until it ends."""
        running = ~self._finished()
        rewards = np.zeros(self.num_envs)
        for i in np.flatnonzero(running).tolist():
            rewards[i] = self._advance(i, actions[i])
        if self.simulator.passing:
            rewards = (self._success() & running).astype(np.float64)
        terminated = self._ended()
        truncated = ~terminated & (self._steps >= self.max_steps)
        return self._observation(), rewards, terminated, truncated, self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current images, [H, W, 3] each."""
        return tuple(self._images.copy()) if self.render_mode else None

    def _advance(self, copy: int, action: Any) -> float:
        self.simulator.set_state(self._states[copy])
        total = 0.0
        for _ in range(self.repeat):
            reward, self._lost[copy] = self.simulator.step(action)
            total += reward
            self._steps[copy] += 1
            self._states[copy] = self.simulator.get_state()
            if self._finished(copy):
                break
        self._images[copy] = self._seen(self._states[copy])  # a step may leave its frame behind
        return total

    def _seen(self, state: State) -> UInt8[np.ndarray, "H W 3"]:
        self.simulator.set_state(state)
        return self.simulator.render()

    def _distance(self, copies: Any = ...) -> Any:
        here, there = (
            self.simulator.position(states[copies]) for states in (self._states, self._goals)
        )
        return np.linalg.norm(here - there, axis=-1)

    def _success(self, copies: Any = ...) -> Any:
        near = ~self._lost[copies] & (self._distance(copies) <= self.simulator.radius)
        return near & (self.simulator.passing | (self._steps[copies] >= self.max_steps))

    def _ended(self, copies: Any = ...) -> Any:
        if self.endless:
            return np.zeros_like(self._lost[copies])
        lost = self._lost[copies]
        return lost | self._success(copies) if self.simulator.passing else lost.copy()

    def _finished(self, copies: Any = ...) -> Any:
        return self._ended(copies) | (self._steps[copies] >= self.max_steps)

    def _observation(self) -> Arrays:
        return {"observation": self._images.copy(), "desired_goal": self._goal_images.copy()}

    def _info(self) -> Arrays:
        return {
            "state": self._states.copy(),
            "goal_state": self._goals.copy(),
            "position": self.simulator.position(self._states).astype(np.float32),
            "goal_position": self.simulator.position(self._goals).astype(np.float32),
            "distance": self._distance().astype(np.float32),
            "success": self._success(),
        }


class SeenStates(VectorWrapper):
    """Shows states instead of images, for a planner that is given the simulator."""

    def __init__(self, env: PixelTasks) -> None:
        super().__init__(env)
        size = len(env.simulator.get_state())
        state = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.single_observation_space = gymnasium.spaces.Dict(
            {"observation": state, "desired_goal": state}
        )
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, **options: Any) -> tuple[Arrays, Arrays]:
        """As the environment's."""
        _, info = self.env.reset(**options)
        return states_of(info), info

    def step(self, actions: np.ndarray) -> tuple[Arrays, Any, Any, Any, Arrays]:
        """As the environment's."""
        _, reward, terminated, truncated, info = self.env.step(actions)
        return states_of(info), reward, terminated, truncated, info


def states_of(info: Arrays) -> Arrays:
    """The truth as an observation."""
    return {"observation": info["state"], "desired_goal": info["goal_state"]}
