"""An answer's attention as one HTML file: point at a word of the question or answer, see where it looked.

The file needs nothing else, neither a server nor the network; its policy forbids to load anything. Words can
be reached by mouse, touch and keyboard (arrow keys), numbers are read out, colors follow the reader's choice
of light or dark.

    Path("attention.html").write_text(page(image, question, maps, views(maps)), encoding="utf-8")
"""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from minillava.attention import AnswerMaps
from minillava.figure import HEAT, outlines
from minillava.heads import find_heads
from minillava.images import open_image
from minillava.model import Picture
from minillava.passage import Passage
from minillava.relevance import METHODS

EVERY_HEAD = 64
"""Models of at most so many heads get a view of each; others of three that look at one spot."""

UNITS = {"relative": "times the attention of a general question", "logit lens": "probability"}
"""What the numbers of a method of relevance are, where they are no shares of attention."""

LONGEST_EDGE = 768
"""Pixels to which a larger picture is reduced."""


@dataclass(frozen=True)
class View:
    """One way to see where the words look.

    Attributes:
        name: what the reader chooses by.
        maps: [question's tokens + answer's tokens, grid, grid]; NaN for words the view says nothing about.
        unit: what the numbers are; "attention" is a share, printed in percent.
    """

    name: str
    maps: np.ndarray
    unit: str = "attention"


def views(found: AnswerMaps, said: Passage | None = None) -> list[View]:
    """The mean of all heads, each layer's mean, single heads; and with `said` every method of relevance.

    Means of one are left out, where `found` has one layer or head.

    Args:
        said: the same question and answer as a passage (`passage(model, image, question, found.answer)`).
    """
    maps = np.concatenate([found.prompt.maps, found.answered.maps])  # [tokens, L, H, grid, grid]
    made = []
    if len(found.layers) > 1:
        name = "mean of all heads" if len(found.heads) > 1 else f"head {found.heads[0]}, mean of layers"
        made.append(View(name, maps.mean((1, 2))))
    if len(found.heads) > 1:
        made += [View(f"layer {layer}, mean", maps[:, i].mean(1)) for i, layer in enumerate(found.layers)]
    shape = maps.shape[1:3]
    if np.prod(shape) <= EVERY_HEAD:
        chosen = list(np.ndindex(shape))
    else:
        chosen = find_heads(found.answered.maps if len(found.answered.maps) else found.prompt.maps)
    made += [View(f"layer {found.layers[i]}, head {found.heads[j]}", maps[:, i, j]) for i, j in chosen]
    if said is not None:
        silent = np.full((len(found.prompt.tokens), *maps.shape[3:]), np.nan)
        for name, method in METHODS.items():
            if name != "raw":  # the mean of all heads, already there
                explained = np.concatenate([silent, method(said).maps])
                made.append(View(f"method: {name}", explained, UNITS.get(name, "relevance")))
    return made


def reduced(picture: Image.Image) -> Image.Image:
    """The picture, its longer edge at most LONGEST_EDGE pixels."""
    small = picture.copy()
    small.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
    return small


def page(image: Picture, question: str, found: AnswerMaps, shown: Sequence[View]) -> str:
    """The HTML of one answer.

    Raises:
        ValueError: there is no view, or one has not a map for each token.
    """
    words = [(token, "question") for token in found.prompt.tokens]
    words += [(token, "answer") for token in found.answered.tokens]
    for view in shown:
        if len(view.maps) != len(words):
            raise ValueError(
                f"The view {view.name!r} has {len(view.maps)} maps for {len(words)} tokens of question and "
                "answer; give one for each, NaN where there is none."
            )
    if not shown:
        raise ValueError("There is no view to show; attention_html.views(maps) makes some.")
    picture = open_image(image)
    small, geometry = reduced(picture), found.geometry
    left, top, right, bottom = geometry.box(0, 0)
    data = {
        "tokens": [{"text": text, "part": part} for text, part in words],
        "views": [_packed(view, geometry.inside) for view in shown],
        "grid": geometry.grid,
        "size": picture.size,
        "cell": [left, top, right - left, bottom - top],
        "colors": [to_hex(color) for color in colormaps[HEAT](np.linspace(0, 1, 256))],
        "picture": _data_url(small),
        "outlines": _data_url(_sketch(small)),
    }
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    # why not one replacement after the other: the question may hold the other's mark
    before, between, after = re.split("%TITLE%|%DATA%", PAGE)
    return before + html.escape(question.split("\n")[0]) + between + packed + after


def _packed(view: View, inside: np.ndarray) -> dict:
    """A view in little room: each map in 256 steps up to its peak, and its exact numbers beside it."""
    silent = np.isnan(view.maps).any((1, 2))
    maps = np.where(silent[:, None, None], 0, view.maps)
    peaks = maps.max((1, 2))
    steps = np.round(255 * maps / np.where(peaks > 0, peaks, 1)[:, None, None]).astype(np.uint8)
    return {
        "name": view.name,
        "unit": view.unit,
        "peaks": [None if quiet else _short(peak) for quiet, peak in zip(silent, peaks, strict=True)],
        "masses": [_short(mass) for mass in maps.sum((1, 2))],
        "padding": [_short(mass) for mass in (maps * ~inside).sum((1, 2))],
        "maps": base64.b64encode(steps.tobytes()).decode(),
    }


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def _sketch(picture: Image.Image) -> Image.Image:
    """The picture's edges, to lie on the heat: white where there is one, transparent elsewhere."""
    pixels = np.full((picture.height, picture.width, 4), 255, np.uint8)
    pixels[..., 3] = 255 * outlines(np.asarray(picture))
    return Image.fromarray(pixels)


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Where it looked: %TITLE%</title>
<style>
:root { color-scheme: light dark; --ground: #fff; --ink: #222; --soft: #5c5c5c; --line: #c9c9c9;
  --here: #0072b2; --on: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181b; --ink: #ececec; --soft: #a9adb3; --line: #4a4e55;
    --here: #56b4e9; --on: #10131a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
h2 { font-size: .85rem; font-weight: 600; color: var(--soft); margin: .75rem 0 .1rem; }
p { margin: .25rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.words { display: flex; flex-wrap: wrap; row-gap: .3rem; }
.words button { font: inherit; font-size: 1.1rem; color: inherit; background: none; cursor: pointer;
  padding: .15rem; border: 1px solid transparent; border-radius: .35rem; min-width: 1.5rem;
  min-height: 2rem; }
.words button.starts { margin-left: .3rem; }
.words button[data-silent] { color: var(--soft); }
.words button:hover, .words button[aria-pressed=true] { background: var(--here); color: var(--on); }
.words button:focus-visible, select:focus-visible, input:focus-visible { outline: 3px solid var(--here);
  outline-offset: 2px; }
.maps { display: flex; flex-wrap: wrap; gap: 1rem; margin: .75rem 0; }
figure { margin: 0; flex: 1 1 17rem; min-width: 0; }
canvas { display: block; width: 100%; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .9rem; }
.scale { display: flex; align-items: center; gap: .5rem; font-variant-numeric: tabular-nums; }
.scale canvas { flex: 1; width: 0; height: .8rem; }
.scale span { white-space: nowrap; }
.choice { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; }
select { font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--line);
  border-radius: .35rem; padding: .25rem; max-width: 100%; }
label { display: inline-flex; gap: .4rem; align-items: center; flex-wrap: wrap; }
#numbers { min-height: 3em; }
</style>
</head>
<body>
<main>
<h1>Where it looked</h1>
<p class="soft">Point at a word, tap it, or move with the arrow keys. A word of the question shows its own row
of attention, a word of the answer the row that predicted it.</p>
<noscript><p><strong>This page needs JavaScript, which is all inside it.</strong></p></noscript>
<h2 id="asks">Question</h2>
<div class="words" id="question" role="group" aria-labelledby="asks"></div>
<h2 id="says">Answer</h2>
<div class="words" id="answer" role="group" aria-labelledby="says"></div>
<div class="maps">
<figure><canvas id="picture" role="img" aria-label="The picture"></canvas>
<figcaption>The picture; framed: the strongest patch</figcaption></figure>
<figure><canvas id="heat" role="img" aria-label="The map of the chosen word; described below"></canvas>
<figcaption class="scale"><span>0</span><canvas id="bar" width="256" height="1"></canvas>
<span id="top"></span></figcaption></figure>
</div>
<p id="numbers" aria-live="polite"></p>
<div class="choice">
<label>Map <select id="view"></select></label>
<label><input type="checkbox" id="same"> one color scale for all words</label>
</div>
</main>
<script type="application/json" id="data">%DATA%</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const cells = data.grid * data.grid;
for (const view of data.views)
  view.steps = Uint8Array.from(atob(view.maps), (letter) => letter.charCodeAt(0));
const percent = (share) => (100 * share).toFixed(1) + " %";
let view = data.views[0], word = 0;

const load = (url) => new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image);
  image.src = url;
});

function buttons() {
  data.tokens.forEach((token, index) => {
    const button = document.createElement("button");
    const blank = token.text.includes("\\n") ? "\\u23ce" : token.text ? "\\u2423" : "\\u00b7";
    button.type = "button";
    button.textContent = token.text.trim() || blank;
    if (token.text.startsWith(" ")) button.className = "starts";
    button.addEventListener("pointerenter", () => choose(index));
    button.addEventListener("focus", () => choose(index));
    button.addEventListener("click", () => choose(index));
    button.addEventListener("keydown", (event) => step(event, index));
    at(token.part).append(button);
    token.button = button;
  });
}

function step(event, index) {
  const last = data.tokens.length - 1;
  const to = { ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1,
    Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  data.tokens[Math.min(Math.max(to, 0), last)].button.focus();
}

function choose(index) {
  word = index;
  draw();
}

function shown(value) {
  return view.unit === "attention" ? percent(value) : value.toPrecision(3);
}

function strongest() {
  const steps = view.steps.subarray(word * cells, (word + 1) * cells);
  const cell = steps.indexOf(255);
  return cell < 0 ? null : [Math.floor(cell / data.grid), cell % data.grid];
}

function place(best) {
  if (!best) return "";
  const [row, column] = best, [left, above, wide, high] = data.cell, [width, height] = data.size;
  const inside = left + wide * (column + 1) > 0 && left + wide * column < width &&
    above + high * (row + 1) > 0 && above + high * row < height;
  return ", in row " + (row + 1) + ", column " + (column + 1) + " of " + data.grid +
    (inside ? "" : ", which is padding");
}

function numbers(peak) {
  const name = "\\u201c" + data.tokens[word].button.textContent + "\\u201d";
  if (peak === null) return name + ": this method explains the words of the answer only.";
  const where = place(strongest()), padding = view.padding[word];
  if (view.unit !== "attention")
    return name + ": at most " + peak.toPrecision(3) + " (" + view.unit + ") on a patch" + where + ".";
  return name + ": " + percent(view.masses[word] - padding) + " of its attention is on the picture" +
    (padding >= 0.0005 ? ", " + percent(padding) + " on its padding, which is not shown" : "") +
    ", at most " + percent(peak) + " on a patch" + where + ".";
}

function draw() {
  const [width, height] = data.size, peak = view.peaks[word];
  const top = at("same").checked ? Math.max(...view.peaks) : peak;
  data.tokens.forEach((token, index) => {
    token.button.setAttribute("aria-pressed", index === word);
    token.button.tabIndex = index === word ? 0 : -1;
    token.button.toggleAttribute("data-silent", view.peaks[index] === null);
  });
  const scale = data.scale;
  const heat = at("heat").getContext("2d"), plain = at("picture").getContext("2d");
  heat.setTransform(scale, 0, 0, scale, 0, 0);
  heat.fillStyle = data.colors[0];
  heat.fillRect(0, 0, width, height);
  const [left, above, wide, high] = data.cell;
  const edge = (start, size, index) => Math.round((start + size * index) * scale) / scale;
  for (let cell = 0; peak !== null && cell < cells; cell++) {
    const row = Math.floor(cell / data.grid), column = cell % data.grid;
    const part = top > 0 ? view.steps[word * cells + cell] * peak / top : 0;
    const x = edge(left, wide, column), y = edge(above, high, row);
    heat.fillStyle = data.colors[Math.min(255, Math.round(part))];
    heat.fillRect(x, y, edge(left, wide, column + 1) - x, edge(above, high, row + 1) - y);
  }
  heat.drawImage(data.images[1], 0, 0, width, height);
  plain.setTransform(scale, 0, 0, scale, 0, 0);
  plain.drawImage(data.images[0], 0, 0, width, height);
  const best = peak === null ? null : strongest();
  if (best) {
    for (const [color, line] of [["black", 4], ["white", 2]]) {
      plain.strokeStyle = color;
      plain.lineWidth = line * at("picture").width / 640 / scale;
      plain.strokeRect(left + wide * best[1], above + high * best[0], wide, high);
    }
  }
  at("top").textContent = peak === null ? "" : shown(top);
  at("numbers").textContent = numbers(peak);
}

async function start() {
  data.images = [await load(data.picture), await load(data.outlines)];
  const [width, height] = data.size;
  data.scale = 640 / Math.max(width, height);
  for (const id of ["picture", "heat"]) {
    at(id).width = Math.ceil(width * data.scale);
    at(id).height = Math.ceil(height * data.scale);
  }
  const bar = at("bar").getContext("2d");
  data.colors.forEach((color, index) => { bar.fillStyle = color; bar.fillRect(index, 0, 1, 1); });
  data.views.forEach((one, index) => at("view").add(new Option(one.name, index)));
  at("view").addEventListener("change", () => { view = data.views[at("view").value]; draw(); });
  at("same").addEventListener("change", draw);
  buttons();
  choose(Math.max(0, data.tokens.findIndex((token) => token.part === "answer")));
}
start();
</script>
</body>
</html>
"""
