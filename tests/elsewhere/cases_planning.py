"""World models, planners and agents on a device that is not the processor."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from alike import HERE, THERE, alike, drawn
from tensordict import TensorDict

from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_training import foresight_losses
from jepa.planning.ac_world import RobotContext, RobotWorldModel
from jepa.planning.agent import PlanningAgent
from jepa.planning.autonomous import AutonomousAgent
from jepa.planning.calibration import calibration
from jepa.planning.categorical_cem import CategoricalCEM
from jepa.planning.causal import CausalTransformer
from jepa.planning.cem import CEM
from jepa.planning.configurator import Configurator, Task
from jepa.planning.constraints import Constrained, StateConstraint
from jepa.planning.dynamics import LatentWorldModel, ResidualMLP, Scales
from jepa.planning.energies import ActionEffort, ActionSmoothness, GoalDistance
from jepa.planning.ensemble import Ensemble
from jepa.planning.evaluation import energy_landscape
from jepa.planning.gradient import GradientPlanner
from jepa.planning.heads import GaussianHead, OutcomesHead
from jepa.planning.hierarchy import HierarchicalAgent, Level
from jepa.planning.hybrid import Hybrid
from jepa.planning.icem import ICEM
from jepa.planning.intrinsic import Away, CostModule, Effort
from jepa.planning.joint import PLDM, JointTraining, LeWM
from jepa.planning.levels import SameLatent
from jepa.planning.memory import ShortTermMemory
from jepa.planning.mppi import MPPI
from jepa.planning.policy import GoalPolicy
from jepa.planning.protocols import ActionSpace
from jepa.planning.recurrent import GRU
from jepa.planning.second_order import SecondOrder
from jepa.planning.shooting import RandomShooting
from jepa.planning.uncertain import Expected, Uncertainty

B, D, A, H = 3, 4, 2, 4


def scales():
    return Scales(torch.linspace(0.5, 1.5, D), torch.linspace(1.0, 2.0, A))


DYNAMICS = {
    "mlp": partial(ResidualMLP, hidden=16),
    "gaussian": partial(ResidualMLP, hidden=16, head=GaussianHead),
    "outcomes": partial(ResidualMLP, hidden=16, head=partial(OutcomesHead, values=3)),
    "gru": partial(GRU, hidden=16),
    "transformer": partial(CausalTransformer, window=3, dim=16, depth=2, heads=2),
    "second": partial(SecondOrder, hidden=16),
}


def dynamics(kind, seed=0):
    torch.manual_seed(seed)
    made = DYNAMICS[kind](scales())
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


def ensemble(device, sampling="ts_inf", kind="gaussian"):
    """Of members that are there: TensorDictParams goes to accelerators that torch itself knows."""
    members = [dynamics(kind, seed).to(device) for seed in range(2)]
    return Ensemble(members, particles=3, sampling=sampling, seed=0)


WORLDS = {kind: lambda device, kind=kind: dynamics(kind).to(device) for kind in DYNAMICS} | {
    "ts_inf": ensemble,
    "ts1": partial(ensemble, sampling="ts1"),
    "ensemble_of_outcomes": partial(ensemble, kind="outcomes"),
}


@pytest.mark.parametrize("kind", WORLDS)
def test_foresight(kind):
    def foreseen(device):
        world = WORLDS[kind](device)
        latents, actions = drawn(B, H + 1, D).to(device), drawn(2, B, H, A, seed=1).to(device)
        state = world.observe(world.remember(latents, actions[0]), latents[:, 0])
        forced = world.follow(latents[:, :-1], actions[0])
        return world.rollout(state, actions)["latent"], forced["latent"]

    alike(foreseen)


SEARCH = dict(horizon=H, samples=16, iterations=3)


PLANNERS = {
    "shooting": RandomShooting(horizon=H, samples=16),
    "cem": CEM(**SEARCH, elites=4),
    "coloured_cem": CEM(**SEARCH, elites=4, correlation=0.5, chunk=20),
    "icem": ICEM(**SEARCH, elites=4, decay=1.25),
    "mppi": MPPI(**SEARCH),
    "gradient": GradientPlanner(horizon=H, restarts=2, iterations=3),
}


PLANNERS["hybrid"] = Hybrid(first=PLANNERS["icem"], then=PLANNERS["gradient"])


PLANNERS["constrained"] = Constrained(
    planner=PLANNERS["icem"],
    constraints=[StateConstraint(excess=lambda states: states["latent"][..., 0] - 0.3)],
    rounds=2,
)


def box(device):
    return ActionSpace(-torch.ones(A, device=device), torch.ones(A, device=device))


def goal(device):
    return TensorDict({"latent": drawn(B, D, seed=2).to(device)}, batch_size=[B])


def searched(planner, world, energy, device, space=None, several=False):
    """Two plans, the second one from the first."""
    world = LatentWorldModel(embedding=SameLatent(D), dynamics=world)
    state, space = world.encode(drawn(B, D, seed=1).to(device)), space or box(device)
    draws = [torch.Generator(device=device).manual_seed(seed) for seed in range(B)]
    draws = draws if several else draws[0]
    first = planner.plan(world, state, energy, space, None, draws)
    second = planner.plan(world, state, energy, space, first.later(keep_std=True), draws)
    landscape = energy_landscape(world, state, energy, second.actions, space, 3)
    return first.actions, second.actions, second.energy, second.diagnostics, landscape


@pytest.mark.parametrize("several", [False, True], ids=["one_generator", "each_its_own"])
@pytest.mark.parametrize("name", PLANNERS)
def test_planners(name, several):
    def work(device):
        energy = 0.7 * GoalDistance(goal(device), steps="all", discount=0.9) + 0.1 * ActionEffort()
        return searched(PLANNERS[name], WORLDS["mlp"](device), energy, device, several=several)

    alike(work)


@pytest.mark.parametrize("kind", WORLDS)
def test_planning_with_every_world(kind):
    def work(device):
        energy = GoalDistance(goal(device), steps="closest")
        if kind.startswith(("ts", "ensemble")):
            energy = Expected(energy) + 0.1 * Uncertainty()
        energy = energy + 0.1 * ActionEffort()  # what follows the closest step would not matter
        return searched(PLANNERS["icem"], WORLDS[kind](device), energy, device)

    alike(work)


def test_discrete_actions():
    def work(device):
        space = ActionSpace.one_of(A)
        space = ActionSpace(space.low.to(device), space.high.to(device), discrete=True)
        planner = CategoricalCEM(horizon=H, samples=16, iterations=2)
        energy = GoalDistance(goal(device))
        return searched(planner, WORLDS["mlp"](device), energy, device, space)

    alike(work)


def seen(seed=3):
    """What an environment of latents shows."""
    here, wanted = drawn(2, B, D, seed=seed).numpy()
    return {"observation": here, "desired_goal": wanted}


def world(device):
    return LatentWorldModel(embedding=SameLatent(D), dynamics=dynamics("mlp")).to(device)


def planning(device):
    return PlanningAgent(
        world_model=world(device),
        planner=PLANNERS["icem"],
        energy=GoalDistance,
        action_space=box(device),
    )


def hierarchical(device):
    levels = [
        Level(
            world_model=world(device),
            planner=PLANNERS["icem"],
            action_space=box(device),
            energy=GoalDistance,
            rhythm=rhythm,
        )
        for rhythm in (1, 2)
    ]
    return HierarchicalAgent(levels)


def autonomous(device, mode="plan"):
    terms = {"goal": partial(Away, width=1.0), "effort": lambda goal: Effort()}
    torch.manual_seed(0)
    policy = GoalPolicy(torch.ones(D, device=device), box(device), hidden=8).to(device)
    return AutonomousAgent(
        configurator=Configurator(
            weights={"goal": 1.0, "effort": 0.1}, planner=PLANNERS["icem"], policy=policy
        ),
        cost=CostModule(terms=terms, discount=0.9),
        memory=ShortTermMemory(50, device=device),
        task=Task(mode=mode),
        world_model=world(device),
        action_space=box(device),
    )


AGENTS = {
    "planning": planning,
    "hierarchical": hierarchical,
    "autonomous": autonomous,
    "reacting": partial(autonomous, mode="react"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_agents_are_shown_arrays_and_give_arrays(name):
    def acted(device):
        agent = AGENTS[name](device)
        return np.stack([agent.act(seen(seed)) for seed in range(3)])

    np.testing.assert_allclose(acted(HERE), acted(THERE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["planning", "hierarchical"])
def test_agents_go_on_with_some_environments(name):
    def acted(device):
        agent, some = AGENTS[name](device), np.array([True, False, True])
        agent.act(seen())
        agent.keep(some)
        return agent.act({key: array[some] for key, array in seen().items()})

    np.testing.assert_allclose(acted(HERE), acted(THERE), rtol=1e-4, atol=1e-4)


def robot(device):
    torch.manual_seed(0)
    sizes = dict(dim=24, depth=2, heads=2, positions="rope")
    encoder = VisionTransformer(image_size=16, patch_size=8, frames=4, tubelet_size=2, **sizes)
    predictor = ActionConditionedPredictor(24, (2, 2), use_extrinsics=True, **sizes)
    return RobotWorldModel(encoder=FrozenEncoder(encoder), predictor=predictor).to(device)


@pytest.mark.parametrize("frames", [1, 3])
def test_robots(frames):
    def foreseen(device):
        context = RobotContext(
            frames=drawn(B, frames, 16, 16, 3).to(device),
            poses=drawn(B, frames, 7, seed=1).to(device),
            actions=None if frames == 1 else drawn(B, frames - 1, 7, seed=2).to(device),
            extrinsics=drawn(B, 6, seed=3).to(device),
        )
        model = robot(device)
        with torch.no_grad():
            state = model.encode(context)
            states = model.rollout(state, 0.1 * drawn(2, B, 2, 7, seed=4).to(device))
            return states["latent"], states["pose"], model.step(state, context.poses[:, 0])["pose"]

    alike(foreseen)


def test_robots_learn():
    def losses(device):
        tokens, given = drawn(B, 4, 4, 24).to(device), drawn(B, 4, 20, seed=1).to(device)
        actions, poses, camera = given.split([7, 7, 6], dim=-1)
        predictor = robot(device).predictor.requires_grad_()
        found = foresight_losses(predictor, tokens, actions[:, :3], poses, camera)
        sum(found.values()).backward()
        return found, [p.grad for p in predictor.parameters() if p.grad is not None]

    alike(losses, close=1e-3)


@pytest.mark.parametrize("terms", [PLDM, LeWM])
def test_latents_learn_beside_their_dynamics(terms):
    def losses(device):
        torch.manual_seed(0)
        training = JointTraining(
            SameLatent(D), dynamics("mlp"), terms(D, torch.ones(A)), learning_rate=1e-3
        ).to(device)
        return training.losses(drawn(8, H + 1, D).to(device), drawn(8, H, A, seed=1).to(device))

    alike(losses)


def test_energies_of_actions():
    def energies(device):
        actions = drawn(2, B, H, A).to(device)
        smooth = ActionSmoothness(last=drawn(B, A, seed=1).to(device))
        return (smooth + ActionEffort())(TensorDict({}, batch_size=[2, B, H]), actions)

    alike(energies)


def test_calibration():
    def scores(device):
        states = ensemble(device)
        states = states.rollout(states.start(drawn(9, D).to(device)), drawn(9, H, A).to(device))
        found = calibration(states, drawn(9, H, D, seed=1).to(device))
        return [
            getattr(found, name).float().to(device) for name in ("rmse", "nll", "crps", "coverage")
        ]

    alike(scores)
