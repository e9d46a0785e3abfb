"""The report: one HTML page made from the files in a run's folder, at any time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from jepa.files import atomic_path, read_arrays
from jepa.metrics_log import read_metrics

from . import figures, page
from .adaptation_pictures import adaptation_part
from .agent_pictures import PICTURES, agent_part
from .clip_pictures import clip_sheets, read_clip_pictures
from .folder import CONFIG, STEPS_LOG
from .futures_pictures import FUTURES, futures_part
from .hierarchy_pictures import EPISODE, hierarchy_part
from .page import Html
from .pictures import Pictures, as_colours, mask_picture, read_pictures
from .results import Measured, Result, read_result, rows_of
from .strips import STRIPS, strips_part

METRICS = {
    "linear_top1": "linear probe, top-1 accuracy",
    "knn_top1": "nearest neighbours, top-1 accuracy",
    "direction_top1": "direction of motion, attentive probe, top-1 accuracy",
    "motion_top1": "kind of motion, attentive probe, top-1 accuracy",
    "speed_r2": "speed, attentive probe, share of its variance explained",
    "two_rooms_success": "share of goals reached",
    "position_error_px": "error of the imagined position at the longest horizon",
    "levels/success": "share of far goals reached by planning on several levels",
    "levels/model_calls": "states foreseen by dynamics of any level, per decision",
    "flat/success": "share of far goals reached by planning actions alone",
    "flat/model_calls": "states foreseen by the dynamics, per decision",
    "success": "share of episodes that reach their goal",
    "return": "rewards of an episode, summed",
    "distance": "from the goal, at the end of an episode",
    "position_error": "error of the imagined position at the longest horizon",
    "plans": "made in all episodes together",
    "foreseen_states": "by the dynamics, for all these plans",
    "seconds_per_plan": "encoding and planning",
    "excluded": "episodes that began at the goal, not counted",
    "excluded_at_goal": "episodes that began at the goal, not counted",
}
BASELINES = {
    "raw_pixels": "the pixels as features",
    "random_encoder": "same architecture, untrained",
    "single_frame": "I-JEPA on every frame on its own; the probe sees all of them",
    "middle_frame": "I-JEPA on the middle frame",
    "random_policy": "random actions",
    "oracle": "planner on the true dynamics",
}
SUCCESS = "two_rooms_success"
MASKS_EXPLAINED = (
    "Masks: the context that the encoder sees is shown as it is; each target block, whose "
    "features the predictor must foresee, has a colour; the rest nobody sees. "
)
PRETRAINING = {
    "": "Pretraining",
    "encoder": "Pretraining",
    "single_frame": "Pretraining of the single-frame baseline",
    "control/encoder": "Pretraining of the control encoder",
}


def report(*, run: Path) -> None:
    """Make a run's report, one HTML page that needs no other file.

    Args:
        run: folder of the run; report.html is written into it.
    """
    if not (run / "result.json").is_file():
        raise FileNotFoundError(
            f"no result.json in {run}: give the folder of a run that has ended, e.g. "
            "--run runs/demo; a stopped one is finished by its own command with --resume"
        )
    result = read_result(run / "result.json")
    text = page.document(result["recipe"], introduction(result), list(sections(run, result)))
    with atomic_path(run / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(run / "report.html")


def introduction(result: Result) -> Html:
    """What was run, above everything else."""
    versions = result["versions"]
    named = ", ".join(f"{n} {versions[n]}" for n in ("python", "torch") if n in versions)
    words = f"seed {result['seed']}, {duration(result['seconds'])}, {named}"
    return f'<p class="muted">{escape(words)}</p>{page.code(result["command"])}'


def sections(run: Path, result: Result) -> Iterator[tuple[str, Html]]:
    """Title and content of each part of which the run has left something."""
    yield "Results", results_part(result)
    for place, title in PRETRAINING.items():
        content = pretraining_part(run / place)
        if content:
            yield title, content
    content = control_part(run / "control" if (run / "control").is_dir() else run, result)
    if content:
        yield "Control", content
    if (run / STRIPS).is_file():
        yield "Episodes", strips_part(run)
    if (run / EPISODE).is_file():
        yield "Levels", hierarchy_part(run, result)
    if (run / PICTURES).is_file():
        yield "The agent", agent_part(run)
    if (run / FUTURES).is_file():
        yield "Futures", futures_part(run)
    content = adaptation_part(result["metrics"])
    if content:
        yield "Changes", content
    yield "How to repeat it", repetition_part(run, result)


def results_part(result: Result) -> Html:
    """The table: headline numbers, then the others folded away."""
    groups: list[list[tuple[str, str, Measured]]] = []
    for name, number in rows_of(result):
        if name in result["metrics"]:
            groups.append([(name, METRICS.get(name, ""), number)])
        else:
            baseline = name.partition("/")[0]
            groups[-1].append((baseline.replace("_", " "), BASELINES.get(baseline, ""), number))
    heads = [group[0][0].partition("/")[2] in ("", "success", "model_calls") for group in groups]
    main = [group for group, head in zip(groups, heads, strict=True) if head]
    rest = [group for group, head in zip(groups, heads, strict=True) if not head]
    html = (
        '<p class="muted">Bars run from 0 to 1; whiskers are 95 % intervals. '
        "Below each number, in grey, what it must be compared with.</p>" + page.numbers(main)
    )
    if rest:
        html += page.details(
            "the same in parts: by pooling of the features, by length of the way",
            page.numbers(rest),
        )
    return html


def pretraining_part(folder: Path) -> Html:
    """Curves and pictures of one pretraining run; empty if it left neither."""
    html = ""
    log = folder / STEPS_LOG
    rows = read_metrics(log) if log.is_file() else []
    if rows:
        done = max(row["step"] + ("loss" in row) for row in rows)  # a loss is of a step begun
        html += (
            f'<p class="muted">{done:,.0f} steps in {duration(rows[-1]["seconds"])}.</p>'
            f'<div class="large">{"".join(figures.curve_panels(rows, large=True))}</div>'
            f'<div class="small">{"".join(figures.curve_panels(rows, large=False))}</div>'
        )
    if (folder / "pictures.npz").is_file():
        pictures = read_pictures(folder / "pictures.npz")
        html += contact_sheet(pictures)
        if pictures.neighbour_labels.max() > 0:  # neighbours of one class tell nothing
            html += neighbours(pictures)
    if (folder / "clip_pictures.npz").is_file():
        html += clip_sheets(read_clip_pictures(folder / "clip_pictures.npz"))
    return html


def contact_sheet(pictures: Pictures) -> Html:
    """Rows: test images, their masks if any, the principal components of their features."""
    grid = (pictures.components.shape[1], pictures.components.shape[2])
    names = [str(pictures.classes[label]) for label in pictures.labels]
    masked = [
        mask_picture(image, grid, context, targets)
        for image, context, targets in zip(
            pictures.images, pictures.context, pictures.targets, strict=True
        )
    ]
    share = " + ".join(f"{100 * part:.0f}" for part in pictures.explained)
    sheet = ""
    hidden = pictures.targets.size > 0
    for label, row in (
        ("test images", pictures.images),
        *([("masks", masked)] if hidden else []),
        ("features", as_colours(pictures.components)),
    ):
        sheet += f"<span>{label}</span>" + "".join(
            page.picture(image, f"{label}: {name}") for image, name in zip(row, names, strict=True)
        )
    columns = f"grid-template-columns: 64px repeat({len(names)}, 1fr)"
    return "<h3>What the encoder sees, and what it makes of it</h3>" + page.figure(
        f'<div class="scroll"><div class="sheet" style="{columns}">{sheet}</div></div>',
        f"{MASKS_EXPLAINED if hidden else ''}Features: first three principal components of the "
        f"{grid[0]} × {grid[1]} patch features as red, green and blue, "
        "fitted over these images together, after the mean of each position is "
        f"subtracted, so that colour is content, not place ({share} % of what remains; place "
        f"alone is {100 * pictures.placed:.0f} % of the variance).",
    )


def neighbours(pictures: Pictures) -> Html:
    """Each test image, and the training images nearest to it."""
    rows = ""
    for query in range(len(pictures.images)):
        own = pictures.labels[query]
        name = str(pictures.classes[own])
        cells = near_cell(pictures.images[query], name, "", "query")
        for image, label, similarity in zip(
            pictures.neighbour_images[query],
            pictures.neighbour_labels[query],
            pictures.similarity[query],
            strict=True,
        ):
            kind = "" if len(pictures.classes) < 2 else "same" if label == own else "other"
            cells += near_cell(image, str(pictures.classes[label]), f"{similarity:.2f}", kind)
        rows += f"<div>{cells}</div>"
    html = page.figure(
        f'<div class="near">{rows}</div>',
        f"Left, an image of the test split; then the nearest of {pictures.bank:,} of the training "
        f"split, by cosine of mean-pooled features. {agreement(pictures)} Images are drawn at "
        "random, not chosen.",
    )
    return f"<h3>Nearest neighbours</h3>{html}"


def agreement(pictures: Pictures) -> Html:
    """What the frames mean, and how often a neighbour has the class; nothing with one class."""
    if len(pictures.classes) < 2:
        return ""
    key = "".join(
        f'<span class="key" style="background:var(--{colour})"></span>{words}.'
        for colour, words in (("blue", "same class"), ("orange", "another class"))
    )
    return (
        f"{key} Over {pictures.queries:,} test images, {100 * pictures.same_class:.1f} % of such "
        "neighbours have the class of the query."
    )


def near_cell(image: np.ndarray, name: str, below: str, kind: str) -> Html:
    """One image of a row of neighbours, with its class."""
    caption = f"{escape(name)}<br>{escape(below)}"
    return f'<figure class="{kind}">{page.picture(image, name)}{caption}</figure>'


def control_part(folder: Path, result: Result) -> Html:
    """An episode, the energy of its first decision, success, and how far imagination holds."""
    path = folder / "episode.npz"
    html, charts = episode_part(path) if path.is_file() else "", ""
    bars = [
        ("planner" if name == SUCCESS else name.partition("/")[0].replace("_", " "), number)
        for name, number in rows_of(result)
        if name == SUCCESS or name.endswith("/" + SUCCESS)
    ]
    if bars:
        charts += f"<div><h3>Goals reached</h3>{figures.success_bars(bars)}</div>"
    if (folder / "dynamics.json").is_file():
        errors = json.loads((folder / "dynamics.json").read_text())["horizon_error"]
        chart = figures.horizon_error(errors)
        charts += f"<div><h3>Error of the imagined position</h3>{chart}</div>"
    return f'{html}<div class="large">{charts}</div>' if charts else html


def episode_part(path: Path) -> Html:
    """The player, the goal, and the energy over the first action of the first plan."""
    episode = read_arrays(path)
    play = page.player(
        episode["frames"], episode["positions"], episode["imagined"], episode["goal_position"]
    )
    goal = page.picture(episode["goal"], "the goal image")
    energy = figures.energy_map(
        episode["energy"], episode["chosen_action"], episode["action_low"], episode["action_high"]
    )
    return (
        '<h3>An episode, and what the planner imagined</h3><div class="control">'
        + page.figure(
            play,
            "What the agent sees. White: the way so far. Cyan: where the plan of this decision is "
            "expected to lead, read from the imagined latents. Green ring: the goal.",
        )
        + page.figure(goal, "The goal, given as an image.")
        + page.figure(
            energy,
            "Energy of the first plan with its first action replaced, the rest kept: lower is "
            "nearer to the goal. The dot is the action taken.",
        )
        + "</div>"
    )


def repetition_part(run: Path, result: Result) -> Html:
    """Command, configuration and versions."""
    html = f"<h3>Command</h3>{page.code(result['command'])}"
    for place in ("", "encoder", "control"):
        path = run / place / CONFIG
        if path.is_file():
            name = f"the whole configuration{place and f' of {place}/'}"
            html += page.details(name, page.code(path.read_text()))
    return f"{html}<h3>Versions</h3>{page.facts(result['versions'])}"


def duration(seconds: float) -> str:
    """In words: 42 s, 11.4 minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} minutes"
