"""Pictures of adaptation: what is reached in each changed world, and in the old one again."""

from __future__ import annotations

from collections.abc import Mapping

from . import figures
from .page import Html, escape
from .results import Measured

OLD = "old_success"
WAYS = {"unchanged": "right after"}  # in other words


def adaptation_part(metrics: Mapping[str, Measured]) -> Html:
    """Bars for each change, from metrics CHANGE/WAY/success and CHANGE/WAY/old_success; empty
    where there are none."""
    if not any(name.endswith(f"/{OLD}") for name in metrics):
        return ""
    changes: dict[str, list[tuple[str, str, Measured]]] = {}
    for name, number in metrics.items():
        change, _, rest = name.partition("/")
        way, _, what = rest.partition("/")
        if what == "success":
            changes.setdefault(change, []).append((WAYS.get(way, way), figures.BLUE, number))
        elif what == OLD:
            changes[change].append((f"{WAYS.get(way, way)}, old world", figures.MUTED, number))
    charts = ""
    for change, rows in changes.items():
        words = f"Share of goals reached after the change {change}, with 95 % intervals"
        bars, colours = [(name, number) for name, _, number in rows], [row[1] for row in rows]
        charts += f"<div><h3>{escape(change)}</h3>{figures.share_bars(bars, colours, words)}</div>"
    return (
        '<p class="muted">Goals reached in the changed world, and, in grey, in the old one again, '
        f'by the way in which the dynamics were adapted.</p><div class="large">{charts}</div>'
    )
