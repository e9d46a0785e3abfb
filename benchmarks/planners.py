"""The planner bench: how near planners come to the optimum, and what they cost without a model.

The task: a 2-D double integrator from rest, dt 0.1: v' = v + 0.3 u, p' = p + 0.1 v', |u| <= 1;
goal g = (1.2, 0.6), horizon 20; cost = sum over the visited states of |p - g|^2, plus
10 |p_20 - g|^2 + |v_20|^2 at the end. The obstacle variant adds 4 exp(-|p - o|^2 / (2 0.15^2)),
o = (0.6, 0.32), to each step: straight on is a local optimum. All planners have 300 samples x 30
iterations, 30 elites (or as many rollouts); what counts is the cost of the plan, clipped.
Stable-worldmodel's solvers take part where that package is installed (`pip install --no-deps
stable-worldmodel loguru`), or lies unpacked in a folder on PYTHONPATH.

    python benchmarks/planners.py                  # the tables
    python benchmarks/planners.py --out runs/planner_bench    # and result.json
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)
from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict
from torch import Tensor

from jepa.planning.cem import CEM
from jepa.planning.energies import ComposableEnergy
from jepa.planning.gradient import GradientPlanner
from jepa.planning.hybrid import Hybrid
from jepa.planning.icem import ICEM
from jepa.planning.mppi import MPPI
from jepa.planning.protocols import ActionSpace, Planner
from jepa.planning.shooting import RandomShooting
from jepa.recipes.results import exactly, write_result

HORIZON, SAMPLES, ITERATIONS, ELITES = 20, 300, 30, 30
GOAL, OBSTACLE = torch.tensor([1.2, 0.6]), torch.tensor([0.6, 0.32])
SPACE = ActionSpace(-torch.ones(2), torch.ones(2))
BUDGET: dict[str, Any] = {
    "horizon": HORIZON, "samples": SAMPLES, "iterations": ITERATIONS, "elites": ELITES,
}  # fmt: skip

PLANNERS: dict[str, Planner] = {
    "random_shooting": RandomShooting(horizon=HORIZON, samples=SAMPLES * ITERATIONS),
    "cem": CEM(**BUDGET),
    "mppi": MPPI(**BUDGET, temperature=3.0, beta=1.0, adapt=0.5, min_std=0.01),
    "icem_not_adapting": ICEM(**BUDGET, adapt=0.0, stretch=1.0, beta=1.0),
    "icem": ICEM(**BUDGET, min_std=0.0),
    "gradient": GradientPlanner(horizon=HORIZON, restarts=15, iterations=200, learning_rate=0.3),
    # A gradient costs about three rollouts: 20 x 300 + 3 x 100 x 10 = 30 x 300.
    "hybrid": Hybrid(
        first=ICEM(**BUDGET | {"iterations": 20}, min_std=0.0),
        then=GradientPlanner(horizon=HORIZON, restarts=10, iterations=100, learning_rate=0.03),
    ),
}


class DoubleIntegrator:
    """The dynamics as a world model over position and velocity."""

    def encode(self, observation: Tensor) -> TensorDict:
        """[B, 4] to p and v, [B, 2] each."""
        p, v = observation.split(2, dim=-1)
        return TensorDict({"p": p, "v": v}, batch_size=[len(observation)])

    def step(self, state: TensorDict, action: Tensor) -> TensorDict:
        """One action."""
        v = state["v"] + 0.3 * action
        return TensorDict({"p": state["p"] + 0.1 * v, "v": v}, batch_size=state.batch_size)

    def rollout(self, state: TensorDict, actions: Tensor) -> TensorDict:
        """All actions at once: the dynamics are sums."""
        v = state["v"].unsqueeze(-2) + 0.3 * actions.cumsum(dim=-2)
        p = state["p"].unsqueeze(-2) + 0.1 * v.cumsum(dim=-2)
        return TensorDict({"p": p, "v": v}, batch_size=actions.shape[:-1])


class Cost(ComposableEnergy):
    """The cost of the task; with or without the obstacle."""

    def __init__(self, obstacle: bool) -> None:
        self.obstacle = obstacle

    def __call__(self, states: TensorDict, actions: Tensor) -> Tensor:
        p, v = states["p"], states["v"]
        away = (p - GOAL).square().sum(dim=-1)
        step = away
        if self.obstacle:
            near = (p - OBSTACLE).square().sum(dim=-1)
            step = step + 4 * torch.exp(-near / (2 * 0.15**2))
        return step.sum(dim=-1) + 10 * away[..., -1] + v[..., -1, :].square().sum(dim=-1)


def start(batch: int = 1) -> TensorDict:
    """At rest."""
    return DoubleIntegrator().encode(torch.zeros(batch, 4))


def executed(actions: Tensor, obstacle: bool) -> float:
    """Cost of a plan [H, 2] after clipping."""
    clipped = actions.clamp(-1, 1)[None]
    return Cost(obstacle)(DoubleIntegrator().rollout(start(), clipped), clipped).item()


def optimum(obstacle: bool, starts: int = 64, steps: int = 3000) -> float:
    """Multi-start Adam on tanh-squashed actions, in float32."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(starts, HORIZON, 2, generator=generator).requires_grad_()
    adam, model, cost = torch.optim.Adam([raw], lr=0.05), DoubleIntegrator(), Cost(obstacle)
    states, best = start(starts), float("inf")
    for _ in range(steps):
        actions = raw.tanh()
        energies = cost(model.rollout(states, actions), actions)
        best = min(best, energies.min().item())
        adam.zero_grad()
        energies.sum().backward()
        adam.step()
    return best


Solve = Callable[[bool, int, int], Tensor]
"""(obstacle, environments, seed) to plans [B, H, 2]."""


def ours(planner: Planner, model: Any = None) -> Solve:
    """One of our planners."""

    def solve(obstacle: bool, batch: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        world, cost = (model or DoubleIntegrator()), (Nothing() if model else Cost(obstacle))
        return planner.plan(world, start(batch), cost, SPACE, None, generator).actions

    return solve


class NoModel:
    """A world model that costs nothing: its states are empty."""

    def encode(self, observation: Tensor) -> TensorDict:
        return TensorDict({}, batch_size=[len(observation)])

    def step(self, state: TensorDict, action: Tensor) -> TensorDict:
        return state

    def rollout(self, state: TensorDict, actions: Tensor) -> TensorDict:
        return TensorDict({}, batch_size=actions.shape[:-1])


class Nothing(ComposableEnergy):
    """The energy of a plan without a model: one number of its actions."""

    def __call__(self, states: TensorDict, actions: Tensor) -> Tensor:
        return actions[..., 0, 0]


class TheirCost:
    """What stable-worldmodel's solvers ask of a model."""

    def __init__(self, model: bool) -> None:
        self.model, self.obstacle = model, False

    def get_cost(self, info: dict, candidates: Tensor) -> Tensor:
        """Costs [B, S] of candidates [B, S, H, 2]."""
        if not self.model:
            return candidates[..., 0, 0]
        flat = candidates.flatten(0, 1)
        states = DoubleIntegrator().rollout(start(len(flat)), flat)
        return Cost(self.obstacle)(states, flat).unflatten(0, candidates.shape[:2])


def theirs(name: str, *, model: bool = True) -> Solve:
    """A solver of stable-worldmodel, silenced."""
    solver_class = getattr(public_solvers(), name)

    def solve(obstacle: bool, batch: int, seed: int) -> Tensor:
        cost = TheirCost(model)
        cost.obstacle = obstacle
        solver = solver_class(
            cost, batch_size=batch, num_samples=SAMPLES, n_steps=ITERATIONS, topk=ELITES, seed=seed
        )
        config = types.SimpleNamespace(horizon=HORIZON, action_block=1, receding_horizon=HORIZON)
        box = Box(-1, 1, shape=(batch, 2), dtype=np.float32)
        solver.configure(action_space=box, n_envs=batch, config=config)
        out, sys.stdout = sys.stdout, open("/dev/null", "w")  # noqa: SIM115
        try:
            return solver.solve({"state": torch.zeros(batch, 1)})["actions"]
        finally:
            sys.stdout.close()
            sys.stdout = out

    return solve


PUBLIC = importlib.util.find_spec("stable_worldmodel")


def public_solvers() -> Any:
    """stable_worldmodel.solver alone: the package itself imports every environment it knows."""
    if "stable_worldmodel" not in sys.modules:
        assert PUBLIC is not None
        package = types.ModuleType("stable_worldmodel")
        package.__path__ = list(PUBLIC.submodule_search_locations or [])
        sys.modules["stable_worldmodel"] = package
    return importlib.import_module("stable_worldmodel.solver")


def optimality(seeds: int) -> dict[str, float]:
    """`<planner>/<task>_above_optimum`: median over seeds, a share of the optimum. Prints."""
    solvers = {name: ours(planner) for name, planner in PLANNERS.items()}
    if PUBLIC is not None:
        solvers |= {"public_cem": theirs("CEMSolver"), "public_icem": theirs("ICEMSolver")}
    least = {task: optimum(task == "obstacle") for task in ("plain", "obstacle")}
    print(f"optimum: {least['plain']:.3f} plain, {least['obstacle']:.3f} with the obstacle\n")
    print("| planner | plain | worst seed | obstacle | worst seed |\n|---|---|---|---|---|")
    found: dict[str, float] = {}
    for name, solve in solvers.items():
        cells = []
        for task in least:
            obstacle = task == "obstacle"
            costs = [executed(solve(obstacle, 1, seed)[0], obstacle) for seed in range(seeds)]
            above = [cost / least[task] - 1 for cost in costs]
            found[f"{name}/{task}_above_optimum"] = statistics.median(above)
            cells += [f"{100 * statistics.median(above):.2f} %", f"{100 * max(above):.2f} %"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return found


def overhead(repeats: int) -> None:
    """Processor time of a solve without a model, ours and theirs in turns; prints a table."""
    pairs = {
        "CEM": (ours(PLANNERS["cem"], NoModel()), theirs("CEMSolver", model=False)),
        "iCEM": (ours(PLANNERS["icem"], NoModel()), theirs("ICEMSolver", model=False)),
    }
    print("\n| planner | environments | ours, ms | theirs, ms | ratio |\n|---|---|---|---|---|")
    for name, both in pairs.items():
        for batch in (1, 64):
            times: list[list[float]] = [[], []]
            for turn in range(repeats + 1):
                for solve, spent in zip(both, times, strict=True):
                    began = time.process_time()
                    solve(False, batch, turn)
                    spent.append(time.process_time() - began)
            a, b = (statistics.median(spent[1:]) for spent in times)
            ratio = statistics.median(
                t / o for o, t in zip(times[0][1:], times[1][1:], strict=True)
            )
            print(f"| {name} | {batch} | {1e3 * a:.1f} | {1e3 * b:.1f} | {ratio:.2f} |", flush=True)


def main() -> None:
    """Print the tables; write the result."""
    parser = argparse.ArgumentParser(description="Planners on the double integrator.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for result.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    found = optimality(options.seeds)
    if PUBLIC is not None:
        overhead(options.repeats)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        best = [name for name in found if name.startswith(("icem/", "hybrid/"))]
        write_result(
            options.out,
            recipe="planner_bench",
            seed=0,
            seconds=time.monotonic() - began,
            metrics={name: exactly(found[name]) for name in best},
            baselines={name: exactly(found[name]) for name in found if name not in best},
        )


if __name__ == "__main__":
    main()
