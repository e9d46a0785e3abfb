"""Trends against their noise: does the loss fall while no probe rises?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LATEST = 3  # evaluations that a trend is made of: published runs have no more than a handful

ADVICE = (
    "The objective may be solved by something that the probes do not ask for. Look at "
    "online/*/rankme and online/*/lidar first: if they fall as well it is collapse, with the "
    "remedies of jepa.watch. If not, make what is predicted depend more on content: larger target "
    "blocks and less context, stronger crops, views that differ in colour; and see that the "
    "probes' labels are what the encoder is for."
)


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


class Progress(NamedTuple):
    """What is known at one evaluation.

    loss: mean over the steps since the evaluation before; None at the first step.
    probes: accuracy by name.
    """

    step: int
    loss: Estimate | None
    probes: Mapping[str, Estimate]


def accuracy(share: float, count: int) -> Estimate:
    """A share of `count` held-out samples with its binomial standard error, never below that of
    half a sample: a share of 0 or 1 is not certain either."""
    near = (share * count + 0.5) / (count + 1)
    return Estimate(share, float(np.sqrt(near * (1 - near) / count)))


def trend(steps: Sequence[int], values: Sequence[Estimate]) -> Estimate:
    """The change from the first to the last step along the line of least squares, and its error,
    which the errors of the values make."""
    x = np.asarray(steps, dtype=np.float64)
    x = (x - x.mean()) / np.ptp(x)
    value, error = np.asarray(values, dtype=np.float64).T
    weight = x / np.square(x).sum()
    return Estimate(float(weight @ value), float(np.linalg.norm(weight * error)))


def loss_without_gain(history: Sequence[Progress]) -> str | None:
    """What is wrong, if anything, with the last LATEST evaluations of a history, in words.

    The loss must have fallen by more than two standard errors; no probe has risen by more than
    one; and either a probe has fallen by more than three, or no probe is now two above where the
    history began. So a probe that rose and stays at its ceiling is no fault. The probes of a
    history share their held-out samples, so the errors of their trends are rather too large.
    """
    latest = [score for score in history[-LATEST:] if score.loss is not None]
    if len(latest) < LATEST:
        return None
    steps, first, last = [score.step for score in latest], history[0], latest[-1]
    loss = trend(steps, [score.loss for score in latest if score.loss is not None])
    probes = {name: trend(steps, [s.probes[name] for s in latest]) for name in last.probes}
    if not loss.value < -2 * loss.error or any(p.value > p.error for p in probes.values()):
        return None
    falls = any(p.value < -3 * p.error for p in probes.values())
    gains = [_apart(last.probes[name], first.probes[name]) > 2 for name in probes]
    if not falls and any(gains):
        return None
    story = "; ".join(
        f"{name} {' -> '.join(f'{100 * s.probes[name].value:.1f}' for s in (first, *latest))} %"
        for name in probes
    )
    return (
        f"the loss falls and no probe rises: from step {steps[0]} to {steps[-1]} the loss changed "
        f"by {loss.value:.3g} (standard error {loss.error:.1g}), while of the probes (at step "
        f"{first.step}, then {', '.join(map(str, steps))}) {story}. {ADVICE}"
    )


def _apart(one: Estimate, other: Estimate) -> float:
    """How many standard errors `one` lies above `other`."""
    return (one.value - other.value) / float(np.hypot(one.error, other.error))
