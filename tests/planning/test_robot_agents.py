"""Agents over V-JEPA 2-AC's world model: what a camera shows is planned with, on two levels too."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepa import seeds
from jepa.datasets.trajectories import EpisodeArrays
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_training import foresight_losses
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
from jepa.planning.protocols import ActionSpace, Remembering, WorldModel
from jepa.recipes.hardware import Hardware
from jepa.recipes.levels import Upper, learn_level
from jepa.recipes.rooms import approach

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
    for wrong, told in (({"pixels": image, "pose": pose}, "'pixels', 'pose'"), (image, "Tensor")):
        with pytest.raises(ValueError, match=f"with `image` and `pose`; got .*{told}"):
            PresentFrame.encode.__wrapped__(model, wrong)


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
    again = shown(1)
    again["desired_goal"]["pose"] = np.zeros((B, 7))  # the same picture, but not the same goal
    agent.act(again)
    assert calls[5:] == [["image", "pose"], ["image", "pose"]]


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


MOST = 0.06  # m per decision and axis
SIDE = 16  # px


def table(places):
    """Images of a hand that is a spot at these places, in m, of a table of 1 m x 1 m."""
    lines = torch.arange(SIDE) - 1.5 - 12 * places[..., None]
    left, top = torch.exp(-lines.square() / 2 / 0.8**2).unbind(-2)
    image = (255 * top[..., :, None] * left[..., None, :]).to(torch.uint8)
    return image[..., None].expand(*image.shape, 3)


def still(places):
    """Poses, or actions, of a hand that only moves in the plane."""
    return torch.cat([places, places.new_zeros(*places.shape[:-1], 5)], dim=-1)


def walks(episodes, decisions, generator):
    """Places [E, T + 1, 2] of random walks, and the actions between."""
    places, noise = [torch.rand(episodes, 2, generator=generator)], torch.zeros(episodes, 2)
    for _ in range(decisions):
        noise = 0.9 * noise + 0.44 * torch.randn(episodes, 2, generator=generator)
        move = MOST * torch.erf(noise / 2**0.5)
        places.append((places[-1] + move).clamp(0, 1))
    every = torch.stack(places, dim=1)
    return every, every.diff(dim=1)


def learnt(world, tokens, actions, poses, generator, steps=2500):
    """Trains the predictor of the world on windows of four frames."""
    predictor = world.predictor.requires_grad_(True)
    adam = torch.optim.AdamW(predictor.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    for _ in range(steps):
        episodes = torch.randint(len(tokens), (64, 1), generator=generator)
        first = torch.randint(actions.shape[1] - 3, (64, 1), generator=generator)
        frames = first + torch.arange(4)
        taken = actions[episodes, frames[:, :3]]
        losses = foresight_losses(
            predictor, tokens[episodes, frames], taken, poses[episodes, frames]
        )
        adam.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        adam.step()
        schedule.step()
    predictor.requires_grad_(False)


@pytest.mark.slow
def test_two_levels_over_tokens_reach_what_one_level_does_not_see(tmp_path):
    """A hand is moved by at most 6 cm, goals are 60 cm away: where the spots are in other patches,
    tokens are as different as can be, and say nothing of the way. Level 2 learns the way."""
    generator = seeds.generator(0, "table")
    with seeds.weights(0, "table"):
        vit = VisionTransformer(
            image_size=SIDE, patch_size=8, frames=2, tubelet_size=2, dim=D, depth=1, heads=2
        )
        predictor = ActionConditionedPredictor(D, (2, 2), dim=64, depth=2, heads=2)
    world = RobotWorldModel(encoder=FrozenEncoder(vit), predictor=predictor, controls=(0, 1))
    places, actions = walks(400, 48, generator)
    tokens = torch.cat([world.tokens(table(some)) for some in places.split(50)])
    learnt(world, tokens, still(actions), still(places), generator)

    fields = {"observations": tokens.flatten(2), "actions": actions}
    below = EpisodeArrays(
        np.full(400, 48), {name: part.flatten(0, 1).numpy() for name, part in fields.items()}
    )
    upper = Upper(
        stride=6, size=4, macro=2, hidden=64, steps=1000, batch_size=128, learning_rate=3e-3
    )
    hardware = Hardware(accelerator="cpu", precision="float32", threads=1)
    above, _ = learn_level(tmp_path, 2, below, upper, hardware, 0)

    space, near = (
        ActionSpace(torch.full((2,), -MOST), torch.full((2,), MOST)),
        partial(approach, haste=0.05),
    )
    few, many = (ICEM(horizon=h, samples=n, iterations=2) for h, n in ((6, 32), (8, 48)))
    lowest = Level(world_model=PresentFrame(world), planner=few, action_space=space, energy=near)
    highest = Level(
        world_model=above,
        planner=ICEM(horizon=4, samples=64, iterations=3, beta=0.5),
        action_space=macro_space(2),
        energy=partial(approach, haste=1.0),
        rhythm=2,
    )
    flat = PlanningAgent(
        world_model=PresentFrame(world), planner=many, action_space=space, energy=near
    )
    reached, alone = (arrived(agent) for agent in (HierarchicalAgent([lowest, highest]), flat))
    print(f"two levels {reached:.2f}, flat {alone:.2f}")
    assert reached >= 0.5
    assert alone <= 0.15


def arrived(agent, count=16, decisions=24):
    """Share of goals, 60 cm away or more, to which the hand came within 10 cm."""
    draws = torch.rand(2, 200, 2, generator=seeds.generator(1, "pairs"))
    far = (draws[0] - draws[1]).norm(dim=1) > 0.6
    here, goal = draws[:, far][:, :count]
    closest = torch.full((count,), torch.inf)
    for _ in range(decisions):
        seen = {"image": table(here).numpy(), "pose": still(here).numpy()}
        wanted = {"image": table(goal).numpy()}
        moved_by = agent.act({"observation": seen, "desired_goal": wanted})
        here = (here + torch.from_numpy(moved_by)).clamp(0, 1)
        closest = torch.minimum(closest, (here - goal).norm(dim=1))
    return float((closest < 0.1).float().mean())


def normed(tokens):
    return F.layer_norm(tokens, (D,))


def apart(one, other):
    return (one - other).norm(dim=1)
