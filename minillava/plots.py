"""Every figure of the course, from plain arrays. Each function returns the figure, shows nothing.

Colors: perceptually uniform maps for quantities, the color-blind safe palette of Okabe and Ito for
kinds, and never color alone: right and wrong have a sign too.

Shapes: pictures are PIL's or [height, width, 3] arrays; `heat` is [grid, grid], laid over the whole
picture, or [height, width] (`PatchGeometry.heatmap`), which is right for padded pictures too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from minillava.figure import (
    BLUE,
    INK,
    LINES,
    MUTED,
    ORANGE,
    SCORE,
    SKY,
    VERMILION,
    Box,
    Cell,
    Figure,
    Notes,
    color_bar,
    draw_boxes,
    overlay,
    picture,
    sheet,
    styled,
    subplots,
)


@styled
def loss_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str = "",
    ylabel: str = "loss (nats per token)",
    smooth: int = 0,
) -> Figure:
    """Losses over training steps, each curve named at its end.

    Args:
        curves: name -> (steps, values).
        smooth: draw the mean of the last so many values, and the values themselves pale behind.

    Raises:
        ValueError: a curve without points, or with more or fewer steps than values.
    """
    figure, ((axes,),) = subplots(6.4, 3.2)
    ends = []
    for (name, (steps, values)), color in zip(curves.items(), cycle(LINES), strict=False):
        steps, values = np.asarray(steps, float), np.asarray(values, float)
        if len(steps) != len(values) or not len(steps):
            raise ValueError(
                f"Curve {name!r} has {len(steps)} steps and {len(values)} values; it needs one of "
                "each for every point, and at least one point."
            )
        if smooth > 1 and len(values) > smooth:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = _trailing_mean(values, smooth)
        axes.plot(steps, values, color=color, linewidth=1.8, label=name)
        ends.append((values[-1], steps[-1], name, color))
    axes.set(title=title, xlabel="step", ylabel=ylabel)
    axes.grid(axis="y")
    _name_ends(axes, ends)
    return figure


def _trailing_mean(values: np.ndarray, count: int) -> np.ndarray:
    """Mean of each value and the count - 1 before it, of fewer at the start."""
    sums = np.concatenate([[0], values.cumsum()])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - count, 0)
    return (sums[last] - sums[first]) / (last - first)


def _name_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each curve's name and last value to its right, spread where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    right = max(step for _, step, _, _ in ends)
    at = -np.inf
    for value, _, name, color in sorted(ends):
        at = max(value, at + gap)
        axes.annotate(
            f"{name}  {value:.3g}", (right, at), xytext=(8, 0), textcoords="offset points",
            color=color, va="center", fontweight="bold", annotation_clip=False,
        )


BASELINES = {
    "blind": {"marker": "o", "markersize": 6, "markerfacecolor": "white"},
    "shuffled": {"marker": "D", "markersize": 5.5, "markerfacecolor": ORANGE},
    "majority": {"marker": "|", "markersize": 16, "markeredgewidth": 2},
}


@styled
def accuracy_bars(table: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Accuracy by question type: a bar for `sighted`, and on it what is right without looking.

    Args:
        table: question type -> {"sighted", "blind", "shuffled", "majority": share right in 0..1};
            all but "sighted" may be left out.
    """
    figure, ((axes,),) = subplots(6.4, 1.0 + 0.36 * len(table))
    places = np.arange(len(table))
    sighted = [row["sighted"] for row in table.values()]
    axes.barh(places, sighted, height=0.66, color=SKY, label="sighted")
    for place, share in zip(places, sighted, strict=True):
        axes.text(1.115, place, f"{share:.0%}", va="center", ha="right", fontweight="bold")
    # why not on one line: they are often equal, and that is the point
    for (name, look), shift in zip(BASELINES.items(), (-0.17, 0.17, 0), strict=True):
        points = [(row[name], i + shift) for i, row in enumerate(table.values()) if name in row]
        if points:
            look = {"markeredgecolor": INK, "linestyle": "none", **look}
            axes.plot(*zip(*points, strict=True), label=name, **look)
    axes.set(xlim=(0, 1.13), yticks=places, yticklabels=list(table), title=title)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{x:.0%}" for x in np.linspace(0, 1, 6)])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    bars, *baselines = reversed(axes.get_legend_handles_labels()[0])
    figure.legend(
        handles=[bars, *reversed(baselines)], loc="outside lower center", ncols=4,
        handletextpad=0.4, columnspacing=1.6,
    )
    return figure


@styled
def contact_sheet(
    images: Sequence, captions: Sequence[str] | None = None, columns: int = 6
) -> Figure:
    """Pictures in rows, each with its caption below."""
    captions = [""] * len(images) if captions is None else captions
    _same_length(images=images, captions=captions)
    cells = [
        Cell([(image, picture)], [(caption, INK)])
        for image, caption in zip(images, captions, strict=True)
    ]
    return sheet(cells, columns, width=1.45)


@styled
def answered_pictures(
    images: Sequence,
    questions: Sequence[str],
    answers: Sequence[str],
    expected: Sequence[str],
    columns: int = 4,
) -> Figure:
    """A page of pictures, questions and answers: ✓ right, or ✗ wrong and what was expected.

    Right means equal but for case, spaces and a final period.
    """
    _same_length(images=images, questions=questions, answers=answers, expected=expected)
    cells = [
        Cell([(image, picture)], [(question, INK), *_verdict(answer, truth)])
        for image, question, answer, truth in zip(
            images, questions, answers, expected, strict=True
        )
    ]
    return sheet(cells, columns, width=1.9)


@styled
def attention_overlay(
    image,
    heat: np.ndarray,
    boxes: Sequence[Box] = (),
    title: str = "",
    mass: float | None = None,
    top: float | None = None,
) -> Figure:
    """One attention map over its picture, beside the picture itself, both with the true boxes.

    Args:
        heat: share of the row's attention per patch; for its shapes see the module's docstring.
        mass: share of the row's attention that falls on the picture at all; printed.
        top: attention that gets the brightest color; the map's peak by default. The scale starts
            at 0, so maps with one `top` can be compared.
    """
    top = _peak(heat) if top is None else top
    height, width = np.asarray(image).shape[:2]
    side = 2.4
    tall = side * min(height / width, 1.6)
    figure, (axes,) = subplots(2 * side + 0.9, tall + 0.7, columns=2)
    picture(axes[0], image)
    draw_boxes(axes[0], boxes)
    overlay(axes[1], image, heat, boxes, top)
    color_bar(axes[1], axes[1].images[0], ticks=[0, top / 2, top], format="{x:.1%}")
    axes[0].set_title(title)
    axes[1].set_xlabel(_strength(heat, mass), fontsize=8)
    return figure


@dataclass(frozen=True)
class AttentionExample:
    """One example of `attention_page`.

    Attributes:
        image, question, answer, expected: the picture and what was said about it.
        word: the token whose row `heat` is.
        heat, boxes, mass: as in `attention_overlay`.
    """

    image: object
    question: str
    answer: str
    heat: np.ndarray
    boxes: Sequence[Box] = ()
    expected: str | None = None
    word: str = ""
    mass: float | None = None


@styled
def attention_page(examples: Sequence[AttentionExample], columns: int = 2) -> Figure:
    """Answers with the pictures they are about: what was asked, and where one word looked.

    Each map has its own scale from 0 to its peak, which is printed below with the image mass.
    """
    _same_length(examples=examples)
    cells = []
    for example in examples:
        panels = [
            (example.image, partial(picture, boxes=example.boxes)),
            (example.image, partial(
                overlay, heat=example.heat, boxes=example.boxes, top=_peak(example.heat)
            )),
        ]
        where = f"“{example.word.strip()}” looks: " if example.word.strip() else ""
        cells.append(Cell(panels, [
            (example.question, INK),
            *_verdict(example.answer, example.expected),
            (where + _strength(example.heat, example.mass), MUTED),
        ]))
    return sheet(cells, columns, width=3.3)


@styled
def head_grid(
    scores: np.ndarray,
    title: str = "",
    label: str = "pointing score",
    baseline: float | None = None,
    top: float = 1.0,
) -> Figure:
    """Scores of every head, [L, H], the best one framed.

    Args:
        baseline: what it has to beat, such as another thing's score; marked on the color bar, and named.
        top: score of the brightest color; the scale starts at 0.
    """
    scores = np.asarray(scores, float)
    layers, heads = scores.shape
    cell = min(0.5, 6 / max(layers, heads))
    figure, ((axes,),) = subplots(cell * heads + 1.8, cell * layers + 1.0)
    axes.imshow(scores, cmap=SCORE, vmin=0, vmax=top)
    axes.set(xlabel="head", ylabel="layer", title=title)
    axes.set_xticks(range(0, heads, -(-heads // 16)))
    axes.set_yticks(range(0, layers, -(-layers // 16)))
    axes.spines[:].set_visible(False)
    if max(layers, heads) <= 12:  # larger grids would be a page of small print
        for (layer, head), score in np.ndenumerate(scores):
            axes.text(
                head, layer, f"{score:.2f}".replace("0.", "."), ha="center", va="center",
                fontsize=8, color="white" if score < 0.6 * top else INK,
            )
    layer, head = np.unravel_index(np.argmax(scores), scores.shape)
    axes.add_patch(Rectangle(
        (head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=VERMILION, linewidth=2.5,
        clip_on=False, zorder=3,
    ))
    seen = baseline is not None and baseline > 0.01 * top  # else the line would be the bar's own edge
    mark = "" if baseline is None else f" ({'line: ' if seen else ''}baseline, {baseline:.2f})"
    bar = color_bar(axes, axes.images[0], label=label + mark)
    if seen:
        bar.ax.axhline(baseline, color=VERMILION, linewidth=2.5)
    return figure


def _same_length(**lists: Sequence) -> None:
    lengths = {name: len(items) for name, items in lists.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"Give one of each for every picture, and at least one; got {lengths}.")


def _verdict(answer: str, expected: str | None) -> Notes:
    if expected is None:
        return [(f"→ {answer}", BLUE)]
    if _plain(answer) == _plain(expected):
        return [(f"✓ {answer}", BLUE)]
    return [(f"✗ {answer}", VERMILION), (f"expected: {expected}", MUTED)]


def _plain(answer: str) -> str:
    return " ".join(answer.lower().split()).removesuffix(".")


def _peak(heat: np.ndarray) -> float:
    """The end of a color scale that begins at 0, not at the least value: flat must look flat."""
    return float(np.nanmax(heat)) or 1.0


def _strength(heat: np.ndarray, mass: float | None) -> str:
    peak = f"peak {np.nanmax(heat):.1%} on a patch"
    return peak if mass is None else f"{mass:.1%} on the picture, {peak}"
