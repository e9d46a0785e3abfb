"""Latent dynamics side by side: error and calibration by horizon, time, on TwoRooms seen badly.

    python benchmarks/dynamics.py        (a few minutes)

The latent is the dot's position in pixels, plus Gaussian noise of 1 px: one latent tells less than
several. Every kind of dynamics learns from the same windows for the same number of steps, then is
given 6 decisions that happened and foresees the latents of the next 8.
"""

# pyright: reportMissingImports=false
# (the folders are mapped into `jepa` at installation)

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from jepa import seeds
from jepa.planning.calibration import calibration
from jepa.planning.causal import CausalTransformer
from jepa.planning.dynamics import Dynamics, ResidualMLP, Scales
from jepa.planning.ensemble import Ensemble
from jepa.planning.heads import GaussianHead
from jepa.planning.recurrent import GRU
from jepa.planning.training import foresight_loss, negative_log_likelihood
from jepa.planning.two_rooms import TwoRooms
from jepa.planning.two_rooms_walks import random_actions

KNOWN, AHEAD, REPEAT, NOISE = 6, 8, 4, 1.0


def episodes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents [E, T + 1, 2] in px and actions [E, T, 2], of a random policy."""
    rooms, generator = TwoRooms(), seeds.generator(seed, "dynamics_bench")
    layout = rooms.layouts(count, generator)
    right = torch.rand(count, generator=generator) < 0.5
    position = rooms.positions(layout, right, generator)
    actions = random_actions(rooms, count, KNOWN + AHEAD, 0.8, generator)
    path = [position]
    for action in actions.unbind(1):
        for _ in range(REPEAT):
            position = rooms.step(position, action, layout)
        path.append(position)
    truth = torch.stack(path, dim=1)
    noise = NOISE * torch.randn(truth.shape, generator=generator)
    return truth + noise - rooms.size / 2, actions


def kinds(scales: Scales) -> dict[str, Callable[[], Dynamics]]:
    """What is compared; all with Gaussian heads."""
    mlp = partial(ResidualMLP, scales, hidden=128, head=GaussianHead)
    gru = partial(GRU, scales, hidden=128, head=GaussianHead)
    causal = partial(CausalTransformer, scales, dim=64, depth=2, head=GaussianHead)
    return {
        "MLP": lambda: Ensemble([mlp()], particles=20),
        "GRU": lambda: Ensemble([gru()], particles=20),
        "transformer": lambda: Ensemble([causal()], particles=20),
        "5 MLPs, ts_inf": lambda: Ensemble([mlp() for _ in range(5)]),
        "5 MLPs, ts1": lambda: Ensemble([mlp() for _ in range(5)], sampling="ts1"),
        "5 GRUs, ts_inf": lambda: Ensemble([gru() for _ in range(5)]),
    }


def trained(make: Callable[[], Dynamics], steps: int, batch: int) -> tuple[Dynamics, float]:
    """Dynamics after so many steps of AdamW, and the milliseconds of one."""
    latents, actions = episodes(4000, 0)
    torch.manual_seed(seeds.derive(0, "dynamics_bench", "weights"))
    dynamics, generator = make(), seeds.generator(0, "dynamics_bench", "batches")
    adam = torch.optim.AdamW(dynamics.parameters(), lr=3e-3, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    loss = partial(foresight_loss, error=negative_log_likelihood, rollout=0.0, teacher_forced=1.0)
    began = time.perf_counter()
    for _ in range(steps):
        some = torch.randint(len(latents), (batch,), generator=generator)
        adam.zero_grad()
        dynamics.learn(loss, latents[some], actions[some]).backward()
        adam.step()
        falling.step()
    return dynamics, 1000 * (time.perf_counter() - began) / steps


def main() -> None:
    """Prints one row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    latents, actions = episodes(2000, 1)
    scales = Scales(latents.std(dim=(0, 1)), actions.std(dim=(0, 1)))
    print(
        f"{options.steps} steps of {options.batch} windows; RMSE in px, NLL in nats a number, "
        f"coverage of 90 % intervals, after 1 / {AHEAD} decisions\n"
    )
    print("| dynamics | RMSE | NLL | CRPS | coverage | rank correlation | ms a step |")
    print("|---|---|---|---|---|---|---|")
    for name, make in kinds(scales).items():
        dynamics, cost = trained(make, options.steps, options.batch)
        with torch.no_grad():
            state = dynamics.remember(latents[:, : KNOWN + 1], actions[:, :KNOWN])
            foreseen = dynamics.rollout(state, actions[:, KNOWN:])
            if not foreseen["disagreement"].any():  # one member
                foreseen = foreseen.exclude("disagreement")
            found = calibration(foreseen, latents[:, KNOWN + 1 :])
        scores = (found.rmse, found.nll, found.crps, found.coverage, found.disagreement)
        cells = ["-" if score is None else f"{score[0]:.2f} / {score[-1]:.2f}" for score in scores]
        print(f"| {name} | {' | '.join(cells)} | {cost:.0f} |", flush=True)


if __name__ == "__main__":
    main()
