"""Figures that only lessons need: tokens in a row, a picture cut apart, words on patches, shares.

As in `plots`, functions take plain arrays and return the figure; they show nothing.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from minillava.figure import (
    BLUE,
    GREEN,
    INK,
    LINES,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    Box,
    Figure,
    overlay,
    picture,
    styled,
    subplots,
)

KINDS = {
    "image": {"facecolor": "#F3E5F5", "edgecolor": PURPLE},
    "prompt": {"facecolor": "#F1F1EF", "edgecolor": "#D5D5D2"},
    "answer": {"facecolor": "#C9EBDD", "edgecolor": GREEN},
}
"""How a token of each kind looks in `token_strip`. Answers are bold and underlined besides."""

PARTS = (SKY, ORANGE, "#C9EBDD", "#E4C9DA", "#E2E2DF", "#F5E08A", "#B9C6E8")
"""Colors of `shares`, in the order in which parts occur."""

Piece = tuple[str | np.ndarray, str]
"""A token's text, or the patch it shows as [height, width, 3], and its kind."""


@styled
def token_strip(pieces: Sequence[Piece], width: float = 6.6) -> Figure:
    """Tokens in reading order, each in a box of its kind; a piece that is a patch is drawn as one.

    Args:
        pieces: see `Piece`; kinds are those of KINDS. A space in front of a word shows as a gap in its box.
        width: inches.

    Raises:
        ValueError: no piece, or one of another kind.
    """
    if not pieces or {kind for _, kind in pieces} - set(KINDS):
        raise ValueError(f"Give at least one piece, and only the kinds {', '.join(KINDS)}.")
    points, line, gap = 8.5, 0.27, 0.045
    advance = 0.602 * points / 72  # inches a letter: the font's are all equally wide
    places, x, y = [], gap, 0
    for content, _ in pieces:
        wide = advance * len(content) + 0.07 if isinstance(content, str) else line - 0.05
        if x + wide + gap > width and x > gap:
            x, y = gap, y + 1
        places.append((x, y, wide))
        x += wide + gap
    height = line * (y + 1) + 2 * gap
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for (content, kind), (x, y, wide) in zip(pieces, places, strict=True):
        top, tall = gap + y * line, line - 0.05
        if isinstance(content, str):
            _word(axes, content, kind, (x, top, wide, tall), points)
        else:
            axes.imshow(content, extent=(x, x + wide, top + tall, top), interpolation="nearest")
            frame = KINDS[kind]["edgecolor"]
            axes.add_patch(Rectangle((x, top), wide, tall, fill=False, edgecolor=frame, linewidth=0.8))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")  # imshow has changed them
    return figure


def _word(axes: Axes, text: str, kind: str, place: Box, points: float) -> None:
    x, top, wide, tall = place
    learned = kind == "answer"
    axes.add_patch(Rectangle((x, top), wide, tall, linewidth=0.8, **KINDS[kind]))
    axes.text(
        x + 0.035, top + tall / 2, text.replace("\n", "⏎"), family="DejaVu Sans Mono", fontsize=points,
        color=INK if kind != "prompt" else MUTED, va="center", fontweight="bold" if learned else "normal",
        parse_math=False,
    )  # fmt: skip
    if learned:
        low = top + tall - 0.03
        axes.plot((x + 0.03, x + wide - 0.03), (low, low), color=GREEN, linewidth=1.4)


def patches_of(image, patch: int) -> list[np.ndarray]:
    """A picture's patches of `patch` pixels, row by row from the top left, each [patch, patch, 3]."""
    pixels = np.asarray(image)
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    return [
        pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        for row in range(rows)
        for column in range(columns)
    ]


def cut_apart(image, patch: int, gap: int = 3) -> np.ndarray:
    """The picture with white gaps of `gap` pixels between its patches, as one array."""
    tiles = patches_of(image, patch)
    columns = np.asarray(image).shape[1] // patch
    framed = [np.pad(tile, ((0, gap), (0, gap), (0, 0)), constant_values=255) for tile in tiles]
    rows = [np.concatenate(framed[i : i + columns], axis=1) for i in range(0, len(framed), columns)]
    return np.concatenate(rows)[:-gap, :-gap]


@styled
def maps_row(
    image, heats: Mapping[str, np.ndarray], boxes: Mapping[str, Sequence[Box]] | None = None
) -> Figure:
    """One picture and maps over its patches beside it, each named, each from 0 to its own peak.

    Args:
        heats: name -> [grid, grid]; what is below 0 looks like 0.
        boxes: name -> boxes to draw on that map.
    """
    figure, (axes,) = subplots(6.6, 6.6 / (1 + len(heats)) + 0.35, columns=1 + len(heats))
    picture(axes[0], image)
    for panel, (name, heat) in zip(axes[1:], heats.items(), strict=True):
        overlay(panel, image, heat, (boxes or {}).get(name, ()), top=max(float(np.max(heat)), 1e-9))
        panel.set_title(name, fontsize=8, fontweight="normal", pad=4)
    return figure


@styled
def blanked_row(image, gone: Mapping[str, np.ndarray]) -> Figure:
    """A square picture again and again, under each name without the patches that are gone.

    Args:
        gone: name -> bool [grid, grid].
    """
    pixels = np.asarray(image, float) / 255
    figure, (axes,) = subplots(6.6, 6.6 / len(gone) + 0.5, columns=len(gone))
    for panel, (name, where) in zip(axes, gone.items(), strict=True):
        cells = np.kron(where, np.ones((pixels.shape[0] // len(where),) * 2))  # [edge, edge]
        picture(panel, np.where(cells[..., None] > 0, 0.6, pixels))
        panel.set_title(name, fontsize=8, fontweight="normal", pad=4)
    return figure


@styled
def words_on_patches(
    image, words: Sequence[str], marked: Sequence[bool], boxes: Sequence[Box] = (), side: float = 5.2
) -> Figure:
    """A word in every patch of a square picture, row by row; marked ones are bold on white.

    Raises ValueError where the words are not as many as the patches of a square grid.
    """
    grid = round(len(words) ** 0.5)
    if grid * grid != len(words) or len(marked) != len(words):
        raise ValueError(f"{len(words)} words and {len(marked)} marks fill no square grid.")
    figure, ((axes,),) = subplots(side, side)
    picture(axes, image, boxes)
    step = np.asarray(image).shape[0] / grid
    for i, (word, mark) in enumerate(zip(words, marked, strict=True)):
        row, column = divmod(i, grid)
        look = {"facecolor": "white", "edgecolor": BLUE if mark else "none", "alpha": 0.92 if mark else 0.55}
        axes.text(
            (column + 0.5) * step - 0.5, (row + 0.5) * step - 0.5, word, ha="center", va="center",
            fontsize=5.6, color=INK if mark else MUTED, fontweight="bold" if mark else "normal",
            bbox={"boxstyle": "round,pad=0.2", "linewidth": 0.9, **look}, parse_math=False,
        )  # fmt: skip
    return figure


@styled
def shares(table: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Rows of one length each, divided by share: row -> {part: amount}, all amounts at least 0.

    A part is named inside its bar where it fits, and otherwise in the legend. Kinds of tokens have the colors
    that they have in `token_strip`.
    """
    figure, ((axes,),) = subplots(6.6, 0.75 + 0.4 * len(table))
    parts = dict.fromkeys(part for amounts in table.values() for part in amounts)
    colors = dict(zip(parts, cycle(PARTS), strict=False))
    colors |= {kind: look["facecolor"] for kind, look in KINDS.items() if kind in parts}
    cramped = {}
    for row, amounts in enumerate(table.values()):
        left, whole = 0.0, sum(amounts.values())
        for part, share in ((part, amount / whole) for part, amount in amounts.items() if amount):
            bar = axes.barh(row, share, left=left, height=0.74, color=colors[part], edgecolor="white")
            label = f"{part} {share:.0%}"
            if share < 0.016 * len(label):
                cramped[part] = bar
                label = f"{share:.0%}" if share > 0.04 else ""
            axes.text(left + share / 2, row, label, ha="center", va="center", fontsize=8, color=INK)
            left += share
    axes.set(xlim=(0, 1), yticks=range(len(table)), yticklabels=list(table), title=title)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    if cramped:
        figure.legend(cramped.values(), cramped, loc="outside lower right", ncols=6, fontsize=8)
    return figure


@styled
def memory_bars(table: Mapping[str, Mapping[str, float]], rooms: Sequence[float], title: str = "") -> Figure:
    """Rows of parts one after the other in GB, and a line for each size of device.

    Args:
        table: row -> {part: GB}; rows have the same parts.
        rooms: sizes of devices in GB.
    """
    figure, ((axes,),) = subplots(6.6, 1.15 + 0.42 * len(table))
    parts = dict.fromkeys(part for amounts in table.values() for part in amounts)
    left = np.zeros(len(table))
    for part, color in zip(parts, cycle(PARTS), strict=False):
        wide = np.array([amounts.get(part, 0.0) for amounts in table.values()])
        axes.barh(range(len(table)), wide, left=left, height=0.7, color=color, edgecolor="white", label=part)
        left += wide
    widest = max(*left, *rooms)
    for row, whole in enumerate(left):  # in a column, where no device's line runs through them
        axes.text(1.12 * widest, row, f"{whole:.0f} GB", va="center", ha="right", fontweight="bold")
    for room in rooms:
        axes.axvline(room, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.text(room, -0.62, f"{room:.0f} GB", ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(0, 1.14 * widest), yticks=range(len(table)), yticklabels=list(table))
    axes.set_title(title, pad=18)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=7, fontsize=8, columnspacing=1.2, handlelength=1.2)
    return figure


@styled
def accuracy_by_layer(scores: Mapping[int, Mapping[str, float]], marked: int) -> Figure:
    """Shares right (0-1) by layer, a line for each attribute, with one layer marked as LLaVA's."""
    figure, ((axes,),) = subplots(6.2, 2.7)
    layers, names = list(scores), list(next(iter(scores.values())))
    axes.axvspan(marked - 0.25, marked + 0.25, color="#FFE3A8", linewidth=0)
    axes.text(marked, 0.03, "−2", ha="center", color=INK, fontweight="bold")
    if len(names) > len(markers := "osD^v"):
        raise ValueError(f"{len(names)} attributes, but {len(markers)} markers to tell their lines apart by.")
    for name, color, marker in zip(names, LINES, markers, strict=False):
        values = [scores[layer][name] for layer in layers]
        axes.plot(layers, values, color=color, marker=marker, markersize=5, linewidth=1.8, label=name)
    axes.set(
        xlabel="layers passed", ylim=(0, 1.04), xticks=layers, title="what a linear map reads off the patches"
    )
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.grid(axis="y")
    figure.legend(loc="outside right center")
    return figure


@styled
def before_after(table: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """An arrow for each row from its accuracy before a training to that after, with what needs no picture.

    Args:
        table: row -> {"before", "after", "blind", "shuffled": share right in 0..1}.
    """
    figure, ((axes,),) = subplots(6.4, 1.0 + 0.36 * len(table))
    for place, row in enumerate(table.values()):
        axes.annotate(
            "", (row["after"], place), (row["before"], place),
            arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        axes.text(1.08, place, f"{row['after']:.0%}", va="center", ha="right", fontweight="bold")
    places = np.arange(len(table))
    marks = {
        "before": {"marker": "|", "markersize": 11, "markeredgewidth": 2.2, "markeredgecolor": BLUE},
        "blind": {"marker": "o", "markersize": 6, "markerfacecolor": "white", "markeredgecolor": INK},
        "shuffled": {"marker": "D", "markersize": 5.5, "markerfacecolor": ORANGE, "markeredgecolor": INK},
    }
    # why not on one line: the two baselines are often equal, and that is the point
    for (name, look), shift in zip(marks.items(), (0, -0.2, 0.2), strict=True):
        shares = [row[name] for row in table.values()]
        axes.plot(shares, places + shift, linestyle="none", label=name, **look)
    axes.plot([], [], color=BLUE, marker=">", linewidth=2.2, label="after")
    axes.set(xlim=(-0.02, 1.1), yticks=places, yticklabels=list(table), title=title)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{x:.0%}" for x in np.linspace(0, 1, 6)])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@styled
def beside(image, text: str, boxes: Sequence[Box] = (), letters: int = 66) -> Figure:
    """A picture, its boxes, and on its right a text; lines longer than `letters` are wrapped."""
    lines = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(line, letters, break_on_hyphens=False) or [""]
    ]
    height = max(2.0, 0.148 * len(lines) + 0.1)
    figure = Figure(figsize=(6.6, height))
    axes = figure.add_axes((0.005, 1 - 1.95 / height, 1.95 / 6.6, 1.9 / height))
    picture(axes, image, boxes)
    figure.text(
        2.1 / 6.6, 1 - 0.05 / height, "\n".join(lines), va="top", family="DejaVu Sans Mono", fontsize=7.2,
        linespacing=1.28, parse_math=False,
    )  # fmt: skip
    return figure
