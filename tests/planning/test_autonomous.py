"""Actor, configurator and the whole agent on a line where all is known exactly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from tensordict import TensorDict
from torch import nn

from jepa import seeds
from jepa.planning.actor import Disagreement, ModeOne, ModeTwo, Scene, Setback, Switch
from jepa.planning.agent import Cost, action_space_of
from jepa.planning.autonomous import AutonomousAgent
from jepa.planning.configurator import Configurator, Task
from jepa.planning.dynamics import Dynamics, LatentWorldModel
from jepa.planning.energies import GoalDistance
from jepa.planning.evaluation import evaluate
from jepa.planning.hierarchy import HierarchicalAgent, Level
from jepa.planning.icem import ICEM
from jepa.planning.intrinsic import Away, CostModule, Effort
from jepa.planning.levels import SameLatent
from jepa.planning.memory import ShortTermMemory
from jepa.planning.policy import GoalPolicy

STEP, WIDTH, DISCOUNT, B = 0.1, 0.05, 0.9, 16


class Line(Dynamics):
    """z' = z + a, kept in [0, 1]."""

    def step(self, state, action):
        return TensorDict({"latent": (state["latent"] + action).clamp(0, 1)}, state.batch_size)


class LineEnv(VectorEnv):
    """The same line as an environment; a goal is reached within 0.03."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs=B):
        self.num_envs = num_envs
        box = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self.single_observation_space = gymnasium.spaces.Dict(observation=box, desired_goal=box)
        self.single_action_space = gymnasium.spaces.Box(-STEP, STEP, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        draw = seeds.generator(seed or 0, "line")
        self.z, self.g = torch.rand(2, self.num_envs, 1, generator=draw).numpy()
        self.effort = np.zeros(self.num_envs)
        return self._seen()

    def step(self, actions):
        assert actions.dtype == np.float32
        assert (np.abs(actions) <= STEP + 1e-6).all()
        going = np.abs(self.z - self.g) > 0.03
        self.effort += np.where(going, actions**2, 0)[:, 0]
        self.z = np.where(going, np.clip(self.z + actions, 0, 1), self.z).astype(np.float32)
        observation, info = self._seen()
        return observation, info["success"] * 1.0, info["success"], ~info["success"] & False, info

    def _seen(self):
        success = (np.abs(self.z - self.g) <= 0.03)[:, 0]
        return {"observation": self.z.copy(), "desired_goal": self.g.copy()}, {"success": success}


class Toward(GoalPolicy):
    """Goes straight to the goal; where the latent is below `stuck`, it does nothing."""

    def __init__(self, stuck=-1.0):
        super().__init__(torch.ones(1), action_space_of(LineEnv().single_action_space), hidden=2)
        self.stuck = stuck

    def forward(self, latent, goal):
        way = (goal - latent).clamp(-STEP, STEP)
        return torch.where(latent < self.stuck, torch.zeros_like(way), way)


class ExactCritic(nn.Module):
    """The cost to go of going straight to the goal, summed step by step."""

    def forward(self, latent, goal):
        away = (latent - goal).abs().squeeze(-1)
        cost = torch.zeros_like(away)
        for t in range(60):
            away = (away - STEP).clamp(min=0)
            cost = cost + DISCOUNT**t * (1 - torch.exp(-(away**2) / (2 * WIDTH**2)))
        return cost


COST = CostModule(
    terms={"goal": lambda goal: Away(goal, width=WIDTH), "effort": lambda goal: Effort()},
    discount=DISCOUNT,
    critic=ExactCritic(),
)
SPACE = action_space_of(LineEnv().single_action_space)
MODEL = LatentWorldModel(embedding=SameLatent(1), dynamics=Line())
PLANNER = ICEM(horizon=3, samples=32, iterations=2, elites=6)


def scene(latent, goal, last=None, trust=1.0):
    weights = {"goal": 1.0}
    return Scene(
        state=TensorDict({"latent": latent}, [len(latent)]),
        goal=TensorDict({"latent": goal}, [len(goal)]),
        world_model=MODEL,
        energy=lambda goal: COST(goal, weights, trust=trust),
        cost=lambda goal: COST.intrinsic(goal, weights),
        action_space=SPACE,
        generator=seeds.generator(0, "test"),
        spent=Cost(),
        last=last,
    )


def agent(task, policy=None, doubts=(), above=(), **others):
    parts = {"memory": ShortTermMemory(1000), "world_model": MODEL, "action_space": SPACE}
    return AutonomousAgent(
        configurator=Configurator(
            weights={"goal": 1.0, "effort": 0.0},
            planner=PLANNER,
            policy=policy,
            doubts=doubts,
            above=above,
        ),
        cost=COST,
        task=task,
        **(parts | others),
    )


def pairs(count=B, seed=0):
    return torch.rand(2, count, 1, generator=seeds.generator(seed, "pairs"))


def test_a_short_plan_with_a_critic_goes_the_right_way_and_without_one_it_sees_nothing():
    latent, goal = torch.full((B, 1), 0.1), torch.full((B, 1), 0.9)
    actor = ModeTwo(planner=PLANNER)
    assert (actor.choose(scene(latent, goal)).plan.actions[:, 0] > 0.05).all()
    blind = actor.choose(scene(latent, goal, trust=0.0)).plan
    assert (blind.energy - blind.energy.mean()).abs().max() < 1e-4  # all alike, 16 widths away


def test_mode_1_is_where_mode_2_starts_its_search():
    latent, goal = pairs()
    asked = []

    class Spy(ICEM):
        def plan(self, model, state, energy, space, warm_start, generator):
            asked.append(warm_start)
            return super().plan(model, state, energy, space, warm_start, generator)

    planner = Spy(horizon=3, samples=32, iterations=2, elites=6)
    actor = ModeTwo(planner=planner, policy=Toward())
    first = actor.choose(scene(latent, goal))
    actor.choose(scene(latent, goal, last=first))
    state, wanted = latent, []
    for _ in range(3):
        wanted.append((goal - state).clamp(-STEP, STEP))
        state = state + wanted[-1]
    seed = torch.stack(wanted, dim=1)
    assert torch.allclose(asked[0].actions, seed)
    assert torch.equal(asked[1].actions, first.plan.later().actions)
    assert torch.allclose(asked[1].candidates[0], seed)
    assert len(asked[1].candidates) == 1 + len(first.plan.candidates)
    cold = ModeTwo(planner=planner)
    cold.choose(scene(latent, goal))
    assert asked[2] is None


def test_setbacks_are_costs_that_the_critic_had_not_promised():
    latent, goal = pairs(200)
    doubt, critic = Setback(ExactCritic(), limit=0.5), ExactCritic()
    straight = (goal - latent).clamp(-STEP, STEP)
    assert doubt(scene(latent, goal), straight).abs().max() < 1e-5
    doubt.reset()
    found = doubt(scene(latent, goal), torch.zeros_like(latent))
    away = (latent - goal).abs()[:, 0]
    c = 1 - torch.exp(-(away**2) / (2 * WIDTH**2))
    v = critic(latent, goal)
    assert torch.allclose(found, (c + DISCOUNT * v - v) / 0.5, atol=1e-5)
    # the world did not move, although the last action should have: realised
    found = doubt(scene(latent, goal), straight)
    assert torch.allclose(found, (c + DISCOUNT * v - v).clamp(min=0) / 0.5, atol=1e-5)


def test_disagreement_is_that_of_the_state_that_mode_1_would_come_to():
    class Split(Line):
        def step(self, state, action):
            after = super().step(state, action)
            return after.set("disagreement", after["latent"][:, 0])

    latent, goal = pairs()
    here = replace(
        scene(latent, goal), world_model=LatentWorldModel(embedding=SameLatent(1), dynamics=Split())
    )
    actions = torch.full((B, 1), 0.05)
    found = Disagreement(limit=0.25)(here, actions)
    assert torch.allclose(found, (latent + actions).clamp(0, 1)[:, 0] / 0.25)


def test_the_switch_plans_only_for_those_in_doubt():
    latent, goal = pairs(100)
    policy = Toward(stuck=0.3)
    switch = Switch(
        ModeOne(policy=policy),
        ModeTwo(planner=PLANNER, policy=policy),
        [Setback(ExactCritic(), limit=0.05)],
    )
    choice = switch.choose(scene(latent, goal))
    lost = (latent < 0.3)[:, 0] & ((latent - goal).abs() > STEP)[:, 0]
    assert 5 < lost.sum() < 60
    assert choice.planned[lost].all()
    assert not choice.planned[(latent >= 0.3)[:, 0]].any()
    moved = choice.plan.actions[:, 0]
    assert (moved[lost] * (goal - latent)[lost] > 0).all()
    assert torch.equal(moved[~choice.planned], policy(latent, goal)[~choice.planned])
    assert choice.plan.energy[choice.planned].isfinite().all()


def test_a_time_budget_plans_for_the_most_doubtful():
    latent, goal = pairs(40)
    policy, now = Toward(stuck=2.0), [0.0]

    class Slow(ModeTwo):
        def choose(self, scene):
            now[0] += 0.01 * len(scene.state)  # a hundredth of a second each
            return super().choose(scene)

    doubt = Setback(ExactCritic(), limit=1e-3)
    two = Slow(planner=PLANNER)
    switch = Switch(ModeOne(policy=policy), two, [doubt], seconds=0.1, clock=lambda: now[0])
    everyone = switch.choose(scene(latent, goal)).planned  # how long it takes is not known yet
    doubt.reset()
    few = switch.choose(scene(latent, goal)).planned
    assert int(few.sum()) == 10 < int(everyone.sum())
    doubt.reset()
    doubts = doubt(scene(latent, goal), torch.zeros_like(latent))
    assert doubts[few].min() >= doubts[~few].max()
    switch.reset()
    assert int(switch.choose(scene(latent, goal)).planned.sum()) == int(everyone.sum())


def test_doubt_that_is_not_a_number_is_the_greatest():
    latent, goal = pairs(3)

    class Given:
        def reset(self):
            pass

        def keep(self, which):
            pass

        def __call__(self, scene, actions):
            return torch.tensor([torch.nan, 2.0, 0.5])

    policy, two = Toward(), ModeTwo(planner=PLANNER)
    free = Switch(ModeOne(policy=policy), two, [Given()])
    assert free.choose(scene(latent, goal)).planned.tolist() == [True, True, False]
    time = iter(range(100))
    hurried = Switch(ModeOne(policy=policy), two, [Given()], seconds=0.5, clock=lambda: next(time))
    assert hurried.choose(scene(latent, goal)).planned.tolist() == [True, True, False]
    assert hurried.choose(scene(latent, goal)).planned.tolist() == [True, False, False]


def test_one_agent_does_what_each_task_says():
    env, ours = (
        LineEnv(),
        agent(Task(), policy=Toward(), doubts=[Setback(ExactCritic(), limit=1.0)]),
    )
    planned = evaluate(ours, env, max_steps=30, seed=0)
    assert planned.rate == 1
    assert ours.planned == planned.cost.plans
    full = env.effort.copy()
    ours.configure(Task(weights={"effort": 100.0}))
    assert evaluate(ours, env, max_steps=30, seed=0).rate == 1
    assert env.effort.sum() < 0.8 * full.sum()
    ours.configure(Task(mode="react"))
    reacted = evaluate(ours, env, max_steps=30, seed=0)
    assert reacted.rate == 1
    assert reacted.cost.transitions == ours.planned == 0
    ours.configure(Task(mode="switch"))
    assert evaluate(ours, env, max_steps=30, seed=0).rate == 1
    ours.configure(Task(horizon=2, samples=0.5))
    evaluate(ours, env, max_steps=30, seed=0)
    assert ours.plan.actions.shape[1:] == (2, 1)
    observation, _ = env.reset(seed=1)
    ours.reset()
    for task in (Task(horizon=3), Task(mode="react"), Task(horizon=4)):  # on the way
        ours.configure(task)
        observation, *_ = env.step(ours.act(observation))
    assert ours.plan.actions.shape == (B, 4, 1)
    with pytest.raises(ValueError, match="no term 'gaol'"):
        ours.configure(Task(weights={"gaol": 1.0}))
    with pytest.raises(ValueError, match="needs a policy"):
        agent(Task(mode="react"))
    with pytest.raises(ValueError, match="samples > 0"):
        Task(samples=0.0)


class Strides(Dynamics):
    """Three steps of `Line` at once."""

    def step(self, state, action):
        return TensorDict({"latent": (state["latent"] + 3 * action).clamp(0, 1)}, state.batch_size)


ABOVE = Level(
    world_model=LatentWorldModel(embedding=SameLatent(1), dynamics=Strides()),
    planner=ICEM(horizon=4, samples=32, iterations=2, elites=6),
    action_space=SPACE,
    energy=partial(GoalDistance, steps="all"),
    rhythm=2,
)


def test_levels_are_a_setting_and_do_what_the_hierarchical_agent_does():
    weights = {"goal": 1.0, "effort": 0.0}
    energy = partial(COST, weights=weights, trust=0.0)
    lowest = Level(world_model=MODEL, planner=PLANNER, action_space=SPACE, energy=energy)
    ours = agent(Task(levels=2, trust=0.0), above=[ABOVE], seed=3)
    theirs = HierarchicalAgent([lowest, ABOVE], seed=3)
    env = LineEnv()
    observation, _ = env.reset(seed=2)
    for _ in range(6):
        actions = ours.act(observation)
        np.testing.assert_array_equal(actions, theirs.act(observation))
        observation, *_ = env.step(actions)
    assert ours.cost.transitions == theirs.cost.transitions > 0
    two = evaluate(ours, env, max_steps=30, seed=0)
    ours.configure(Task(trust=0.0))  # one level, which sees three steps ahead, and no critic
    one = evaluate(ours, env, max_steps=30, seed=0)
    assert two.rate == 1
    assert two.steps.max() <= 10 < one.steps.max()  # the whole line in as many steps
    with pytest.raises(ValueError, match="asks for 3 levels; this agent has 2"):
        ours.configure(Task(levels=3))
    with pytest.raises(ValueError, match="levels >= 1"):
        Task(levels=0)


def test_a_switch_plans_on_levels_for_those_in_doubt():
    latent, goal = pairs(40)
    ours = agent(
        Task(levels=2, mode="switch", trust=0.0),
        policy=Toward(stuck=0.3),
        doubts=[Setback(ExactCritic(), limit=0.05)],
        above=[ABOVE],
    )
    for _ in range(2):
        choice = ours.settings.actor.choose(scene(latent, goal, trust=0.0))
        lost = (latent < 0.3)[:, 0] & ((latent - goal).abs() > STEP)[:, 0]
        assert 3 < lost.sum() < 40
        assert choice.planned[lost].all()
        assert (choice.plan.actions[lost, 0] * (goal - latent)[lost] > 0).all()
        latent = latent + 0.02  # others are in doubt now


def test_every_decision_is_remembered_with_its_cost():
    env, ours = LineEnv(), agent(Task(), placed=lambda latent: 10 * latent)
    played = evaluate(ours, env, max_steps=20, seed=0)
    evaluate(ours, env, max_steps=20, seed=1)
    rows = ours.memory.rows
    assert rows["episode"].unique().tolist() == list(range(2 * B))
    first = rows[rows["episode"] < B]
    wanted = {(number, t) for number, steps in enumerate(played.steps) for t in range(steps)}
    wanted |= {(number, 0) for number in np.flatnonzero(~played.counted)}  # at the goal already
    found = list(zip(first["episode"].tolist(), first["time"].tolist(), strict=True))
    assert len(found) == len(wanted)
    assert set(found) == wanted
    away = (rows["latent"] - rows["goal"])[:, 0]
    assert torch.allclose(rows["cost"], 1 - torch.exp(-(away**2) / (2 * WIDTH**2)), atol=1e-6)
    assert torch.allclose(rows["place"], 10 * rows["latent"])
    one = rows[rows["episode"] == 0]
    gone = one["latent"].diff(dim=0)
    assert torch.allclose(gone[:2], one["action"][:2], atol=1e-6)


@pytest.mark.parametrize(
    "task",
    [
        Task(),
        Task(mode="react"),
        Task(mode="switch"),
        Task(levels=2, trust=0.0),
        Task(levels=2, trust=0.0, mode="switch"),
        Task(place=torch.linspace(0, 10, B)[:, None], mode="react"),
    ],
    ids=["plan", "react", "switch", "levels", "levels, switch", "places"],
)
def test_finished_episodes_cost_nothing_and_the_others_do_as_before(task):
    """What no noise decides is the same as where all are asked to the end."""

    def new():
        return agent(
            Task(),
            placed=lambda latent: 10 * latent,
            policy=Toward(stuck=0.3),
            doubts=[Setback(ExactCritic(), limit=0.05)],
            above=[ABOVE],
        )

    class Whole:
        """Never told that some have finished."""

        def __init__(self, agent):
            self.reset, self.act = agent.reset, agent.act

    ours, whole = new(), new()
    for one in (ours, whole):  # a memory of places
        evaluate(one, LineEnv(), max_steps=20, seed=5)
        one.configure(task)
    found = evaluate(ours, LineEnv(), max_steps=12, seed=1)
    wanted = evaluate(Whole(whole), LineEnv(), max_steps=12, seed=1)
    first, decisions = int((~found.counted).sum()), int(found.steps.sum())
    assert found.cost.plans == decisions + first < whole.cost.plans
    assert ours.planned <= found.cost.plans
    if task.mode != "plan" and task.levels == 1:
        np.testing.assert_array_equal(found.steps, wanted.steps)
    assert found.rate == pytest.approx(wanted.rate, abs=0.1)
    rows = ours.memory.rows
    now = rows[rows["episode"] >= B]
    if task.place is not None:  # each has its own to the end, or what it finds nearer on the way
        known = rows["latent"][rows["episode"] < B]
        for number, place in enumerate(task.place):
            mine = now[now["episode"] == B + number]
            nearest = (10 * known - place).abs().min()
            assert ((10 * mine["goal"] - place).abs() <= nearest + 1e-5).all()


def test_a_place_is_recalled_from_memory():
    env = LineEnv()
    ours = agent(Task(), placed=lambda latent: 10 * latent)
    evaluate(ours, env, max_steps=20, seed=0)
    known = ours.memory.rows["latent"]
    ours.configure(Task(place=torch.tensor([5.0])))
    observation, _ = env.reset(seed=3)
    ours.reset()
    for _ in range(15):
        observation, *_ = env.step(ours.act(observation))
        env.g[:] = 2.0  # whatever the image says
    nearest = known[(10 * known - 5.0).abs().argmin()]
    assert np.abs(observation["observation"] - nearest.numpy()).max() < 0.05
    with pytest.raises(ValueError, match="placed"):
        agent(Task(place=torch.tensor([5.0])))


def test_attention_chooses_what_of_the_latent_matters():
    ours = agent(Task(attention=torch.zeros(1), trust=0.0))
    observation, _ = LineEnv().reset(seed=0)
    ours.act(observation)
    assert (ours.plan.energy == 0).all()
    with pytest.raises(ValueError, match="at least 0"):
        Task(attention=torch.tensor([-1.0]))
