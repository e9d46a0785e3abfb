"""V-JEPA 2-AC as a world model: cached rollouts against recomputing everything."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from jepa.checkpoint import load_frozen_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.planning.ac_official import load_official_ac
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_world import (
    HAND_AND_GRIPPER,
    RobotContext,
    RobotWorldModel,
    hand_and_gripper,
)
from jepa.planning.cem import CEM
from jepa.planning.energies import GoalDistance
from jepa.planning.gradient import GradientPlanner
from jepa.planning.protocols import Remembering, WorldModel

CHECKPOINT = Path(__file__).parent.parent / "fixtures" / "vjepa2_ac_checkpoint.pt"
B = 2


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype)


def tiny(camera=False, controls=None):
    torch.manual_seed(0)
    sizes = dict(dim=24, depth=2, heads=2, positions="rope")
    video = dict(image_size=16, patch_size=8, frames=4, tubelet_size=2)
    encoder = FrozenEncoder(VisionTransformer(**video, **sizes))
    predictor = ActionConditionedPredictor(24, (2, 2), use_extrinsics=camera, **sizes)
    return RobotWorldModel(encoder=encoder, predictor=predictor, controls=controls).double()


def context(frames, camera=False, dtype=torch.float64, side=16):
    poses = draw(B, frames, 7, seed=1, dtype=dtype) - 0.5
    return RobotContext(
        frames=draw(B, frames, side, side, 3, dtype=dtype),
        poses=poses,
        actions=None if frames == 1 else draw(B, frames - 1, 7, seed=2, dtype=dtype) - 0.5,
        extrinsics=draw(B, 6, seed=3, dtype=dtype) if camera else None,
    )


def scipy_moved(poses, actions):
    """The poses after one action each, the published way."""
    old, change = poses.double().numpy(), actions.double().numpy()
    turned = Rotation.from_euler("xyz", change[:, 3:6]) * Rotation.from_euler("xyz", old[:, 3:6])
    gripper = np.clip(old[:, 6:] + change[:, 6:], 0, 1)
    new = [old[:, :3] + change[:, :3], turned.as_euler("xyz"), gripper]
    return torch.from_numpy(np.concatenate(new, axis=1)).to(poses)


def recomputed(world, given, actions):
    """Latents and poses [S, B, H, ...]: at each step the whole sequence of every plan anew."""
    plans, horizon = len(actions), actions.shape[2]

    def every_plan(x):
        return x.repeat(plans, *(1,) * (x.ndim - 1))

    frames = given.frames.flatten(0, 1).movedim(-1, 1)
    encoded = F.layer_norm(world.encoder(frames), (world.encoder.dim,))
    tokens, poses = (
        every_plan(encoded.unflatten(0, (len(given.poses), -1))),
        every_plan(given.poses),
    )
    taken = poses[:, :0] if given.actions is None else every_plan(given.actions)
    for action in actions.flatten(0, 1).unbind(dim=1):
        taken = torch.cat([taken, action[:, None]], dim=1)
        camera = None
        if given.extrinsics is not None:
            camera = every_plan(given.extrinsics)[:, None].expand(-1, poses.shape[1], -1)
        after = world.predictor(tokens, taken, poses, camera)[:, -1:]
        tokens = torch.cat([tokens, F.layer_norm(after, after.shape[-1:])], dim=1)
        poses = torch.cat([poses, scipy_moved(poses[:, -1], action)[:, None]], dim=1)
    return (x[:, -horizon:].unflatten(0, (plans, -1)) for x in (tokens, poses))


@torch.no_grad()
@pytest.mark.parametrize("camera", [False, True])
@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_rollouts_are_what_recomputing_everything_gives(frames, horizon, camera):
    world, given = tiny(camera), context(frames, camera)
    actions = draw(3, B, horizon, 7, seed=4) - 0.5
    states = world.rollout(world.encode(given), actions)
    latents, poses = recomputed(world, given, actions)
    assert states.batch_size == (3, B, horizon)
    torch.testing.assert_close(states["pose"], poses, atol=1e-12, rtol=0)
    torch.testing.assert_close(states["latent"], latents, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3])
def test_one_plan_an_environment_and_repeated_steps(frames):
    world = tiny(camera=True)
    assert isinstance(world, WorldModel)
    state, actions = world.encode(context(frames, camera=True)), draw(B, 3, 7, seed=4) - 0.5
    states = world.rollout(state, actions)
    assert states.batch_size == (B, 3)
    several = world.rollout(state, actions.expand(2, 3, -1, -1, -1))
    for t in range(3):
        state = world.step(state, actions[:, t])
        for key in ("latent", "pose"):
            torch.testing.assert_close(states[key][:, t], state[key], atol=1e-12, rtol=0)
            torch.testing.assert_close(several[key][1, 2], states[key], atol=1e-12, rtol=0)


def official():
    return RobotWorldModel(
        encoder=load_frozen_encoder(CHECKPOINT, heads=2),
        predictor=load_official_ac(CHECKPOINT, heads=2, grid=(4, 4)),
        controls=HAND_AND_GRIPPER,
    )


class Recorded(GoalDistance):
    """Remembers what it was asked and what it said."""

    def __call__(self, states, actions):
        energies = super().__call__(states, actions)
        self.seen = [*getattr(self, "seen", []), (actions, energies)]
        return energies


@torch.no_grad()
def test_the_published_planner_sees_the_energies_of_recomputing_everything():
    """400 samples, 10 iterations, horizon 2; 21 candidates of every iteration and the plan."""
    world = tiny(controls=HAND_AND_GRIPPER).float()
    given = context(3, dtype=torch.float32)
    goal = world.goal(draw(B, 16, 16, 3, seed=5, dtype=torch.float32))
    energy = Recorded(goal, norm="mean_l1")
    planner = CEM(horizon=2, samples=400, iterations=10, elites=10)
    generator = torch.Generator().manual_seed(0)
    plan = planner.plan(world, world.encode(given), energy, hand_and_gripper(), None, generator)
    assert [len(actions) for actions, _ in energy.seen] == [*[400] * 10, 1]  # at last the mean
    some = [*((a[::20], e[::20]) for a, e in energy.seen), (plan.actions[None], plan.energy[None])]
    actions, energies = (torch.cat(parts) for parts in zip(*some, strict=True))
    whole = actions.new_zeros(*actions.shape[:-1], 7)
    whole[..., HAND_AND_GRIPPER] = actions
    latents, _ = recomputed(world, given, whole)
    wanted = (latents[:, :, -1] - goal["latent"]).abs().mean(dim=(2, 3))
    torch.testing.assert_close(energies, wanted, atol=1e-4, rtol=0)
    assert (plan.energy < energy.seen[0][1].median(dim=0).values).all()


def test_only_the_controls_are_planned():
    world, free = tiny(controls=HAND_AND_GRIPPER), tiny()
    actions = draw(3, B, 2, 4, seed=4) - 0.5
    whole = torch.zeros(3, B, 2, 7, dtype=torch.float64)
    whole[..., [0, 1, 2, 6]] = actions
    state = world.encode(context(2))
    found, wanted = world.rollout(state, actions), free.rollout(state, whole)
    for key in ("latent", "pose"):
        assert torch.equal(found[key], wanted[key])


def test_gradients_reach_every_action_and_are_right():
    world, state = tiny(), tiny().encode(context(2))
    actions = (draw(2, B, 2, 7, seed=4) - 0.5).requires_grad_()

    def energy(actions):
        return world.rollout(state, actions)["latent"].abs().mean(dim=(-2, -1)).sum(dim=-1)

    assert torch.autograd.gradcheck(energy, (actions,), fast_mode=True)
    (slope,) = torch.autograd.grad(energy(actions).sum(), actions)
    assert (slope != 0).any(dim=-1).all()


def test_the_gradient_planner_descends():
    world, given = official(), context(2, dtype=torch.float32, side=32)
    state = world.encode(given)
    goal = world.rollout(state, torch.full((B, 2, 4), 0.04))[:, -1]
    plan = GradientPlanner(horizon=2, restarts=2, iterations=15).plan(
        world,
        state,
        GoalDistance(goal, norm="mean_l1"),
        hand_and_gripper(),
        None,
        torch.Generator().manual_seed(0),
    )
    trace = plan.diagnostics["energy"]
    assert (trace[-1] < 0.5 * trace[0]).all()


def test_contexts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 frames have 2 poses and 1 actions between them"):
        RobotContext(frames=draw(B, 2, 16, 16, 3), poses=draw(B, 2, 7))
    with pytest.raises(ValueError, match="got 1 poses and 1 actions"):
        RobotContext(frames=draw(B, 1, 16, 16, 3), poses=draw(B, 1, 7), actions=draw(B, 1, 7))
    narrow = ActionConditionedPredictor(24, (2, 2), actions=2, dim=24, depth=1, heads=2)
    with pytest.raises(ValueError, match="7 components"):
        RobotWorldModel(encoder=tiny().encoder, predictor=narrow)


@pytest.mark.parametrize("camera", [False, True])
def test_observing_frame_by_frame_is_encoding_them_all(camera):
    world, whole = tiny(camera), context(3, camera)
    assert isinstance(world, Remembering)

    def part(first, last):
        return RobotContext(
            frames=whole.frames[:, first:last],
            poses=whole.poses[:, first:last],
            extrinsics=whole.extrinsics,
        )

    state = world.encode(part(0, 1))
    for frame in (1, 2):
        state = world.observe(state, whole.actions[:, frame - 1], part(frame, frame + 1))
    at_once = world.encode(whole)
    assert set(state.keys()) == set(at_once.keys())
    for name, entry in at_once.items():
        assert torch.allclose(state[name], entry, atol=1e-10), name
    actions = draw(3, B, 2, 7, seed=5) - 0.5
    assert torch.allclose(
        world.rollout(state, actions)["latent"], world.rollout(at_once, actions)["latent"]
    )
    with pytest.raises(ValueError, match="one new frame is observed"):
        world.observe(state, whole.actions[:, 0], whole)
