"""Pictures of futures: where a dot may truly go, and where models say so, drawn over the map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from jepa.files import atomic_path, read_arrays, write_arrays

from . import figures, page
from .door_trials import CERTAIN, Simulated
from .page import Html

FUTURES = "futures.npz"
SHOWN = 24  # futures of each start
TITLES = {
    "true": "what may come",
    "point": "one prediction",
    "gaussian": "Gaussian",
    "outcomes": "with z",
}


def save_futures(
    out: Path, trials: Simulated, dreams: Mapping[str, Float[Tensor, "N H P 2"]], count: int = 3
) -> None:
    """Some trials of which nobody can know the end, for the report; and futures.png.

    dreams: positions that each model foresees, px.
    """
    ends = trials.crossed(trials.futures)[:, -1]
    unsure = (ends >= CERTAIN) & (ends <= 1 - CERTAIN)
    chosen = torch.nonzero(unsure if unsure.any() else ends.isfinite())[:, 0]
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(count, len(chosen))).long()]
    layout = type(trials.layout)(**{n: v[chosen] for n, v in vars(trials.layout).items()})
    starts = trials.starts[chosen]
    arrays = {
        "pictures": trials.world.render(starts, layout).numpy(),
        "starts": starts.numpy(),
        "true": trials.futures[chosen, :, :SHOWN].numpy(),
        **{who: dream[chosen, :, :SHOWN].numpy() for who, dream in dreams.items()},
    }
    write_arrays(out / FUTURES, arrays)
    with atomic_path(out / "futures.png") as temporary:
        drawing(arrays).savefig(temporary, format="png", dpi=110)


def futures_part(run: Path) -> Html:
    """The drawing, for the report."""
    with matplotlib.rc_context(figures.STYLE):
        drawn = figures.svg(drawing(read_arrays(run / FUTURES)), "Futures over the map")
    return (
        '<div class="large">'
        + page.figure(
            drawn,
            "Each row is a dot that sets out to the door, which opens and shuts at random; each "
            "line is one future. What the models foresee is read from their latents.",
        )
        + "</div>"
    )


def drawing(arrays: Mapping[str, np.ndarray]) -> Figure:
    """A row for each start, a column for the truth and for each model."""
    columns = [name for name in TITLES if name in arrays]
    pictures = arrays["pictures"]
    rows, size = len(pictures), pictures.shape[1]
    figure = Figure(figsize=(2.1 * len(columns), 2.1 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for row, axes_of_row in enumerate(grid):
        for name, axes in zip(columns, axes_of_row, strict=True):
            axes.imshow(pictures[row], extent=(0, size, size, 0), interpolation="nearest")
            for way in arrays[name][row].swapaxes(0, 1):  # [H, P, 2] to one future after another
                points = np.vstack([arrays["starts"][row], way])
                axes.plot(*points.T, "o-", color="w", alpha=0.35, markersize=2, linewidth=0.8)
                axes.plot(*points[-1], "o", color="tab:cyan", markersize=3.5)
            axes.set(xlim=(0, size), ylim=(size, 0))
            axes.set_axis_off()
            if row == 0:
                axes.set_title(TITLES[name])
    return figure
