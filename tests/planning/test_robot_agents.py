"""Agents over V-JEPA 2-AC's world model: what a camera shows is planned with, on two levels too."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_world import (
    HAND_AND_GRIPPER,
    PresentFrame,
    RobotContext,
    RobotWorldModel,
    hand_and_gripper,
)
from jepa.planning.agent import PlanningAgent
from jepa.planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from jepa.planning.energies import GoalDistance
from jepa.planning.hierarchy import HierarchicalAgent, Level
from jepa.planning.icem import ICEM
from jepa.planning.levels import LatentEmbedding, macro_space
from jepa.planning.poses import moved
from jepa.planning.protocols import Remembering, WorldModel

B, TOKENS, D = 6, 4, 24


def tiny():
    sizes = dict(dim=D, depth=2, heads=2, positions="rope")
    video = dict(image_size=16, patch_size=8, frames=4, tubelet_size=2)
    with seeds.weights(0, "robot"):
        encoder = FrozenEncoder(VisionTransformer(**video, **sizes))
        predictor = ActionConditionedPredictor(D, (2, 2), **sizes)
        for parameter in predictor.parameters():  # foresees something else for every action
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return RobotWorldModel(encoder=encoder, predictor=predictor, controls=HAND_AND_GRIPPER)


def shown(seed=0):
    """An environment's observation, as numpy has it."""
    draws = np.random.default_rng(seed)
    images = draws.integers(256, size=(2, B, 16, 16, 3)).astype(np.uint8)
    pose = draws.uniform(0, 0.5, size=(B, 7))
    return {"observation": {"image": images[0], "pose": pose}, "desired_goal": {"image": images[1]}}


def tensors(given):
    """Image, pose and goal image."""
    image, pose = given["observation"].values()
    return map(torch.from_numpy, (image, pose.astype(np.float32), given["desired_goal"]["image"]))


def upper():
    """Random latents of all tokens, and random dynamics."""
    with seeds.weights(0, "upper"):
        embedding = LatentEmbedding(torch.ones(TOKENS * D), size=3, hidden=8)
        dynamics = ResidualMLP(Scales(torch.ones(3), torch.ones(2)), hidden=8)
        nn.init.normal_(dynamics.head.change.weight)
    return LatentWorldModel(embedding=embedding, dynamics=dynamics)


def test_the_newest_frame_is_all_that_is_known():
    world = tiny()
    model, (image, pose, _) = PresentFrame(world), tensors(shown())
    assert isinstance(model, WorldModel)
    assert not isinstance(model, Remembering)
    state = model.encode({"image": image, "pose": pose.double()})
    wanted = world.encode(RobotContext(frames=image[:, None], poses=pose[:, None]))
    assert set(state.keys()) == {"latent", "pose"} == set(wanted.keys())
    assert torch.equal(state["latent"], wanted["latent"])
    assert torch.equal(state["pose"], wanted["pose"])
    assert set(model.encode({"image": image}).keys()) == {"latent"}


def test_an_agent_plans_with_pictures_and_poses_and_encodes_a_goal_once():
    world, space, planner = tiny(), hand_and_gripper(), ICEM(horizon=2, samples=16, iterations=2)
    model, energy = PresentFrame(world), partial(GoalDistance, steps="last")
    agent = PlanningAgent(world_model=model, planner=planner, action_space=space, energy=energy)
    calls, encode = [], model.encode
    model.encode = lambda observation: calls.append(sorted(observation)) or encode(observation)
    action = agent.act(shown())
    image, pose, goal = tensors(shown())
    plan = planner.plan(
        world,
        world.encode(RobotContext(frames=image[:, None], poses=pose[:, None])),
        energy(world.goal(goal)),
        space,
        None,
        seeds.generator(0, "planning"),
    )
    assert np.array_equal(action, plan.actions[:, 0].numpy())
    agent.act(shown())
    assert calls == [["image", "pose"], ["image"], ["image", "pose"]]
    agent.act(shown(1))
    assert calls[3:] == [["image", "pose"], ["image"]]


@torch.no_grad()
def test_two_levels_over_tokens_are_measured_as_everything_computed_anew():
    world, above = tiny(), upper()
    planner, energy = ICEM(horizon=2, samples=16, iterations=2), partial(GoalDistance, steps="last")
    lowest = Level(
        world_model=PresentFrame(world),
        planner=planner,
        action_space=hand_and_gripper(),
        energy=energy,
    )
    highest = Level(world_model=above, planner=planner, action_space=macro_space(2), energy=energy)
    agent = HierarchicalAgent([lowest, highest])
    agent.act(shown())
    low, top = agent.thoughts
    image, pose, goal = tensors(shown())
    tokens, wanted = (normed(world.encoder(i.movedim(-1, 1))) for i in (image, goal))
    here, there = (above.embedding(t.reshape(B, -1)) for t in (tokens, wanted))

    latents = [here]
    for action in top.plan.actions.unbind(dim=1):
        latents.append(above.dynamics.step(above.dynamics.start(latents[-1]), action)["latent"])
    torch.testing.assert_close(top.plan.energy, apart(latents[-1], there))
    final = torch.stack([apart(latent, there) for latent in latents[1:]]).argmin(dim=0) == 0
    assert final.tolist() == low.final.tolist()
    assert set(low.final.tolist()) == {False, True}  # both are looked at

    frames, poses = tokens[:, None], pose[:, None]
    taken = torch.zeros(B, 2, 7).index_copy(2, torch.tensor(HAND_AND_GRIPPER), low.plan.actions)
    for step in (1, 2):  # the published way: the whole sequence again for every frame
        after = normed(world.predictor(frames, taken[:, :step], poses)[:, -1:])
        frames = torch.cat([frames, after], dim=1)
        poses = torch.cat([poses, moved(poses[:, -1], taken[:, step - 1])[:, None]], dim=1)
    end = frames[:, -1].flatten(1)
    subgoal = apart(above.embedding(end), latents[1])
    found = torch.where(final, apart(end, wanted.flatten(1)), subgoal)
    torch.testing.assert_close(low.plan.energy, found, atol=1e-4, rtol=1e-4)


def normed(tokens):
    return F.layer_norm(tokens, (D,))


def apart(one, other):
    return (one - other).norm(dim=1)
