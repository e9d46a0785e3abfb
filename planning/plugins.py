"""Plug-ins: agents as policies, and environments as worlds, of other people's loops.

stable-worldmodel (PyPI, 0.1.1) steps copies of a gymnasium environment and asks its policy for all
of their actions at once; nothing of it is imported here:

    import jepa.planning.two_rooms_env

    world = stable_worldmodel.World(
        "jepa/TwoRooms-v0", num_envs=8, image_shape=(64, 64), pre_wrappers=[GoalInInfo]
    )
    world.set_policy(WorldPolicy(agent_of))
    world.evaluate(episodes=50, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from .agent import each_array
from .evaluation import Agent


class WorldPolicy:
    """What stable-worldmodel's `World.set_policy` takes: agents, one for each of its copies.

    Copies begin their episodes at different times, and an agent forgets all of its episodes at
    once: hence one for each. They may share a world model.

    Args:
        agent_of: makes the agent of copy number i; agents that draw should be seeded differently.
        keys: of the world's infos, by what the agent calls them. `pixels` and `goal` are the
            world's pictures, resized; any entry of a dictionary observation has its own name.
    """

    type = "jepa"

    def __init__(
        self, agent_of: Callable[[int], Agent], *, keys: Mapping[str, str] | None = None
    ) -> None:
        self.agent_of = agent_of
        self.keys = keys or {"observation": "pixels", "desired_goal": "goal"}
        self.env: Any = None
        self.agents: list[Agent] = []

    def set_env(self, env: Any) -> None:
        """The world's copies; they are given new agents."""
        self.env, self.agents = env, [self.agent_of(i) for i in range(env.num_envs)]

    def get_action(self, info: Mapping[str, Any], **_: Any) -> np.ndarray:
        """Actions of all copies, from infos [copies, 1, ...]; those that have ended get zeros."""
        missing = [key for key in self.keys.values() if key not in info]
        if missing:
            raise KeyError(
                f"the world's infos have no {', '.join(missing)}; they have: {', '.join(info)}. "
                "Say which with keys={'observation': ..., 'desired_goal': ...}, or add the goal "
                "with pre_wrappers=[GoalInInfo]"
            )
        space = self.env.action_space
        actions = np.zeros(space.shape, space.dtype)
        first, over = info["step_idx"], info["terminated"] | info["truncated"]
        for i, agent in enumerate(self.agents):
            if first[i, -1] == 0:
                agent.reset()
            if not over[i, -1]:
                seen = {name: np.asarray(info[key][i]) for name, key in self.keys.items()}
                actions[i] = agent.act(seen)[0]
        return actions


class GoalInInfo(gymnasium.Wrapper):
    """`info["goal"]`: the observation's `desired_goal`, where stable-worldmodel looks for it."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observation, info = self.env.reset(**options)
        return observation, info | {"goal": observation["desired_goal"]}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = info | {"goal": observation["desired_goal"]}
        return observation, reward, terminated, truncated, info


def as_gymnasium_policy(agent: Agent, env: gymnasium.Env | VectorEnv) -> Callable[[Any], Any]:
    """observation -> action, both as `env` has them, be it one environment or a vector of them.

    Call `agent.reset()` where an episode begins, or where all episodes of a vector begin.
    """
    space, many = env.action_space, isinstance(env, VectorEnv)

    def policy(observation: Any) -> Any:
        action = np.asarray(agent.act(observation if many else batched(observation)))
        action = action.astype(space.dtype)
        return action if many else action[0]

    return policy


def batched(observation: Any) -> Any:
    """One observation, of whatever arrays it is made, as a batch of one."""
    return each_array(observation, lambda array: np.asarray(array)[None])
