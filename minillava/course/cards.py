"""The card of a lesson: the one map of LLaVA with the lesson's boxes lit, and how long it takes on what.

The times are measured, never typed: `python notebooks/build.py --time` writes them into `timings.json`.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from IPython.display import Markdown, display
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from minillava.config import DATA
from minillava.figure import BLUE, INK, MUTED, ORANGE, Figure, styled

TIMINGS = DATA.parent / "notebooks" / "timings.json"
"""{hardware: {lesson: seconds}}; a lesson is named by its number, "03"."""

PALE, LIT, EDGE = "#F4F4F2", "#FFE3A8", "#C4C4C0"


class Block(NamedTuple):
    """One box of the map: corner, size (in hundredths of its width), words, the lessons about it."""

    x: float
    y: float
    width: float
    height: float
    words: str
    lessons: tuple[str, ...]


TOP, BOTTOM, HIGH = 27.0, 9.0, 9.0
BLOCKS = {
    "data": Block(0, BOTTOM, 10, TOP + HIGH - BOTTOM, "Toybox:\npictures,\nwords", ("01",)),
    "tower": Block(16, TOP, 16, HIGH, "vision tower\nCLIP, layer −2", ("02",)),
    "projector": Block(37, TOP, 14, HIGH, "projector\nmlp2x_gelu", ("03",)),
    "prompt": Block(16, BOTTOM, 35, HIGH, "prompt: tokens and their labels", ("04",)),
    "splice": Block(56, BOTTOM, 8, TOP + HIGH - BOTTOM, "splice:\none\nrow", ("03",)),
    "model": Block(69, BOTTOM, 14, TOP + HIGH - BOTTOM, "language\nmodel\n(LLaMA)", ()),
    "judge": Block(88, BOTTOM, 12, TOP + HIGH - BOTTOM, "answer:\nhow good?", ("08",)),
    "attention": Block(16, 39.5, 67, 5, "attention: where did it look?", ("07", "07b", "07c")),
    "stage 1": Block(37, 20.5, 14, 4, "stage 1 trains", ("05", "09")),
    "stage 2": Block(37, 2, 46, 4, "stage 2 trains projector and language model", ("06", "09")),
}
ARROWS = (
    ("data", "tower", TOP + 4.5), ("data", "prompt", BOTTOM + 4.5), ("tower", "projector", TOP + 4.5),
    ("projector", "splice", TOP + 4.5), ("prompt", "splice", BOTTOM + 4.5), ("splice", "model", 22.5),
    ("model", "judge", 22.5),
)  # fmt: skip
WHOLE = ("00", "10")
"""Lessons about all of it."""


def card(lesson: str) -> None:
    """Show the card of lesson `lesson` ("03"): the map and the minutes."""
    display(map_figure(lesson), Markdown(minutes(lesson)))


def lit(lesson: str) -> list[str]:
    """The boxes of the map that a lesson is about. ValueError for a lesson that is about none."""
    found = [name for name, block in BLOCKS.items() if lesson in WHOLE or lesson in block.lessons]
    if not found:
        raise ValueError(f"No box of the map belongs to lesson {lesson!r}; a lesson looks like '03'.")
    return found


@styled
def map_figure(lesson: str) -> Figure:
    """LLaVA on one page, today's boxes lit."""
    today = lit(lesson)
    figure = Figure(figsize=(6.6, 3.05))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(-1, 101), ylim=(0, 46.5))
    axes.axis("off")
    for name, block in BLOCKS.items():
        on = name in today
        axes.add_patch(FancyBboxPatch(
            (block.x, block.y), block.width, block.height, boxstyle="round,pad=0,rounding_size=1.2",
            facecolor=LIT if on else PALE, edgecolor=ORANGE if on else EDGE, linewidth=2.0 if on else 0.9,
        ))  # fmt: skip
        axes.text(
            block.x + block.width / 2, block.y + block.height / 2, block.words, ha="center", va="center",
            fontsize=8, color=INK if on else MUTED, fontweight="bold" if on else "normal", linespacing=1.25,
        )  # fmt: skip
    for start, end, height in ARROWS:
        left = BLOCKS[start].x + BLOCKS[start].width
        axes.add_patch(FancyArrowPatch(
            (left + 0.5, height), (BLOCKS[end].x - 0.5, height), arrowstyle="-|>", mutation_scale=9,
            color=BLUE, linewidth=1.4, shrinkA=0, shrinkB=0,
        ))  # fmt: skip
    return figure


def minutes(lesson: str, file: Path = TIMINGS) -> str:
    """How long "Run All" takes on each machine that was timed, in whole minutes, as Markdown."""
    timings = json.loads(file.read_text()) if file.is_file() else {}
    timed = [
        f"{math.ceil(seconds[lesson] / 60)} min on {hardware}"
        for hardware, seconds in timings.items()
        if lesson in seconds
    ]
    if not timed:
        return "**Run All takes** an unknown time: `python notebooks/build.py --time` measures it."
    return f"**Run All takes** {', '.join(timed)}."
