"""What learns, plans and measures, on a device that is not the processor: it says the same there.

Run by test_elsewhere.py in a process of its own, as torch cannot forget a device.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import accelerator
import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from tensordict import TensorDict

from jepa import diagnostics
from jepa.byol import BYOL
from jepa.checkpoint import save_encoder
from jepa.datasets.augmented_views import ViewBatch, ViewBatches
from jepa.dense import Dense, DenseJEPA
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder, Normalize, device_of
from jepa.losses import VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.masks_video import CausalMasks, MaskGroups, RandomTubeMasks, TubeBlockMasks
from jepa.model import JEPA
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
from jepa.planning.levels import LatentEmbedding, SameLatent
from jepa.planning.memory import ShortTermMemory
from jepa.planning.mppi import MPPI
from jepa.planning.policy import GoalPolicy
from jepa.planning.projection import SlowFeatures
from jepa.planning.protocols import ActionSpace
from jepa.planning.readout import LinearReadout
from jepa.planning.recurrent import GRU
from jepa.planning.second_order import SecondOrder
from jepa.planning.shooting import RandomShooting
from jepa.planning.uncertain import Expected, Uncertainty
from jepa.predictor import Predictor
from jepa.probes.attentive_probe import AttentiveProbe
from jepa.probes.dense import DenseProbe
from jepa.probes.features import extract
from jepa.probes.linear_sgd import LinearSGDProbe
from jepa.probes.mlp import MLPProbe
from jepa.recipes.cli import main
from jepa.recipes.fit import Hardware
from jepa.sigreg import LeJEPA
from jepa.supervised import Supervised
from jepa.training import Optimisation, Pretraining
from jepa.vicreg import VICReg

sys.path += [str(Path(__file__).parent.parent / room) for room in ("recipes", "datasets")]
import small_run
import test_agent
import test_augmented_views
import test_clip_road
import test_rooms
import test_task

HERE, THERE = torch.device("cpu"), accelerator.DEVICE
B, D, A, H = 3, 4, 2, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(found):
    """All tensors of it, in order."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, TensorDict):
        found = dict(sorted(found.items()))
    parts = found.values() if isinstance(found, dict) else found
    return [tensor for part in parts for tensor in numbers(part)]


def alike(work, close=1e-4):
    """work(device) stays on its device, and finds the same on both."""
    here, there = (numbers(work(device)) for device in (HERE, THERE))
    assert len(here) == len(there) > 0
    for one, other in zip(here, there, strict=True):
        assert other.device == THERE
        torch.testing.assert_close(other.cpu(), one, rtol=close, atol=close)


def images():
    torch.manual_seed(0)
    return VisionTransformer(image_size=32, patch_size=4, channels=3, dim=24, depth=2, heads=2)


def clips(positions):
    torch.manual_seed(0)
    sizes = dict(image_size=16, patch_size=4, channels=3, frames=4, tubelet_size=2)
    return VisionTransformer(**sizes, positions=positions, dim=24, depth=3, heads=2)


def foreseeing(width, grid, positions):
    sizes = dict(dim=24, depth=1, heads=2, mask_tokens=2)
    return Predictor(width, grid, positions=positions, **sizes)


TUBES = MaskGroups(groups=(TubeBlockMasks(blocks=2, scale=0.3), RandomTubeMasks()))
FUTURES = MaskGroups(groups=(TubeBlockMasks(blocks=2, scale=0.3), CausalMasks()))


def video(positions, masks):
    encoder = clips(positions)
    predictor = foreseeing(encoder.dim, encoder.native_grid, positions)
    return JEPA(encoder=encoder, predictor=predictor, distance="l1"), masks


def densely():
    predictor = partial(foreseeing, positions="rope")
    dense = Dense(blocks=(0, 1), first_step=0, last_step=1)
    return DenseJEPA(encoder=clips("rope"), predictor=predictor, dense=dense), TUBES


def pictures():
    encoder = images()
    predictor = Predictor(encoder.dim, encoder.native_grid, dim=24, depth=1, heads=2)
    terms = VarianceCovariance(variance=0.1, covariance=0.01)
    return JEPA(encoder=encoder, predictor=predictor, regulariser=terms), MultiBlockMasks()


OBJECTIVES = {
    "ijepa": pictures,
    "vjepa": lambda: video("sincos", FUTURES),
    "vjepa2": lambda: video("rope", TUBES),
    "vjepa2_legacy": lambda: video("rope_legacy", FUTURES),
    "vjepa21": densely,
    "vicreg": lambda: (VICReg(images(), projector=(8,)), None),
    "byol": lambda: (BYOL(images()), None),
    "lejepa": lambda: (LeJEPA(images(), projector=(8,), directions=5), None),
    "supervised": lambda: (Supervised(images(), classes=3), None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_learning(name):
    def step(device):
        torch.manual_seed(0)
        model, masks = OBJECTIVES[name]()
        grey = Normalize((0.5,) * 3, (0.2,) * 3)
        learning = Pretraining(
            model=model, masks=masks, normalize=grey, optimisation=Optimisation(steps=9)
        ).to(device)
        shape = (4, 3, 4, 16, 16) if name.startswith("vjepa") else (4, 3, 32, 32)
        pixels = (128 + 40 * drawn(*shape)).clamp(0, 255).byte().to(device)
        batch = SimpleNamespace(
            images=pixels,
            views=torch.stack([pixels, pixels.flip(-1)], 1),
            labels=torch.tensor([0, 1, 2, 1], device=device),
        )
        losses = learning.outcome(batch).losses
        torch.stack(list(losses.values())).sum().backward()
        learning.configure_optimizers().step()
        model.follow(0.9)
        return losses, [p for p in learning.parameters()]

    # BYOL's batch norms make gradients of nothing of what cancels; AdamW makes steps of these.
    alike(step, close=3e-3)


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


def test_diagnostics():
    def found(device):
        features, views = drawn(40, 6).to(device), drawn(20, 3, 6, seed=1).to(device)
        values = [
            diagnostics.rankme(features),
            diagnostics.feature_std(features),
            diagnostics.lidar(views),
            diagnostics.alpha_req(features, first=1, last=5),
            diagnostics.uniformity(features),
            diagnostics.alignment(views[:, 0], views[:, 1]),
        ]
        return [torch.as_tensor(value).float().to(device) for value in values]

    alike(found, close=1e-3)


def test_tables_of_features():
    def features(device):
        encoder = FrozenEncoder(images(), mean=[0.5] * 3, std=[0.2] * 3).to(device)
        batch = (drawn(6, 3, 32, 32).mul(40).add(128).clamp(0, 255).byte(), torch.arange(6))
        table = extract(encoder, [batch], ("last", "last4", "grid4", "tokens"))
        return [
            torch.from_numpy(np.asarray(table.features[name])).float().to(device)
            for name in ("last", "last4", "grid4", "tokens")
        ]

    alike(features, close=2e-3)


PROBES = {
    "attentive": (partial(AttentiveProbe, heads=2), (24, 5, 12), (24,)),
    "linear": (LinearSGDProbe, (24, 6), (24,)),
    "mlp": (MLPProbe, (24, 6), (24,)),
    "dense": (partial(DenseProbe, grid=(2, 2)), (24, 4, 6), (24, 2, 2)),
}


@pytest.mark.parametrize("name", PROBES)
def test_probes(name):
    kind, shape, labels = PROBES[name]

    def said(device):
        x, y = drawn(*shape).numpy(), np.arange(np.prod(labels)).reshape(labels) % 3
        probe = kind(epochs=2, batch_size=8, random_state=0, device=str(device)).fit(x, y)
        return torch.from_numpy(probe.predict(x)).to(device)

    alike(said)


def test_slow_features_and_readouts():
    def found(device):
        pooled, truth = drawn(6, 20, 8).to(device), drawn(120, 2, seed=1).to(device)
        slow = SlowFeatures(components=3, frequencies=2, principal=6).to(device).fit(pooled)
        latents = slow.latent(pooled).flatten(0, 1)
        projection = LatentEmbedding(torch.ones(3, device=device), size=3, hidden=8).to(device)
        torch.manual_seed(0)
        for weight in projection.parameters():
            weight.data.copy_(drawn(*weight.shape))
        projection.measure_in(latents)
        # An eigenvector may have either sign.
        return LinearReadout.fit(latents, truth)(latents), projection.units.square()

    alike(found, close=1e-3)


def test_views_are_finished_there(tmp_path, monkeypatch):
    data, done, undone = test_augmented_views.module(channels=3), ViewBatch.done, []
    whole = data.train_loader().batches
    batch = ViewBatches(whole.batches, whole.views, later=True)[0]
    there = batch._replace(views=batch.views.to(THERE), undone=batch.undone.to(THERE))
    found = there.done(whole.views).views
    assert found.device == THERE
    assert (found.cpu().int() - whole[0].views).abs().max() <= 1  # halves may be rounded either way

    def seen(self, views):
        undone.append((self.views.device, self.undone is not None))
        return done(self, views)

    monkeypatch.setattr(ViewBatch, "done", seen)
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=12, patch_size=4, channels=3, dim=12, depth=1, heads=2)
    learning = Pretraining(
        model=VICReg(encoder, projector=(8,)),
        normalize=Normalize((0.5,) * 3, (0.2,) * 3),
        optimisation=Optimisation(steps=2),
    )
    Trainer(
        accelerator="elsewhere",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(learning, datamodule=data)
    assert undone == [(THERE, True)] * 2


class Stopped(Callback):
    """Ends a run in its middle."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6:
            raise InterruptedError


def test_a_run_ends_with_the_same_weights_also_when_it_was_stopped(tmp_path):
    data = small_run.made_images(tmp_path / "images")
    here = small_run.run(tmp_path / "here", data)
    there = partial(small_run.run, data=data, accelerator="elsewhere")
    found = there(tmp_path / "there")
    torch.testing.assert_close(found, here, rtol=1e-3, atol=1e-3)
    with pytest.raises(Exception, match="stopped at step 6"):
        there(tmp_path / "stopped", callbacks=[Stopped()])
    assert torch.equal(there(tmp_path / "stopped"), found)


COMMANDS = {
    "pretrain": test_clip_road.CLIPS
    | {
        "labelled": 24,
        "single_frame": None,
        "online": {"every_n_steps": 3, "bank": 20, "held_out": 10},
    },
    "agent": test_agent.CONFIG,
    "rooms": test_rooms.ROOMS | test_rooms.FROZEN,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(test_clip_road.sprites_module, "CLIPS", {"train": 60, "test": 24})
    given, hardware = tmp_path / "config.yaml", {"accelerator": "elsewhere", "precision": "float32"}
    given.write_text(json.dumps(COMMANDS[command] | {"hardware": hardware}))
    arguments = [f"--config={given}", f"--out={tmp_path / 'run'}"]
    assert main([command, *arguments]) == 0, capsys.readouterr().err


def test_devices_of_hardware():
    assert Hardware(accelerator="cpu").device() == HERE
    assert Hardware(accelerator="elsewhere").device().type == "elsewhere"
    assert Hardware(accelerator="auto").device().type == "elsewhere"


class Graph(torch.nn.Module):
    """An encoder without weights, which computes on the processor, as those of ONNX files do."""

    layer_names = ("norm",)

    def layers(self, pixels, names):
        return {"norm": pixels.cpu().flatten(2)}


def test_graphs_are_given_pixels_that_were_normalised_there():
    graph = FrozenEncoder(Graph(), mean=[0.5] * 3, std=[0.2] * 3).to(THERE)
    assert device_of(graph) == THERE
    pixels = drawn(2, 3, 8, 8)
    table = extract(graph, [(pixels, torch.arange(2))], ("last",))
    truth = ((pixels - 0.5) / 0.2).flatten(2).mean(dim=1)
    torch.testing.assert_close(torch.from_numpy(table.features["last"]), truth)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_probing_finds_the_same_there(precision, tmp_path, capsys):
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, FrozenEncoder(images(), mean=[0.5] * 3, std=[0.2] * 3))
    data = small_run.made_images(tmp_path / "images")
    given = [f"--encoder={path}", f"--data.source=folder:{data}", "--data.image_size=24"]
    given += ["--data.workers=0", "--probes=[linear,mlp]"]
    found = {}
    for name in ("cpu", "elsewhere"):
        there = [f"--hardware.accelerator={name}", f"--hardware.precision={precision}"]
        out = tmp_path / name
        assert main(["probe", *given, *there, f"--out={out}"]) == 0, capsys.readouterr().err
        result = json.loads((out / "result.json").read_text())
        found[name] = result["metrics"]["linear_top1"]["value"]
    assert found["cpu"] == pytest.approx(found["elsewhere"], abs=0.05)
    several = ["--hardware.devices=2", f"--out={tmp_path / 'several'}"]
    assert main(["probe", *given, *several]) == 1
    assert "one device" in capsys.readouterr().err


def test_tasks_are_played_there_and_simulators_here(tmp_path, monkeypatch):
    act, devices = PlanningAgent.act, set()

    def seen(agent, observation):
        devices.add(agent.action_space.low.device)
        return act(agent, observation)

    monkeypatch.setattr(PlanningAgent, "act", seen)
    hardware = partial(Hardware, accelerator="elsewhere", precision="float32")
    monkeypatch.setattr(test_task, "Hardware", lambda **_: hardware())
    test_task.test_a_run_learns_plays_and_does_not_learn_twice(tmp_path)
    assert devices == {HERE, THERE}
