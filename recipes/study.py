"""Studies: several runs of recipes, each over seeds, side by side in one result."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..probes.intervals import mean_interval
from .demo import config_of
from .fit import StoppedError
from .probe import print_rows
from .results import Measured, Result, read_result, rows_of, write_result


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recipe over seeds.

    Args:
        command: of `jepa`.
        config: a recipe of ours by name, or a YAML file.
        seeds: one run each.
        options: further ones of the command, e.g. --joint.steps=100.
        metrics: those that the study shows, and under what name.
    """

    command: str
    config: str
    seeds: list[int] = field(default_factory=lambda: [0])
    options: list[str] = field(default_factory=list)
    metrics: dict[str, str]


def study(
    *,
    out: Path,
    runs: dict[str, Run],
    baselines: str | None = None,
    workers: int = 1,
    name: str = "study",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Run recipes over seeds, several at a time, and put their results side by side.

    A number of several seeds is their mean, its interval of the spread over seeds and of the runs'
    own intervals, see `over_seeds`. A run that fails is told at once, and the others go on;
    StoppedError tells of all that failed.

    Args:
        out: folder of the study, a folder in it for each run; must be empty unless resuming.
        runs: by name; their numbers' names must differ.
        baselines: the run whose baselines are shown, of its first seed; null: none.
        workers: runs at a time, each in a process of its own.
        name: of the recipe, in results.
        seed: added to every seed.
        resume: go on with the study in `out`; finished runs are kept.
    """
    began = time.monotonic()
    commands = {key: config_of(run.config) for key, run in runs.items()}  # all exist, or none runs
    jobs = [(key, each + seed) for key, run in runs.items() for each in run.seeds]
    names = [shown for run in runs.values() for shown in run.metrics.values()]
    if len(set(names)) < len(names):
        raise ValueError(f"numbers of a study need different names; got {sorted(names)}")
    if baselines is not None and baselines not in runs:
        raise ValueError(f"baselines are of one of the runs {sorted(runs)}; got {baselines!r}")

    failed: list[str] = []

    def work(job: tuple[str, int]) -> None:
        key, each = job
        folder = out / f"{key}-{each}"
        if (folder / "result.json").is_file():
            return
        ended = "ended"
        try:
            call(runs[key], commands[key], each, folder)
        except StoppedError as error:
            failed.append(str(error))
            ended = "FAILED"
        print(f"Study: {key}, seed {each}, {ended} after {minutes(began)}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, jobs))
    if failed:
        told = f"{len(failed)} of {len(jobs)} runs failed; once mended, --resume runs these alone"
        raise StoppedError("\n\n".join([*failed, told]))
    found = {(key, each): read_result(out / f"{key}-{each}" / "result.json") for key, each in jobs}
    metrics = {
        shown: over_seeds([found[key, each + seed] for each in run.seeds], metric)
        for key, run in runs.items()
        for metric, shown in run.metrics.items()
    }
    others: Mapping[str, Measured] = {}
    if baselines is not None:
        others = found[baselines, runs[baselines].seeds[0] + seed]["baselines"]
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=sum(result["seconds"] for result in found.values()),
        metrics=metrics,
        baselines=others,
    )
    print_rows(rows_of(result))


def call(run: Run, config: str, seed: int, folder: Path) -> None:
    """Runs one recipe, its words in a .log beside `folder`; StoppedError tells the last of them."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--config", config, f"--out={folder}", f"--seed={seed}", "--resume", *run.options]
    with open(folder.with_suffix(".log"), "a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "jepa.recipes.cli", run.command, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        words = folder.with_suffix(".log").read_text().splitlines()[-15:]
        raise StoppedError(f"{folder.name} failed:\n" + "\n".join(words))


def over_seeds(results: Sequence[Result], metric: str) -> Measured:
    """Mean and interval; a single run's own.

    The mean errs by its seeds, of which Student's t interval tells, and by the trials, of which
    the runs' own do: those may be the same for all seeds, and more seeds lessen nothing. On either
    side the squares of both reaches are added (Newcombe 1998; Zou & Donner 2008), of the runs' the
    mean. Where all runs' intervals lie within [0, 1], the mean's ends there too. Numbers without
    intervals have Student's alone.
    """
    for result in results:
        if metric not in result["metrics"]:
            raise ValueError(f"no metric {metric!r}; there are {sorted(result['metrics'])}")
    if len(results) == 1:
        return results[0]["metrics"][metric]
    runs = [result["metrics"][metric] for result in results]
    value, low, high = (np.array([run[part] for run in runs]) for part in ("value", "low", "high"))
    mean, _, top = mean_interval(value)
    below, above = (
        np.hypot(top - mean, np.sqrt(np.square(end - value).mean())) for end in (low, high)
    )
    ends = np.array([mean - below, mean + above])
    if ((low >= 0) & (low < high) & (high <= 1)).all():
        ends = ends.clip(0, 1)
    return Measured(value=mean, low=float(ends[0]), high=float(ends[1]))


def minutes(began: float) -> str:
    """Since then."""
    return f"{(time.monotonic() - began) / 60:.0f} minutes"
