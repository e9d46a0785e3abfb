"""What encoders make of the same images: maps, neighbours, features of patches, confusion."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from . import comparison_figures as figures
from . import page
from .comparison_figures import Look
from .measuring import Cell
from .page import Html
from .pictures import as_colours

QUERIES, NEIGHBOURS, PATCHES = 6, 4, 8  # images on the page
Here = Mapping[str, Cell]  # the encoders on one set of images


def chip(name: str, look: Look) -> Html:
    """An encoder's name with its colour; baselines, which are grey, are drawn hollow."""
    style = f"border-color:{look.css}" + (f";background:{look.css}" if look.dashes == "-" else "")
    return f'<span class="chip" style="{style}"></span>{escape(name)}'


def maps(here: Here, look: Mapping[str, Look]) -> Html:
    """t-SNE of the same test images under each encoder."""
    classes = next(iter(here.values())).classes
    key = "".join(
        f'<span><span class="chip" style="border-color:{hue};background:{hue}"></span>'
        f"{escape(name)}</span>"
        for name, hue in zip(classes, figures.hues(len(classes)), strict=True)
    )
    shown = "".join(
        page.figure(
            figures.map_svg(cell.map, cell.map_labels, cell.classes), chip(name, look[name])
        )
        for name, cell in here.items()
    )
    return (
        "<h3>Maps of the test images</h3>"
        '<p class="muted">t-SNE of the same images: those that an encoder finds alike lie '
        "together. Distances between far groups, and their sizes, mean nothing.</p>"
        f'<p class="encoders muted">{key}</p><div class="maps">{shown}</div>'
    )


def neighbours(here: Here, look: Mapping[str, Look]) -> Html:
    """The same queries under each encoder, and the training images nearest to them."""
    some = next(iter(here.values())).pictures
    count = min(QUERIES, len(some.images))
    style = f"grid-template-columns:136px repeat({count},1fr)"
    sheet = "<span>test images</span>" + "".join(
        page.picture(image, str(some.classes[label]))
        for image, label in zip(some.images[:count], some.labels, strict=False)
    )
    for name, cell in here.items():
        shown = cell.pictures
        words = f"{100 * shown.same_class:.0f} % of the same class"
        sheet += f"<span>{chip(name, look[name])}<br>{words}</span>"
        for query in range(count):
            near = zip(
                shown.neighbour_images[query, :NEIGHBOURS],
                shown.neighbour_labels[query],
                strict=False,
            )
            sheet += (
                '<div class="four">'
                + "".join(
                    f'<span class="{"same" if label == shown.labels[query] else "other"}">'
                    f"{page.picture(image, str(shown.classes[label]))}</span>"
                    for image, label in near
                )
                + "</div>"
            )
    key = "".join(
        f'<span class="key" style="background:var(--{colour})"></span>{words}'
        for colour, words in (("blue", "same class"), ("orange", "another class"))
    )
    return "<h3>Nearest neighbours</h3>" + page.figure(
        f'<div class="scroll"><div class="sheet" style="{style}">{sheet}</div></div>',
        f"The four nearest of {some.bank:,} training images by cosine of mean-pooled features: "
        f"{key}. Shares are over {some.queries:,} test images and five neighbours.",
    )


def patches(here: Here, look: Mapping[str, Look]) -> Html:
    """Principal components of patch features as colours; raw pixels have no patches."""
    able = {n: c.pictures for n, c in here.items() if c.pictures.components.shape[1] > 1}
    if not able:
        return ""
    some = next(iter(able.values()))
    count = min(PATCHES, len(some.images))
    sheet = "<span>test images</span>" + "".join(
        page.picture(image, "test image") for image in some.images[:count]
    )
    for name, shown in able.items():
        sheet += f"<span>{chip(name, look[name])}</span>" + "".join(
            page.picture(image, f"patch features, {name}")
            for image in as_colours(shown.components)[:count]
        )
    style = f"grid-template-columns:136px repeat({count},1fr)"
    return "<h3>Features of patches</h3>" + page.figure(
        f'<div class="scroll"><div class="sheet" style="{style}">{sheet}</div></div>',
        "First three principal components of each encoder's patch features as red, green and blue, "
        "after the mean of each position is subtracted. Colours of different encoders are not "
        "comparable.",
    )


def confusion(here: Here, look: Mapping[str, Look]) -> Html:
    """What the linear probe, or the first other classifier, takes for what."""
    charts = []
    for name, cell in here.items():
        if cell.predicted:
            probe = "linear" if "linear" in cell.predicted else next(iter(cell.predicted))
            chart = figures.confusion_svg(cell.labels, cell.predicted[probe], cell.classes)
            charts.append(page.figure(chart, f"{chip(name, look[name])}, {probe} probe"))
    if not charts:
        return ""
    sheet = "".join(charts[:2]), "".join(charts[2:])
    html = f'<h3>Confusion</h3><div class="large">{sheet[0]}</div>'
    note = (
        '<p class="muted">Rows: the class; columns: what the probe says, in % of the row; below '
        "1 % is left empty.</p>"
    )
    more = page.details("of the others", f'<div class="large">{sheet[1]}</div>') if sheet[1] else ""
    return html + note + more
