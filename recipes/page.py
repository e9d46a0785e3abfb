"""The report's HTML: escaped text, embedded images, tables, the player, one style sheet."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from .results import Measured, shown

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --muted: #667085; --line: #e4e7ec;
  --paper: #ffffff; --panel: #f7f8fa; --bad: #c4320a; --blue: #2f6fbf; --orange: #d06a12;
  --green: #2d8a5f; --purple: #7a52b3; --teal: #14868c; --pink: #c13b7a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --muted: #98a2b3;
  --line: #2c313a; --paper: #14171c; --panel: #1b1f26; --bad: #ff8a65; --blue: #6ea8ec;
  --orange: #f0a35e; --green: #63c197; --purple: #b596e6;
  --teal: #52c3c8; --pink: #f088b6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 28px 96px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 21px; margin: 60px 0 6px; padding-top: 18px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 32px 0 4px; }
p { max-width: 74ch; margin: 6px 0 14px; }
.muted, figcaption, caption { color: var(--muted); font-size: 14px; }
nav { margin: 18px 0 0; font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 16px; margin: 10px 0; overflow-x: auto; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--muted); font-size: 14px; }
figure { margin: 0; } figcaption { margin-top: 6px; max-width: 74ch; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
img { display: block; } img.pixels { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.numbers { width: 100%; margin: 14px 0; }
.numbers th { font-weight: 400; text-align: left; padding: 3px 18px 3px 0; }
.numbers td { padding: 3px 18px 3px 0; white-space: nowrap; }
.numbers thead th { color: var(--muted); font-size: 13px; border-bottom: 1px solid var(--line); }
.numbers .ours th, .numbers .ours td { font-weight: 650; padding-top: 16px; }
.numbers .ours small { font-weight: 400; } .numbers small { color: var(--muted); }
.numbers .base th { padding-left: 22px; }
.numbers td:last-child { width: 36%; padding-right: 0; }
.bar { display: block; position: relative; height: 13px; background: var(--panel);
  border-radius: 3px; min-width: 160px; }
.bar b { position: absolute; inset: 0 auto 0 0; background: var(--muted); opacity: .45;
  border-radius: 3px 0 0 3px; }
.ours .bar b { background: var(--blue); opacity: .9; }
.bar i { position: absolute; top: 3px; bottom: 3px; border: solid var(--ink);
  border-width: 0 1.5px; }
.bar i::after { content: ""; position: absolute; left: 0; right: 0; top: 50%; margin-top: -.75px;
  height: 1.5px; background: var(--ink); }
.large, .small { display: grid; gap: 22px 26px; margin: 14px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.small { grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 18px 14px; }
.large > *, .small > * { max-width: 640px; }
.sheet { display: grid; gap: 8px; margin: 14px 0; min-width: 760px; align-items: center; }
.sheet img { width: 100%; border-radius: 3px; }
.sheet span { font-size: 13px; color: var(--muted); line-height: 1.35; }
.near { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr));
  gap: 16px 40px; margin: 14px 0; }
.near > div { display: grid; gap: 7px;
  grid-template-columns: minmax(0, 1.16fr) repeat(5, minmax(0, 1fr)); }
.near figure { font-size: 11px; line-height: 1.25; color: var(--muted); text-align: center;
  overflow-wrap: anywhere; }
.near img { width: 100%; border-radius: 4px; border: 3px solid transparent; margin-bottom: 3px; }
.near .same img { border-color: var(--blue); } .near .other img { border-color: var(--orange); }
.near .query { margin-right: 10px; color: var(--ink); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin: 0 5px 0 12px; vertical-align: -1px; }
.control { display: grid; grid-template-columns: minmax(320px, 420px) minmax(150px, 200px) 1fr;
  gap: 26px; align-items: start; margin: 16px 0; }
.player canvas { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; }
.player div { display: flex; gap: 12px; align-items: center; margin-top: 8px; font-size: 13px;
  color: var(--muted); font-variant-numeric: tabular-nums; }
.player input { flex: 1; min-width: 60px; accent-color: var(--blue); }
.player button { font: inherit; color: inherit; background: var(--panel); cursor: pointer;
  border: 1px solid var(--line); border-radius: 6px; padding: 2px 0; width: 64px; }
.control img { width: 100%; border-radius: 6px; }
.chip { display: inline-block; width: 10px; height: 10px; border: 2px solid; border-radius: 50%;
  margin-right: 7px; }
.encoders { display: flex; flex-wrap: wrap; gap: 4px 20px; max-width: none; }
.compared { margin: 14px 0; font-size: 15px; }
.compared th, .compared td { padding: 5px 18px 5px 0; text-align: left; font-weight: 400;
  white-space: nowrap; vertical-align: top; }
.compared thead th { color: var(--muted); font-size: 13px; white-space: normal;
  vertical-align: bottom; border-bottom: 1px solid var(--line); }
.compared tbody th { position: sticky; left: 0; background: var(--paper); }
.compared small { display: block; color: var(--muted); font-size: 12px; }
.chart { max-width: 640px; } .wide { min-width: 720px; }
.maps { display: grid; gap: 20px 26px; margin: 14px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); }
.map { background: var(--panel); border-radius: 8px; overflow: visible; }
.map path { fill: none; }
.map text { font-size: 15px; font-weight: 600; text-anchor: middle; fill: var(--ink);
  stroke: var(--panel); stroke-width: 4px; paint-order: stroke; }
.confusion text { font-size: 12px; fill: var(--ink); text-anchor: middle; }
.confusion .row { text-anchor: end; fill: var(--muted); }
.confusion .column { text-anchor: start; fill: var(--muted); }
.four { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.sheet .four img { border: 2px solid; } .sheet .four span { color: var(--orange); }
.sheet .four .same { color: var(--blue); }
@media (max-width: 900px) { .control { grid-template-columns: 1fr; }
  .near { grid-template-columns: 1fr; } }
@media print { .player div { display: none; } }
"""

PLAYER = """
for (const box of document.querySelectorAll(".player")) {
  const episode = JSON.parse(box.dataset.episode), sheet = new Image();
  const canvas = box.querySelector("canvas"), pen = canvas.getContext("2d");
  const slider = box.querySelector("input"), button = box.querySelector("button");
  const label = box.querySelector("span");
  const { size, columns, positions, imagined, above, goal } = episode, scale = canvas.width / size;
  const last = positions.length - 1;
  let at = 0, wait = 0, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const line = (points, colour, dash) => {
    pen.strokeStyle = colour; pen.setLineDash(dash); pen.beginPath();
    points.forEach(([x, y]) => pen.lineTo(x * scale, y * scale)); pen.stroke(); };
  const disc = ([x, y], radius, colour, filled) => {
    pen.beginPath(); pen.arc(x * scale, y * scale, radius, 0, 7); pen.setLineDash([]);
    pen.fillStyle = pen.strokeStyle = colour; filled ? pen.fill() : pen.stroke(); };
  const draw = () => {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet, (at % columns) * size, Math.floor(at / columns) * size, size, size,
      0, 0, canvas.width, canvas.height);
    pen.lineWidth = 3; pen.lineJoin = "round";
    line(positions.slice(0, at + 1), "rgba(255, 255, 255, .75)", []);
    if (at < above.length) {
      line([positions[at], ...above[at]], "rgba(255, 160, 60, .8)", [3, 7]);
      above[at].forEach(point => disc(point, 5, "rgb(255, 160, 60)", true));
      disc(above[at][0], 12, "rgb(255, 160, 60)", false); }
    if (at < imagined.length) {
      line([positions[at], ...imagined[at]], "rgba(84, 214, 255, .9)", [6, 6]);
      imagined[at].forEach(point => disc(point, 4.5, "rgb(84, 214, 255)", true)); }
    disc(goal, 15, "rgb(120, 230, 140)", false);
    slider.value = at;
    label.textContent = at < last ? `decision ${at + 1} of ${last}` : "end"; };
  sheet.onload = draw; sheet.src = episode.sheet;
  const show = () => { button.textContent = playing ? "pause" : "play"; };
  button.onclick = () => { playing = !playing; show(); };
  slider.oninput = () => { at = +slider.value; playing = false; show(); draw(); };
  setInterval(() => { if (!playing) return;
    if (at === last && ++wait < 8) return;
    wait = 0; at = at === last ? 0 : at + 1; draw(); }, 160);
  show();
}
"""

Html = str  # text that is already HTML; everything else goes through `escape`


def document(title: str, intro: Html, sections: Sequence[tuple[str, Html]]) -> Html:
    """The whole page: one file that loads nothing."""
    links = "".join(
        f'<a href="#part{i}">{escape(name)}</a>' for i, (name, _) in enumerate(sections)
    )
    body = "".join(
        f'<section id="part{i}"><h2>{escape(name)}</h2>{content}</section>'
        for i, (name, content) in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>{intro}<nav>{links}</nav>\n{body}</main>\n"
        f"<script>{PLAYER}</script></body></html>\n"
    )


def data_uri(image: UInt8[np.ndarray, "H W C"]) -> str:
    """A grey, RGB or RGBA image as a PNG inside a URI."""
    stream = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def picture(image: UInt8[np.ndarray, "H W C"], alt: str) -> Html:
    """An embedded image; its pixels stay sharp squares when enlarged."""
    return f'<img class="pixels" src="{data_uri(image)}" alt="{escape(alt)}">'


def figure(content: Html, caption: Html = "", classes: str = "") -> Html:
    """Something to look at, and what it is."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="{classes}">{content}{below}</figure>'


def details(summary: str, content: Html) -> Html:
    """Folded away until asked for."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def code(text: str) -> Html:
    """A block of code, which scrolls rather than wraps."""
    return f"<pre><code>{escape(text)}</code></pre>"


def numbers(groups: Iterable[Sequence[tuple[str, str, Measured]]]) -> Html:
    """A table of groups of (name, explanation, number); a group's first row is ours.

    Bars stand where all numbers of a group may be shares.
    """
    rows = []
    for group in groups:
        shares = all(0 <= number["value"] <= 1 for *_, number in group)
        for i, (name, words, number) in enumerate(group):
            value, _, interval = shown(number).partition(" ")
            rows.append(
                f'<tr class="{"base" if i else "ours"}"><th scope="row">{escape(name)}'
                f" <small>{escape(words)}</small></th><td>{value}</td>"
                f"<td>{interval.strip('()')}</td><td>{bar(number) if shares else ''}</td></tr>"
            )
    head = "".join(
        f'<th scope="col">{word}</th>' for word in ("number", "value", "95 % interval", "")
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def bar(number: Measured) -> Html:
    """A share as a horizontal bar from 0 to 1 with whiskers; nothing for other numbers."""
    low, value, high = (100 * number[key] for key in ("low", "value", "high"))
    if not 0 <= low < high <= 100:
        return ""
    return (
        f'<span class="bar"><b style="width:{value:.2f}%"></b>'
        f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i></span>'
    )


def facts(values: Mapping[str, object]) -> Html:
    """A small table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f'<table class="numbers" style="width:auto"><tbody>{rows}</tbody></table>'


def player(
    frames: UInt8[np.ndarray, "T H W 3"],
    positions: Float[np.ndarray, "T 2"],
    imagined: Float[np.ndarray, "D horizon 2"],
    goal: Float[np.ndarray, "2"],
    above: Float[np.ndarray, "D horizon2 2"] | None = None,
) -> Html:
    """Plays an episode: frames, the way so far, and at each decision the imagined plan, and that of
    a level above, if any.

    Positions are (x, y) in pixels of the frames, which are square.
    """
    columns = min(len(frames), 16)
    padded = np.concatenate([frames, np.zeros_like(frames[: -len(frames) % columns])])
    sheet = padded.reshape(-1, columns, *frames.shape[1:]).swapaxes(1, 2)
    episode: dict[str, Any] = {
        "sheet": data_uri(sheet.reshape(-1, columns * frames.shape[2], 3)),
        "size": frames.shape[1],
        "columns": columns,
        "positions": positions.round(2).tolist(),
        "imagined": [plan[np.isfinite(plan).all(axis=1)].round(2).tolist() for plan in imagined],
        "above": [] if above is None else above.round(2).tolist(),
        "goal": goal.round(2).tolist(),
    }
    return (
        f'<div class="player" data-episode="{escape(json.dumps(episode))}">'
        '<canvas width="768" height="768"></canvas><div><button type="button">play</button>'
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" aria-label="decision">'
        "<span></span></div></div>"
    )
