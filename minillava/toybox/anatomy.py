"""How creatures look: cats, birds and fish put together from parts, and the toys beside them."""

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops

from minillava.toybox import canvas
from minillava.toybox.canvas import INK, WHITE, Color, Cutout, Sheet, deep, mix
from minillava.toybox.domain import Box
from minillava.toybox.scene import COLORS
from minillava.toybox.shapes import sprite

WIDTH, HEIGHT = 66, 62
"""The sheet a creature is drawn on, in pixels; it stands with its feet on the lower edge, facing right."""

TOY = 17
"""Diameter of a toy, in pixels."""

Look = tuple[str, str, str]
"""(top, tail, coat): pointed or round, long or short, stripes or spots."""

_BEAK: Color = (240, 150, 50)
_BLUSH: Color = (246, 164, 160)
_BLACK: Color = (0, 0, 0)
_SPOTS = ((-10, -5, 3.1), (0, -8, 2.7), (10, -6, 3), (-3, 1, 3.3), (7, 3, 3.1), (-12, 5, 2.7), (1, 10, 2.7))
"""Offsets and radii of a coat's spots, in pixels."""


@dataclass(frozen=True)
class _Paints:
    """The coat's color, a darker one for what is behind, and one that marks show up in."""

    fur: Color
    shade: Color
    mark: Color


def _paints(color: str) -> _Paints:
    fur = COLORS[color]
    mark = deep(fur, 0.5) if canvas.is_light(fur) else mix(fur, WHITE, 0.68)
    return _Paints(fur, mix(fur, _BLACK, 0.2), mark)


def _sheet() -> Sheet:
    return Sheet(WIDTH, HEIGHT)


def _eye(sheet: Sheet, x: float, y: float, r: float) -> None:
    sheet.oval(x, y, r + 1, r + 1, WHITE)
    sheet.oval(x, y, r, r, INK)
    sheet.oval(x + r * 0.35, y - r * 0.4, r * 0.4, r * 0.4, WHITE)


def _mark(sheet: Sheet, body: Sheet, coat: str, x: float, y: float, color: Color) -> None:
    """Three stripes or seven spots around (x, y), only where the body is."""
    marks = _sheet()
    if coat == "stripes":
        for dx in (-10.5, 0, 10.5):
            marks.line([(x + dx - 1, y - 18), (x + dx + 1, y), (x + dx - 1, y + 18)], 4.4, color)
    elif coat == "spots":
        for dx, dy, r in _SPOTS:
            marks.oval(x + dx, y + dy, r, r, color)
    sheet.put(marks, inside=body)


def _cat(top: str, tail: str, coat: str, paints: _Paints) -> Sheet:
    sheet, body = _sheet(), _sheet()
    if tail == "long":
        sheet.line(canvas.curve((14, 46), (-4, 44), (2, 14), (15, 24)), 5.6, paints.shade)
    elif tail == "short":
        sheet.oval(9, 40, 5.8, 5.2, paints.shade)
    for x in (17, 38):
        sheet.bar(x, 46, x + 7.5, 61, 3, paints.shade)
    body.bar(9, 31, 50, 55, 12, paints.fur)
    sheet.put(body)
    _mark(sheet, body, coat, 24, 43, paints.mark)
    for x in (11, 32):
        sheet.bar(x, 46, x + 7.5, 61, 3, paints.fur)
    for x in (38.5, 57.5):
        lean = 2.5 if x > 48 else -2.5
        if top == "pointed":
            sheet.polygon([(x - 7, 22), (x + lean, 2), (x + 7, 22)], paints.fur)
            sheet.polygon([(x - 3.2, 20), (x + lean * 0.7, 8), (x + 3.2, 20)], _BLUSH)
        elif top == "round":
            sheet.oval(x, 14, 7, 7, paints.fur)
            sheet.oval(x, 14.5, 3.8, 3.8, _BLUSH)
    sheet.oval(48, 28, 16, 13.5, paints.fur)
    sheet.oval(49, 34, 6.4, 4.6, mix(paints.fur, WHITE, 0.72))
    _eye(sheet, 42.5, 26.5, 2.5)
    _eye(sheet, 55, 26.5, 2.5)
    sheet.oval(49, 32.2, 2, 1.5, INK)
    return sheet


def _bird(top: str, tail: str, coat: str, paints: _Paints) -> Sheet:
    sheet, body = _sheet(), _sheet()
    if tail == "long":
        for end in ((3, 20), (2, 28), (4, 36)):
            sheet.line([(20, 40), end], 5.4, paints.shade)
    elif tail == "short":
        sheet.polygon([(18, 36), (7, 37), (9, 45), (20, 46)], paints.shade)
    for x in (27, 38):
        sheet.line([(x, 50), (x, 60), (x + 5, 60)], 2, _BEAK)
    if top == "pointed":
        for tip in ((33, 6), (42, 1.5), (52, 2.5)):
            sheet.polygon([(38, 16), tip, (52, 14)], paints.shade)
    elif top == "round":
        for x, y in ((36.5, 11.5), (44, 8), (52, 9)):
            sheet.oval(x, y, 5, 5, paints.shade)
    sheet.polygon([(56, 18), (65.5, 24), (56, 29)], _BEAK)
    body.oval(32, 38, 19, 15.5, paints.fur)
    body.oval(46, 24, 13, 12.5, paints.fur)
    body.polygon([(17, 30), (34, 18), (58, 28), (50, 44)], paints.fur)
    sheet.put(body)
    _mark(sheet, body, coat, 28.5, 40, paints.mark)
    _eye(sheet, 49, 22, 2.9)
    sheet.oval(45, 29.5, 2.6, 1.9, _BLUSH)
    return sheet


def _fish(top: str, tail: str, coat: str, paints: _Paints) -> Sheet:
    sheet, body = _sheet(), _sheet()
    if tail == "long":
        for side in (-1, 1):
            out = canvas.curve((24, 37), (11, 37 + 2 * side), (13, 37 + 21 * side), (2, 37 + 23 * side))
            back = canvas.curve((2, 37 + 23 * side), (7, 37 + 12 * side), (7, 37 + 5 * side), (12, 37))
            sheet.polygon([*out, *back], paints.shade)
    elif tail == "short":
        sheet.polygon([(22, 37), (8, 28), (8, 46)], paints.shade)
        sheet.oval(8.5, 37, 3.4, 9, paints.shade)
    if top == "pointed":
        sheet.polygon([(24, 26), (30, 4), (52, 26)], paints.shade)
    elif top == "round":
        for x, y in ((31, 20), (39, 16.5), (47, 20)):
            sheet.oval(x, y, 7, 7, paints.shade)
    sheet.oval(36, 54, 6, 6.5, paints.shade)
    body.oval(40, 37, 24.5, 17, paints.fur)
    sheet.put(body)
    _mark(sheet, body, coat, 31, 38, paints.mark)
    _eye(sheet, 53, 33, 3)
    sheet.oval(57, 40.5, 2.8, 2, _BLUSH)
    return sheet


_DRAWN = {"cat": _cat, "bird": _bird, "fish": _fish}


@lru_cache(maxsize=4096)
def animal(kind: str, look: Look, color: str, facing: str) -> Cutout:
    """An animal as a cut-out; a part whose look is "" is left out."""
    sheet = _DRAWN[kind](*look, _paints(color))
    if facing == "left":
        sheet.mirror()
    return sheet.cut()


@lru_cache(maxsize=4096)
def part_boxes(kind: str, look: Look, color: str, facing: str) -> tuple[Box, ...]:
    """The boxes of top and tail on the sheet: the pixels that are others without them."""
    whole = _sheet_of(animal(kind, look, color, facing))
    without = (("", look[1], look[2]), (look[0], "", look[2]))
    return tuple(
        ImageChops.difference(whole, _sheet_of(animal(kind, rest, color, facing))).getbbox()
        for rest in without
    )


def _sheet_of(cutout: Cutout) -> Image.Image:
    sheet = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    sheet.paste(cutout.image, (cutout.left, cutout.top), cutout.image)
    return sheet


@lru_cache(maxsize=64)
def toy(shape: str, color: str) -> Cutout:
    """A shape with a darker edge at the lower right, as if it had some thickness."""
    paint, whole = COLORS[color], sprite(shape, TOY, 0)
    front = Image.new("L", whole.size)
    front.paste(whole, (-1, -1))
    image = Image.new("RGBA", whole.size, mix(paint, _BLACK, 0.25))
    image.paste(paint, mask=ImageChops.multiply(whole, front))
    image.putalpha(whole)
    return Cutout(image, 0, 0)
