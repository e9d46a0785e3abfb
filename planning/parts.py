"""Evaluation in parts: hundreds of episodes over processes and machines, always the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from jepa import seeds
from jepa.optional import optional
from jepa.progress import track

from .agent import Cost
from .evaluation import Agent, Evaluation, evaluate

Make: TypeAlias = Callable[[int], tuple[Agent, VectorEnv]]
"""The agent and the environment of a part, by its number; whatever they draw is seeded by it."""
Map: TypeAlias = Callable[[Callable[[int], Evaluation], Sequence[int]], Iterator[Evaluation]]


def evaluate_parts(
    make: Make,
    parts: int,
    *,
    max_steps: int,
    seed: int,
    workers: int = 1,
) -> Evaluation:
    """Plays `parts` batches of episodes, each by itself, on as many threads as this process has.

    What comes of a part depends on its number alone, so that the result is the same, but for the
    seconds, whoever plays which.

    Args:
        make: is called where the part is played; with several workers it is sent there
            (cloudpickle).
        parts: how many.
        max_steps: see `evaluate`.
        seed: see `evaluate`, which is given one of each part.
        workers: processes; above 1 they are Ray's: on this machine, or on those of the cluster
            that RAY_ADDRESS names.

    Raises ModuleNotFoundError where Ray is needed and not installed.
    """
    if parts < 1 or workers < 1:
        raise ValueError(f"need at least one part and one worker; got {parts} and {workers}")
    threads = torch.get_num_threads()
    alone = parts == 1
    play = partial(played, make, max_steps=max_steps, seed=seed, threads=threads, progress=alone)
    with spread(min(workers, parts)) as over:
        results = over(play, range(parts))
        found = track(results, "episodes", "part", total=parts, shown=not alone)
        return joined(list(found))


def played(
    make: Make, part: int, *, max_steps: int, seed: int, threads: int, progress: bool
) -> Evaluation:
    """One part. Sums of more or fewer threads may differ in the last bit."""
    torch.set_num_threads(threads)
    agent, env = make(part)
    drawn = seeds.derive(seed, "part", part)
    return evaluate(agent, env, max_steps=max_steps, seed=drawn, progress=progress)


@contextmanager
def spread(workers: int) -> Iterator[Map]:
    """A `map` over so many processes, in order. A cluster that it started ends with it."""
    if workers == 1:
        yield map
        return
    ray = optional("ray", extra="ray", purpose="several workers")
    pools = optional("ray.util.multiprocessing", extra="ray", purpose="several workers")
    running = ray.is_initialized()
    try:
        with pools.Pool(workers) as pool:
            yield pool.imap
    finally:
        if not running:
            ray.shutdown()


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of all episodes, part after part."""
    costs = [part.cost for part in parts]
    return Evaluation(
        episodes=sum(part.episodes for part in parts),
        successes=sum(part.successes for part in parts),
        excluded=sum(part.excluded for part in parts),
        steps=np.concatenate([part.steps for part in parts]),
        success=np.concatenate([part.success for part in parts]),
        returns=np.concatenate([part.returns for part in parts]),
        cost=Cost(
            plans=sum(cost.plans for cost in costs),
            transitions=sum(cost.transitions for cost in costs),
            seconds=sum(cost.seconds for cost in costs),
        ),
        first=stacked([part.first for part in parts]),
        last=stacked([part.last for part in parts]),
    )


def stacked(infos: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`info` of all episodes, of the entries that all parts have."""
    shared = set.intersection(*(set(info) for info in infos))
    return {key: np.concatenate([info[key] for info in infos]) for key in sorted(shared)}
