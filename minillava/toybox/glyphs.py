"""Letters and digits as pen strokes: our own, so that no font file decides what a picture looks like."""

import math
from functools import lru_cache

from minillava.toybox.canvas import Color, Cutout, Point, Sheet


def _arc(x: float, y: float, rx: float, ry: float, start: int, end: int) -> list[Point]:
    """Points on an ellipse around (x, y), from `start` to `end` degrees, clockwise from the right."""
    steps = max(abs(end - start) // 15, 2)
    turns = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


STROKES: dict[str, tuple[list[Point], ...]] = {
    "C": (_arc(0.5, 0.5, 0.5, 0.5, -45, -315),),
    "D": ([(0, 0), *_arc(0.3, 0.5, 0.7, 0.5, -90, 90), (0, 1), (0, 0)],),
    "E": ([(0.9, 0), (0, 0), (0, 1), (0.9, 1)], [(0, 0.5), (0.7, 0.5)]),
    "H": ([(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]),
    "J": ([(0.35, 0), (0.9, 0), *_arc(0.45, 0.67, 0.45, 0.33, 0, 170)],),
    "K": ([(0, 0), (0, 1)], [(0.95, 0), (0, 0.6)], [(0.3, 0.42), (1, 1)]),
    "L": ([(0.05, 0), (0.05, 1), (0.95, 1)],),
    "N": ([(0, 1), (0, 0), (1, 1), (1, 0)],),
    "P": ([(0, 1), (0, 0), *_arc(0.5, 0.29, 0.5, 0.29, -90, 90), (0, 0.58)],),
    "S": ([*_arc(0.5, 0.26, 0.45, 0.26, -30, -270), *_arc(0.5, 0.76, 0.48, 0.24, -90, 150)],),
    "T": ([(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]),
    "U": ([(0, 0), *_arc(0.5, 0.6, 0.5, 0.4, 180, 0), (1, 0)],),
    "X": ([(0, 0), (1, 1)], [(1, 0), (0, 1)]),
    "Y": ([(0, 0), (0.5, 0.5), (1, 0)], [(0.5, 0.5), (0.5, 1)]),
    "1": ([(0.2, 0.22), (0.6, 0), (0.6, 1)],),
    "2": ([*_arc(0.5, 0.3, 0.47, 0.3, 190, 370), (0, 1), (1, 1)],),
    "3": (
        [*_arc(0.45, 0.26, 0.42, 0.26, 200, 450)],
        [*_arc(0.45, 0.74, 0.5, 0.26, -90, 160)],
    ),
    "4": ([(0.75, 1), (0.75, 0), (0, 0.68), (1, 0.68)],),
    "5": ([(0.9, 0), (0.1, 0), (0.05, 0.45), *_arc(0.45, 0.7, 0.5, 0.3, -90, 150)],),
    "6": ([(0.8, 0), (0.12, 0.5), *_arc(0.5, 0.7, 0.45, 0.3, 190, 550)],),
    "7": ([(0, 0), (1, 0), (0.35, 1)],),
    "9": ([(0.2, 1), (0.88, 0.5), *_arc(0.5, 0.3, 0.45, 0.3, 10, 370)],),
}
"""Pen strokes by character, in a box one wide and one high (x right, y down)."""


def write(
    sheet: Sheet,
    character: str,
    x: float,
    y: float,
    width: float,
    height: float,
    pen: float,
    angle: int,
    color: Color,
) -> None:
    """Draw a character on a sheet, its middle at (x, y).

    `width` and `height` are the box of the pen's path in pixels, `pen` the width of its strokes and `angle`
    the tilt in degrees, clockwise. Raises ValueError for a character without strokes.
    """
    if character not in STROKES:
        raise ValueError(f"There are no strokes for {character!r}. Choose one of {''.join(sorted(STROKES))}.")
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    for stroke in STROKES[character]:
        offsets = [((a - 0.5) * width, (b - 0.5) * height) for a, b in stroke]
        sheet.line([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in offsets], pen, color)


@lru_cache(maxsize=8192)
def glyph(character: str, width: float, height: float, pen: float, angle: int, color: Color) -> Cutout:
    """A character as a cut-out, in the middle of a sheet whose edge is `height` + 8 pixels; see `write`."""
    edge = round(height) + 8
    sheet = Sheet(edge, edge)
    write(sheet, character, edge / 2, edge / 2, width, height, pen, angle, color)
    return sheet.cut()
