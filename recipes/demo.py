"""The whole road in one command: learn, measure, control, report."""

from __future__ import annotations

from pathlib import Path

from .control import control
from .parsing import run
from .pretrain import pretrain
from .probe import print_rows
from .report import report
from .results import read_result, rows_of, write_result

CONFIGS = Path(__file__).parent / "configs"


def demo(
    *,
    out: Path,
    pretraining: str = "photographs",
    playing: str = "two_rooms",
    name: str = "demo",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Pretrain and probe on photographs, then plan with a frozen encoder; write the report.

    Args:
        out: folder of the run; must be empty unless resuming.
        pretraining: recipe of `jepa pretrain`, by name or as a YAML file.
        playing: recipe of `jepa control`, by name or as a YAML file.
        name: of the recipe, in results.
        seed: of everything.
        resume: go on with the run in `out`; finished parts are kept.
    """
    parts = ((pretrain, pretraining, out / "encoder"), (control, playing, out / "control"))
    for command, recipe, folder in parts:
        if not (folder / "result.json").is_file():
            print(f"\njepa {command.__name__}: {recipe}", flush=True)
            run(
                command,
                ["--config", config_of(recipe), f"--seed={seed}", f"--out={folder}", "--resume"],
            )
    results = [read_result(folder / "result.json") for *_, folder in parts]
    result = write_result(
        out,
        recipe=name,
        seed=seed,
        seconds=sum(result["seconds"] for result in results),
        metrics={k: v for result in results for k, v in result["metrics"].items()},
        baselines={k: v for result in results for k, v in result["baselines"].items()},
    )
    print_rows(rows_of(result))
    print(f"\n{result['seconds'] / 60:.1f} minutes of work. The report:")
    report(run=out)


def config_of(recipe: str) -> str:
    """The file of a recipe of ours, or the one given."""
    ours = CONFIGS / f"{recipe}.yaml"
    if not ours.is_file() and not Path(recipe).is_file():
        known = ", ".join(path.stem for path in sorted(CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe {recipe!r}: give a YAML file, or one of {known}")
    return str(ours if ours.is_file() else recipe)
