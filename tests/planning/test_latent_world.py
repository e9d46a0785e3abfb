"""From frames to control: projection, dynamics, agent, evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as lightning
import scipy.fft
import torch
from sklearn.linear_model import LinearRegression
from tensordict import TensorDict
from torch.utils.data import DataLoader

from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.planning.agent import PlanningAgent, RandomAgent, action_space_of
from jepa.planning.cem import CEM
from jepa.planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from jepa.planning.embedding import FrozenEmbedding, features_of
from jepa.planning.energies import GoalDistance
from jepa.planning.evaluation import energy_landscape, evaluate, record
from jepa.planning.oracle import TrueDynamics, WayToGoal
from jepa.planning.projection import SlowFeatures, cosines
from jepa.planning.readout import LinearReadout, distance_correlation
from jepa.planning.recurrent import GRU
from jepa.planning.training import DynamicsTraining
from jepa.planning.two_rooms_env import TrueState, TwoRoomsVectorEnv


def tiny_encoder():
    torch.manual_seed(0)
    sizes = dict(image_size=64, patch_size=16, channels=3, dim=12, depth=1, heads=1)
    return FrozenEncoder(VisionTransformer(**sizes), mean=(0.1,) * 3, std=(0.2,) * 3)


def tiny_model():
    frames = torch.randint(0, 255, (4, 9, 64, 64, 3), dtype=torch.uint8)
    embedding, latents = fitted(frames)
    scales = Scales(latents.flatten(0, 1).std(dim=0), torch.ones(2))
    return LatentWorldModel(embedding=embedding, dynamics=ResidualMLP(scales, hidden=16))


def fitted(frames):
    """Slow features of frames [E, T, H, W, C], and their latents."""
    projection = SlowFeatures(components=3, frequencies=2, principal=10)
    embedding = FrozenEmbedding(tiny_encoder(), projection)
    pooled = features_of(embedding, frames.flatten(0, 1), batch=7).unflatten(0, frames.shape[:2])
    projection.fit(pooled)
    return embedding, projection.latent(pooled)


def test_cosines_are_the_orthonormal_dct():
    wanted = scipy.fft.dct(np.eye(8), type=2, norm="ortho", axis=0)[:5]
    assert np.allclose(cosines(8, 5).numpy(), wanted, atol=1e-6)


def test_slow_features_recover_slow_sources():
    """Known sources of known speeds in a random mixture come back, slowest first."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(3000.0)
    sources = torch.stack([torch.sin(t * 2 * torch.pi / period) for period in (500, 130, 30, 9)], 1)
    sources = torch.cat([sources, 0.7 * torch.randn(3000, 8, generator=generator)], dim=1)
    mixed = sources @ torch.randn(12, 12, generator=generator)
    found = SlowFeatures(components=3, frequencies=1, principal=12).fit(mixed[None])
    latents = (mixed - found.mean) @ found.basis
    match = torch.corrcoef(torch.cat([latents, sources[:, :3]], dim=1).T)[:3, 3:].abs()
    assert (match.diagonal() > 0.99).all()
    assert latents.square().sum(1).mean().item() == pytest.approx(1.0, rel=1e-2)
    assert torch.allclose(latents.std(0), found.spread, rtol=2e-2)
    changes = (latents / found.spread).diff(dim=0).square().mean(0)
    assert torch.allclose(changes, found.slowness, rtol=2e-2)
    travel = found.spread**2 * found.slowness
    assert torch.allclose(travel, travel[:1].expand(3), rtol=1e-4)


def test_fitting_returns_the_latents_that_the_model_encodes():
    frames = torch.randint(0, 255, (4, 9, 64, 64, 3), dtype=torch.uint8)
    embedding, latents = fitted(frames)
    scales = Scales(torch.ones(3), torch.ones(2))
    model = LatentWorldModel(embedding=embedding, dynamics=ResidualMLP(scales, hidden=16))
    again = model.encode(frames.flatten(0, 1))["latent"]
    assert torch.allclose(again, latents.flatten(0, 1), atol=1e-4)


def test_projection_errors_say_what_to_do():
    projection = SlowFeatures(components=3, frequencies=5, principal=10)
    with pytest.raises(ValueError, match="do not fit the patch grid"):
        projection.pool(torch.zeros(2, 16, 4), (4, 4))
    with pytest.raises(RuntimeError, match="not fitted"):
        projection.latent(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="as many frames"):
        projection.fit(torch.zeros(1, 5, 20))


def test_rollout_is_repeated_steps_and_leaves_gradients_to_the_actions():
    model, actions = tiny_model(), torch.randn(2, 4, 2, requires_grad=True)
    start = TensorDict({"latent": torch.randn(2, 3)}, batch_size=[2])
    states, state = model.rollout(start, actions), start
    assert states.batch_size == (2, 4)
    for t in range(4):
        state = model.step(state, actions[:, t])
        assert torch.allclose(states["latent"][:, t], state["latent"])
    (slope,) = torch.autograd.grad(states["latent"][:, -1].sum(), actions)
    assert (slope != 0).any(dim=2).all()


def test_training_learns_linear_dynamics_and_leaves_the_encoder():
    model, generator = tiny_model(), torch.Generator().manual_seed(0)
    push = torch.tensor([[0.3, 0.1, 0.0], [0.0, -0.2, 0.3]])
    actions = torch.randn(1000, 4, 2, generator=generator)
    start = torch.randn(1000, 1, 3, generator=generator)
    path = torch.cat([start, start + (actions @ push).cumsum(1)], dim=1)
    rows = [{"observations": z, "actions": a} for z, a in zip(path, actions, strict=True)]
    training = DynamicsTraining(model.dynamics, learning_rate=2e-2)
    before, old = training.errors(path, actions), model.embedding.encoder.fingerprint()
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(training, DataLoader(rows, batch_size=50))
    after = training.errors(path, actions)
    assert (after < 0.1 * before).all()
    assert model.embedding.encoder.fingerprint() == old


def oracle_agent(env, **numbers):
    return PlanningAgent(
        world_model=TrueDynamics(rooms=env.unwrapped.rooms, repeat=4),
        planner=CEM(horizon=12, samples=64, iterations=3, elites=8, correlation=0.8, **numbers),
        action_space=action_space_of(env.single_action_space),
        energy=WayToGoal,
        repeat=4,
    )


def test_the_oracle_goes_through_the_door_and_a_random_policy_does_not():
    env = TrueState(TwoRoomsVectorEnv(10))
    space = action_space_of(env.single_action_space)
    oracle = evaluate(oracle_agent(env), env, max_steps=100, seed=0)
    chance = evaluate(RandomAgent(action_space=space, repeat=4), env, max_steps=100, seed=0)
    assert oracle.episodes == chance.episodes == 10
    assert oracle.rate >= 0.9
    assert chance.rate <= 0.2
    assert (oracle.first["position"] == chance.first["position"]).all()
    assert (oracle.last["distance"][oracle.success] <= 3.0).all()
    few, again = (evaluate(oracle_agent(env), env, max_steps=8, seed=0) for _ in range(2))
    assert (few.last["position"] == again.last["position"]).all()
    assert (few.cost.plans, few.cost.transitions) == (2 * 10, 2 * 10 * (64 * 3 + 1) * 12)
    assert 0 < few.cost.seconds < 60
    assert chance.cost.plans == chance.cost.transitions == 0
    assert (oracle.returns == oracle.success).all()
    assert oracle.counted.all()


def test_starts_at_the_goal_are_excluded_and_counted():
    env = TrueState(TwoRoomsVectorEnv(30, radius=30.0))
    space = action_space_of(env.single_action_space)
    found = evaluate(RandomAgent(action_space=space), env, max_steps=3, seed=0)
    distance = np.linalg.norm(found.first["position"] - found.first["goal_position"], axis=1)
    assert 0 < found.excluded == (distance <= 30).sum() < 30
    assert found.episodes == 30 - found.excluded


def test_a_decision_is_held_and_the_next_plan_starts_from_the_last():
    env = TrueState(TwoRoomsVectorEnv(2))
    observation, _ = env.reset(seed=0)
    agent = oracle_agent(env)
    with pytest.raises(RuntimeError, match="no plan yet"):
        _ = agent.plan
    held = [agent.act(observation) for _ in range(5)]
    assert all((action == held[0]).all() for action in held[:4])
    assert (held[4] != held[0]).any()


def test_the_agent_tells_a_model_that_remembers_what_was_done_and_what_came_of_it():
    """The state of each decision is that of the whole history, and the plan starts from it."""
    env, model = TwoRoomsVectorEnv(2), tiny_model()
    torch.manual_seed(0)
    scales = Scales(torch.ones(3), torch.ones(2))
    model = LatentWorldModel(embedding=model.embedding, dynamics=GRU(scales, hidden=8))
    agent = PlanningAgent(
        world_model=model,
        planner=CEM(horizon=3, samples=8, iterations=1, elites=2),
        action_space=action_space_of(env.single_action_space),
        energy=GoalDistance,
        repeat=2,
    )
    observation, _ = env.reset(seed=0)
    frames, actions = [], []
    for step in range(6):
        action = agent.act(observation)
        if step % 2 == 0:
            frames.append(torch.as_tensor(observation["observation"]))
            actions.append(torch.as_tensor(action))
        observation, *_ = env.step(action)
    state, plan = agent.decision
    latents = torch.stack([model.encode(frame)["latent"] for frame in frames], dim=1)
    after = model.dynamics.follow(latents, torch.stack(actions, dim=1))["latent"][:, -1]
    assert torch.allclose(state["latent"], latents[:, -1], atol=1e-5)
    assert torch.allclose(model.rollout(state, plan.actions)["latent"][:, 0], after, atol=1e-5)
    alone = model.rollout(model.encode(frames[-1]), plan.actions)["latent"][:, 0]
    assert not torch.allclose(alone, after, atol=1e-4)
    assert torch.equal(
        agent.imagined()["latent"][:, 0], model.rollout(state, plan.actions)["latent"][:, 0]
    )
    agent.reset()
    agent.act(observation)
    assert (agent.decision[0]["memory"] == 0).all()


def test_a_goal_is_encoded_once_until_it_changes():
    env = TwoRoomsVectorEnv(2)
    agent, encoded = oracle_agent(TrueState(env)), []
    env = TrueState(env)
    model = agent.world_model
    agent.world_model = SimpleNamespace(
        encode=lambda seen: encoded.append(seen.clone()) or model.encode(seen),
        step=model.step,
        rollout=model.rollout,
    )
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        for _ in range(4):
            agent.act(observation)
    assert len(encoded) == 3 + 1
    other, _ = env.reset(seed=1)
    observation["desired_goal"][:] = other["desired_goal"]  # in place, as environments may
    for _ in range(4):
        agent.act(observation)
    assert len(encoded) == 3 + 1 + 2
    assert torch.equal(encoded[-1], torch.as_tensor(other["desired_goal"]))


def test_recording_and_landscape_have_the_stated_shapes():
    env = TwoRoomsVectorEnv(2)
    model, space = tiny_model(), action_space_of(env.single_action_space)
    agent = PlanningAgent(
        world_model=model,
        planner=CEM(horizon=3, samples=8, iterations=1, elites=2),
        action_space=space,
        energy=GoalDistance,
        repeat=4,
    )
    tape = record(agent, env, max_steps=12, seed=0, episode=1)
    assert tape.frames.shape == (4, 64, 64, 3)
    assert tape.positions.shape == (4, 2)
    assert tape.imagined["latent"].shape == (3, 3, 3)
    observation, _ = env.reset(seed=0)
    state = model.encode(torch.as_tensor(observation["observation"]))
    goal = GoalDistance(model.encode(torch.as_tensor(observation["desired_goal"])))
    actions = agent.plan.actions
    landscape = energy_landscape(model, state, goal, actions, space, resolution=5)
    assert landscape.shape == (2, 5, 5)
    actions = actions.clone()
    actions[:, 0] = torch.tensor([-1.0, 0.5]) * space.high
    wanted = goal(model.rollout(state, actions), actions)
    assert torch.allclose(landscape[:, 3, 0], wanted, atol=1e-5)


def test_readout_is_least_squares_and_distances_correlate():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(300, 5, generator=generator)
    truth = latents[:, :2] * 3 + torch.randn(300, 2, generator=generator) + 7
    readout = LinearReadout.fit(latents, truth)
    reference = LinearRegression().fit(latents.numpy(), truth.numpy())
    wanted = torch.as_tensor(reference.predict(latents.numpy()), dtype=torch.float32)
    assert torch.allclose(readout(latents), wanted, atol=1e-3)
    assert 0.8 < readout.r2(latents, truth) < 1
    assert distance_correlation(latents, latents * 5, generator) == pytest.approx(1, abs=1e-5)


def test_the_way_to_the_goal_leads_through_the_door():
    def states(*points):
        rows = torch.tensor([[*point, 32.0, 20.0] for point in points])
        return TrueDynamics(rooms=TwoRoomsVectorEnv(1).rooms).encode(rows)

    energy = WayToGoal(states((50.0, 20.0)))
    for point, wanted in (
        ((32.0, 20.0), 18),
        ((50.0, 44.0), 24),
        ((14.0, 20.0), 36),
        ((25.0, 44.0), 43),
    ):
        found = energy(states(point).unsqueeze(1), torch.zeros(1, 1, 2))
        assert found.item() == pytest.approx(wanted)
