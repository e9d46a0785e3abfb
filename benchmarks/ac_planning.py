"""V-JEPA 2-AC planning: contexts computed once, against recomputing every rollout from scratch.

The published planner's search (cross-entropy, 400 samples, 10 iterations, horizon 2) with the same
random weights, the same draws and the same number of rollouts in memory. From scratch means that
every step of every sample runs over all frames so far, the context's too; frames are encoded once
in both. Contexts are of 1 frame, as published, to 6, the most that a horizon of 2 leaves of the 8
frames that the network is trained on. Iterations cost the same, so by default one is timed and
counted ten times. Prints a Markdown table.

    python benchmarks/ac_planning.py --threads 2
"""

# The type checker does not see the folders that `jepa/__init__.py` joins.
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from jepa import seeds
from jepa.encoder import vit_small, vit_tiny
from jepa.frozen import FrozenEncoder
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_world import (
    HAND_AND_GRIPPER,
    RobotContext,
    RobotWorldModel,
    hand_and_gripper,
    normed,
)
from jepa.planning.cem import CEM
from jepa.planning.energies import GoalDistance
from jepa.planning.poses import moved

SIDE, ITERATIONS = 64, 10  # pixels; of one decision


class FromScratch:
    """The same world model with nothing kept: states hold the whole sequence."""

    def __init__(self, world: RobotWorldModel) -> None:
        self.world = world

    def encode(self, observation: RobotContext) -> TensorDict:
        """Every frame's tokens, every pose, every action."""
        actions = observation.actions
        entries = {
            "tokens": self.world.tokens(observation.frames),
            "poses": observation.poses,
            "actions": observation.poses[:, :0] if actions is None else actions,
        }
        return TensorDict(entries, batch_size=[len(observation.poses)])

    def step(self, state: TensorDict, action: Tensor) -> TensorDict:
        """One more frame, foreseen from all of them."""
        whole = action.new_zeros(len(action), 7).index_copy(1, self.world.controls, action)
        actions = torch.cat([state["actions"], whole[:, None]], dim=1)
        after = normed(self.world.predictor(state["tokens"], actions, state["poses"])[:, -1:])
        entries = {
            "tokens": torch.cat([state["tokens"], after], dim=1),
            "poses": torch.cat([state["poses"], moved(state["poses"][:, -1:], whole[:, None])], 1),
            "actions": actions,
        }
        return TensorDict(entries, batch_size=state.batch_size)

    def rollout(self, state: TensorDict, actions: Tensor) -> TensorDict:
        """The newest frames [S, B, H]."""
        horizon = actions.shape[2]
        state = state.expand(*actions.shape[:2]).reshape(-1)
        for action in actions.flatten(0, 1).unbind(dim=1):
            state = self.step(state, action)
        states = {"latent": state["tokens"][:, -horizon:], "pose": state["poses"][:, -horizon:]}
        return TensorDict(states, [len(state), horizon]).reshape(actions.shape[:-1])


class Recorded(GoalDistance):
    """Keeps the energies of the first candidates."""

    def __call__(self, states: TensorDict, actions: Tensor) -> Tensor:
        energies = super().__call__(states, actions)
        self.first = getattr(self, "first", energies)
        return energies


def world_model(vit: Callable[..., Any]) -> RobotWorldModel:
    """Encoder and predictor of the same width, depth and heads."""
    encoder = vit(image_size=SIDE, frames=16, tubelet_size=2, positions="rope")
    predictor = ActionConditionedPredictor(
        encoder.dim,
        encoder.native_grid[1:],
        dim=encoder.dim,
        depth=encoder.depth,
        heads=encoder.heads,
    )
    frozen = FrozenEncoder(encoder)
    return RobotWorldModel(encoder=frozen, predictor=predictor, controls=HAND_AND_GRIPPER)


def context(frames: int, generator: torch.Generator) -> RobotContext:
    """One robot's last frames."""
    images = torch.randint(256, (1, frames, SIDE, SIDE, 3), generator=generator)
    poses, actions = 0.3 * torch.randn(2, 1, frames, 7, generator=generator)
    taken = actions[:, 1:] if frames > 1 else None
    return RobotContext(frames=images.to(torch.uint8), poses=poses, actions=taken)


def decision(
    model: RobotWorldModel | FromScratch, given: RobotContext, planner: CEM, goal: TensorDict
) -> tuple[float, Tensor]:
    """Seconds of one decision, and the energies of its first candidates."""
    energy = Recorded(goal, norm="mean_l1")
    began = time.perf_counter()
    state = model.encode(given)
    encoded = time.perf_counter()
    draws = seeds.generator(0, "planning")
    planner.plan(model, state, energy, hand_and_gripper(), None, draws)
    iteration = (time.perf_counter() - encoded) / planner.iterations
    return encoded - began + ITERATIONS * iteration, energy.first


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Planning with V-JEPA 2-AC: shared contexts.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--iterations", type=int, default=1, help="timed, of the ten")
    parser.add_argument("--chunk", type=int, default=100, help="rollouts in memory at once")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 4, 6], help="in frames")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    planner = CEM(
        horizon=2,
        samples=options.samples,
        iterations=options.iterations,
        elites=10,
        chunk=options.chunk,
    )
    print(
        f"{options.threads} threads, median of {options.repeats}, float32, {SIDE}x{SIDE} pixels, "
        f"{options.samples} samples, {options.iterations} of {ITERATIONS} iterations timed\n"
    )
    print(
        "| model | context, frames | ours, s per decision | from scratch, s | ratio | difference |"
    )
    print("|---|---|---|---|---|---|")
    for name, vit in {"ViT-Ti/16": vit_tiny, "ViT-S/16": vit_small}.items():
        torch.manual_seed(seeds.derive(0, name))
        world = world_model(vit)
        for frames in options.contexts:
            generator = seeds.generator(0, "context")
            given = context(frames, generator)
            goal = world.goal(context(1, generator).frames[:, 0])
            models = (world, FromScratch(world))
            turns = [
                [decision(model, given, planner, goal) for model in models]
                for _ in range(options.repeats)
            ]
            ours, scratch = (statistics.median(turn[i][0] for turn in turns) for i in (0, 1))
            ratio = statistics.median(turn[1][0] / turn[0][0] for turn in turns)
            difference = (turns[0][0][1] - turns[0][1][1]).abs().max().item()
            print(
                f"| {name} | {frames} | {ours:.1f} | {scratch:.1f} | {ratio:.1f} | "
                f"{difference:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
