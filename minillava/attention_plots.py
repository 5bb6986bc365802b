"""Figures of one answer's attention, word by word, and of what depends on it, from plain arrays.

As in `plots`, where the single maps and the grid of heads are.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from minillava.figure import (
    BLUE,
    GREEN,
    INK,
    LINES,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Box,
    Cell,
    Figure,
    overlay,
    picture,
    sheet,
    styled,
    subplots,
    text_width,
)

KINDS = {"system": MUTED, "image": PURPLE, "question": BLUE, "answer": GREEN}
"""Colors of the blocks of a sequence; each also has its name written at it."""

PALE = "#DADADA"


@styled
def word_by_word(
    image,
    words: Sequence[str],
    heats: Sequence[np.ndarray],
    masses: Sequence[float],
    boxes: Sequence[Sequence[Box]] | None = None,
    columns: int = 5,
    top: float | None = None,
) -> Figure:
    """An answer as a row of pictures: where each word looked, all on one color scale.

    Args:
        words: n tokens.
        heats: n maps, [grid, grid] over the whole picture or [height, width] (`PatchGeometry.heatmap`).
        masses: share of each word's attention that falls on the picture at all, printed under it.
        boxes: per word, what it is about; none for words about nothing.
        top: attention of the brightest color; by default the highest peak of all words.
    """
    boxes = [()] * len(words) if boxes is None else boxes
    if not len(words) == len(heats) == len(masses) == len(boxes) or not len(words):
        raise ValueError(
            f"Give a map, a mass and boxes for each of at least one word; got {len(words)} words, "
            f"{len(heats)} maps, {len(masses)} masses and boxes for {len(boxes)}."
        )
    peaks = [float(np.nanmax(heat)) for heat in heats]
    top = (max(peaks) or 1.0) if top is None else top
    cells = [Cell([(image, picture)], [("the picture", MUTED), (f"bright: {top:.1%} on a patch", MUTED)])]
    for word, heat, mass, peak, there in zip(words, heats, masses, peaks, boxes, strict=True):
        panel = (image, partial(overlay, heat=heat, boxes=there, top=top))
        notes = [(word.strip() or repr(word), BLUE), (f"{mass:.1%} here, peak {peak:.1%}", MUTED)]
        cells.append(Cell([panel], notes))
    return sheet(cells, columns, width=1.7)


@styled
def attention_by_word(
    words: Sequence[str],
    shares: Mapping[str, Sequence[float]],
    title: str = "",
    even: Sequence[float] | float | None = None,
) -> Figure:
    """Where the attention of each word goes, as stacked bars; the picture's share is printed.

    Args:
        shares: block of the sequence ("image", "system", "question", ...) -> its share for each of the n
            words, the image's first; what is missing to 1 stays white.
        even: share the picture would get if all positions that a row sees were attended alike; a line.
    """
    figure, ((axes,),) = subplots(max(4.2, 0.62 * len(words) + 2.2), 2.9)
    bottom = np.zeros(len(words))
    places = np.arange(len(words))
    for (name, values), color in zip(shares.items(), _colors(shares), strict=True):
        values = np.asarray(values, float)
        axes.bar(places, values, 0.78, bottom=bottom, color=color, label=name)
        if name == "image":
            for place, value in zip(places, values, strict=True):
                axes.text(
                    place, bottom[place] + value / 2 if value > 0.1 else value + 0.02, f"{value:.0%}",
                    ha="center", va="center" if value > 0.1 else "bottom", fontweight="bold", fontsize=8,
                    color="white" if value > 0.1 else INK,
                )  # fmt: skip
        bottom += values
    if even is not None:
        for place, share in zip(places, np.broadcast_to(even, len(words)), strict=True):
            axes.plot([place - 0.45, place + 0.45], [share, share], color=INK, linewidth=1.4, linestyle="--")
        axes.lines[0].set_label("the picture's, if all got alike")
    axes.set(ylim=(0, 1), title=title, ylabel="share of attention")
    axes.set_xticks(places, [word.strip() or repr(word) for word in words], rotation=40, ha="right")
    axes.set_yticks(np.linspace(0, 1, 5), [f"{x:.0%}" for x in np.linspace(0, 1, 5)])
    axes.tick_params(axis="x", labelcolor=INK)
    figure.legend(loc="outside lower center", ncols=min(4, len(shares) + (even is not None)), fontsize=8)
    return figure


def _colors(shares: Mapping[str, Sequence[float]]) -> list[str]:
    spare = iter((ORANGE, SKY, VERMILION, *LINES))
    return [PALE if name == "system" else KINDS.get(name) or next(spare) for name in shares]


@styled
def token_strip(tokens: Sequence[str], kinds: Sequence[str], width: float = 8.0) -> Figure:
    """A sequence as the model reads it, token by token, in its blocks; a picture is one wide block.

    Args:
        tokens: the text of every position.
        kinds: what every position is: "system", "image", "question" or "answer".
        width: of the figure, in inches.
    """
    if len(tokens) != len(kinds) or not len(tokens):
        raise ValueError(f"{len(tokens)} tokens but {len(kinds)} kinds: give one for each of at least one.")
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"There is no kind {min(unknown)!r}: each is one of {', '.join(KINDS)}.")
    high, gap, margin = 0.26, 0.04, 0.12
    x, y, placed = margin, 0, []
    for text, kind, count in _runs(tokens, kinds):
        label = f"picture: {count} patches" if kind == "image" else text.replace("\n", "⏎").strip() or "␣"
        wide = text_width(label) + (0.7 if kind == "image" else 0.1)
        if x + wide > width - margin:
            x, y = margin, y + 1
        placed.append((x, y, wide, label, kind))
        x += wide + gap
    tall = (y + 1) * (high + 0.08) + 0.5
    figure = Figure(figsize=(width, tall))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(tall, 0))
    axes.axis("off")
    for x, y, wide, label, kind in placed:
        top = margin + y * (high + 0.08)
        _block(axes, (x, top, wide, high), label, KINDS[kind])
    present = [kind for kind in KINDS if kind in kinds]
    for number, kind in enumerate(present):
        count = sum(one == kind for one in kinds)
        axes.text(
            margin + number * 1.8, tall - 0.16, f"{kind}: {count}", color=KINDS[kind], fontsize=8,
            fontweight="bold", va="center",
        )  # fmt: skip
    return figure


def _runs(tokens: Sequence[str], kinds: Sequence[str]) -> list[tuple[str, str, int]]:
    """(text, kind, how many positions): patches as one run, any other token by itself."""
    runs: list[tuple[str, str, int]] = []
    for text, kind in zip(tokens, kinds, strict=True):
        if kind == "image" and runs and runs[-1][1] == "image":
            runs[-1] = (text, kind, runs[-1][2] + 1)
        else:
            runs.append((text, kind, 1))
    return runs


def _block(axes: Axes, at: tuple[float, float, float, float], label: str, color: str) -> None:
    x, y, wide, high = at
    style = "round,pad=0,rounding_size=0.05"
    box = FancyBboxPatch((x, y), wide, high, boxstyle=style, facecolor=color, alpha=0.15, linewidth=0)
    axes.add_patch(box)
    axes.text(x + wide / 2, y + high / 2, label, ha="center", va="center", fontsize=7.5, color=INK)


@styled
def damage_by_layer(
    layers: Sequence[str],
    lost: Mapping[str, Sequence[tuple[float, float, float]]],
    control: Mapping[str, Sequence[tuple[float, float, float]]],
    title: str = "",
) -> Figure:
    """Accuracy lost by cutting edges to the target in one band of layers, from each kind of row.

    Args:
        layers: names of the bands, in order; "all" may be one of them.
        lost: kind of row -> (loss, low, high) per band, in shares of right answers with their interval.
        control: the same for as many patches elsewhere; hollow.
    """
    figure, ((axes,),) = subplots(max(4.6, 0.7 * len(layers) + 2.4), 3.1)
    places = np.arange(len(layers))
    shift = np.linspace(-0.21, 0.21, len(lost)) if len(lost) > 1 else [0]
    hollow = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "linestyle": "none"}
    single = np.array([layer != "all" for layer in layers])  # a line through "all" would mean nothing
    for (name, points), color, aside in zip(lost.items(), LINES, shift, strict=False):
        values = 100 * np.asarray(points, float)
        axes.errorbar(
            places + aside, values[:, 0], yerr=np.abs(values[:, 1:] - values[:, :1]).T, color=color,
            marker="o", markersize=5, linestyle="none", elinewidth=1,
        )  # fmt: skip
        axes.plot(
            (places + aside)[single], values[single, 0], color=color, linewidth=1.8, label=f"from {name}"
        )
        if name in control:
            axes.plot(places + aside, 100 * np.asarray(control[name], float)[:, 0], color=color, **hollow)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xticks(places, layers)
    axes.set(title=title, xlabel="layers cut", ylabel="right answers lost (points)")
    axes.plot([], [], color=MUTED, **hollow, label="to as many others")
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=min(2, len(lost) + 1))
    return figure
