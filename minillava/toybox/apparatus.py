"""What lessons show, as cut-outs: magnets, beakers, thermometers, and what food chains are made of."""

from functools import lru_cache

from minillava.toybox import canvas
from minillava.toybox.canvas import INK, WHITE, Color, Cutout, Sheet, deep, mix, pale
from minillava.toybox.glyphs import write
from minillava.toybox.scene import COLORS

MAGNET = (32, 18)
BEAKER = (42, 54)
THERMOMETER = (28, 86)
ORGANISM = 24
ARROW = (10, 9)
"""Sheets in pixels, (width, height) or the edge of a square."""

POLES = {"north": "N", "south": "S"}
MARKS = 6
"""Marks on a thermometer: 0, 10, ... 50 degrees."""

_NORTH, _SOUTH = (214, 58, 52), (52, 104, 190)
_GLASS, _WATER = (136, 158, 178), (204, 229, 246)
_BLACK = (0, 0, 0)


@lru_cache(maxsize=4)
def magnet(left: str) -> Cutout:
    """A bar magnet with its poles lettered; `left` is the pole on the left, "north" or "south"."""
    width, height = MAGNET
    sheet, bar, half = (Sheet(width, height) for _ in range(3))
    right = "south" if left == "north" else "north"
    paint = {"north": _NORTH, "south": _SOUTH}
    sheet.bar(0.5, 0.5, width - 0.5, height - 0.5, 4, deep(paint[right], 0.45))
    bar.bar(1.5, 1.5, width - 1.5, height - 1.5, 3, paint[right])
    half.bar(0, 0, width / 2, height, 0, paint[left])
    half.bar(0, 2, width / 2, 4.4, 0, mix(paint[left], WHITE, 0.35))
    half.bar(width / 2, 2, width, 4.4, 0, mix(paint[right], WHITE, 0.35))
    sheet.put(bar)
    sheet.put(half, inside=bar)
    for pole, x in ((left, width * 0.25 + 0.4), (right, width * 0.75 - 0.4)):
        write(sheet, POLES[pole], x, height / 2 + 0.6, 5.4, 7.6, 2, 0, (255, 253, 246))
    return sheet.cut()


@lru_cache(maxsize=1)
def beaker() -> Cutout:
    """A glass of water."""
    width, height = BEAKER
    sheet, water = Sheet(width, height), Sheet(width, height)
    sheet.line([(2, 2), (5, 5), (5, 47)], 2.4, _GLASS)
    sheet.line([(40, 2), (37, 5), (37, 47)], 2.4, _GLASS)
    sheet.bar(3.8, 30, 38.2, 53, 6, _GLASS)
    water.bar(6.2, 12, 35.8, 51, 4.5, _WATER)
    sheet.put(water)
    sheet.bar(6.2, 12, 35.8, 14, 0, mix(_WATER, _GLASS, 0.5))
    for y in (20, 28, 36):
        sheet.line([(32, y), (35, y)], 1, _GLASS)
    return sheet.cut()


@lru_cache(maxsize=8)
def particle(color: str) -> Cutout:
    sheet, light = Sheet(8, 8), Sheet(8, 8)
    sheet.oval(4, 4, 3.4, 3.4, mix(COLORS[color], _BLACK, 0.25))
    light.oval(3.7, 3.6, 3, 3, COLORS[color])
    light.oval(2.9, 2.7, 1, 0.9, mix(COLORS[color], WHITE, 0.6))
    sheet.put(light)
    return sheet.cut()


def mark_height(mark: float) -> float:
    """Height of a mark on the thermometer's sheet, in pixels from its top."""
    return 66 - 11 * mark


@lru_cache(maxsize=64)
def thermometer(mark: int, color: str) -> Cutout:
    """A thermometer on a white card, its liquid at mark 0, 1, ... `MARKS` - 1."""
    width, height = THERMOMETER
    paint = COLORS[color]
    sheet = Sheet(width, height)
    sheet.bar(0, 0, width, height, 6, mix(_GLASS, INK, 0.1))
    sheet.bar(1.2, 1.2, width - 1.2, height - 1.2, 5, (253, 253, 250))
    for number in range(MARKS):
        y = mark_height(number)
        sheet.line([(16, y), (24, y)], 1.3, INK)
        if number < MARKS - 1:
            sheet.line([(17, y - 5.5), (20.5, y - 5.5)], 1, mix(_GLASS, INK, 0.2))
    sheet.line([(10, 8), (10, 70)], 8.4, _GLASS)
    sheet.oval(10, 74, 8.2, 8.2, _GLASS)
    sheet.line([(10, 8), (10, 70)], 6, mix(_GLASS, WHITE, 0.8))
    sheet.oval(10, 74, 6.8, 6.8, paint)
    sheet.bar(7, mark_height(mark), 13, 74, 0, paint)
    sheet.oval(7.6, 71.6, 1.8, 1.6, mix(paint, WHITE, 0.6))
    return sheet.cut()


@lru_cache(maxsize=2)
def arrow(right: bool) -> Cutout:
    """An arrow to the right or to the left."""
    sheet = Sheet(*ARROW)
    sheet.line([(1.2, 4.5), (6, 4.5)], 2, mix(INK, WHITE, 0.15))
    sheet.polygon([(5, 0.6), (9.7, 4.5), (5, 8.4)], mix(INK, WHITE, 0.15))
    if not right:
        sheet.mirror()
    return sheet.cut()


# --- Plants and animals ------------------------------------------------------------------------


def _eye(sheet: Sheet, x: float, y: float, r: float = 1.5) -> None:
    sheet.oval(x, y, r + 0.7, r + 0.7, WHITE)
    sheet.oval(x, y, r, r, INK)


_GREEN: Color = (76, 160, 72)


def _grass(sheet: Sheet) -> None:
    for x, tip, shade in ((5, 1.5, 0.25), (19, 22.5, 0.25), (8.5, 6, 0), (15.5, 18, 0), (12, 12.5, 0.12)):
        high = {1.5: 9, 22.5: 8, 6: 4, 18: 3.5, 12.5: 1.5}[tip]
        sheet.polygon([(x - 2.4, 22), (tip, high), (x + 2.4, 22)], deep(_GREEN, shade))
    sheet.bar(2, 20.5, 22, 23, 1.2, deep(_GREEN, 0.3))


def _leaf(sheet: Sheet) -> None:
    paint = (120, 180, 60)
    edge = canvas.curve((4, 20), (-1, 6), (10, 0), (22, 2)) + canvas.curve(
        (22, 2), (24, 14), (16, 24), (4, 20)
    )
    sheet.polygon(edge, paint)
    vein = deep(paint, 0.35)
    sheet.line([(1.5, 22.5), (18, 6)], 1.5, vein)
    for x, y in ((8, 16), (12, 12)):
        sheet.line([(x, y), (x - 0.5, y - 5.5)], 1.1, vein)
        sheet.line([(x, y), (x + 5.5, y + 0.5)], 1.1, vein)


def _flower(sheet: Sheet) -> None:
    sheet.line([(12, 12), (12, 22.6)], 2, deep(_GREEN, 0.1))
    sheet.oval(16, 19.5, 3.6, 1.9, _GREEN)
    for x, y in ((12, 4.3), (17.4, 8), (15.4, 13.6), (8.6, 13.6), (6.6, 8)):
        sheet.oval(x, y, 4, 4, (232, 112, 170))
    sheet.oval(12, 9.4, 3.3, 3.3, (250, 206, 60))


def _snail(sheet: Sheet) -> None:
    skin = (214, 176, 120)
    sheet.bar(1, 17, 21, 22.5, 2.6, skin)
    sheet.line([(20, 20), (20.5, 11)], 3.6, skin)
    for x in (18.5, 22):
        sheet.line([(20.5, 11), (x, 6.5)], 1.1, deep(skin, 0.4))
    sheet.oval(10.5, 12, 8.5, 8.5, (168, 96, 60))
    sheet.line(canvas.curve((15.5, 12), (15, 4), (4, 6), (6, 13)), 1.7, (238, 200, 150))
    sheet.line(canvas.curve((6, 13), (8, 18), (14, 15), (10.5, 11.5)), 1.7, (238, 200, 150))
    sheet.oval(21, 11.6, 0.9, 0.9, INK)


def _beetle(sheet: Sheet) -> None:
    shell = (96, 70, 170)
    for y, out in ((10, 2), (14.5, 1.2), (19, 2.4)):
        sheet.line([(out, y - 1), (12, y), (24 - out, y - 1)], 1.3, INK)
    sheet.oval(12, 6, 4.6, 4, INK)
    for x in (8, 16):
        sheet.line([(12 + (x - 12) * 0.4, 4), (x, 0.9)], 1.1, INK)
    sheet.oval(12, 14.6, 8, 8.4, shell)
    sheet.line([(12, 7.5), (12, 22.5)], 1.2, deep(shell, 0.6))
    for x, y in ((8.3, 12), (15.7, 12), (8.6, 17.5), (15.4, 17.5)):
        sheet.oval(x, y, 1.6, 1.6, (250, 206, 60))


def _worm(sheet: Sheet) -> None:
    skin = (240, 140, 120)
    path = canvas.curve((2.8, 20), (8, 22), (6, 8), (11, 10)) + canvas.curve(
        (11, 10), (16, 12), (12, 23), (17, 20)
    )
    path += [(19.5, 16), (19.8, 10)]
    sheet.line(path, 5.2, skin)
    for x, y in ((5.2, 18.6), (8.2, 12.6), (13.2, 14.4), (15.4, 20)):
        sheet.oval(x, y, 1, 1, deep(skin, 0.25))
    sheet.oval(19.8, 7.6, 3.6, 3.6, skin)
    sheet.oval(21, 7, 1, 1, INK)


def _frog(sheet: Sheet) -> None:
    skin = (90, 176, 80)
    for x in (4.6, 19.4):
        sheet.oval(x, 19.4, 4.4, 3.2, deep(skin, 0.2))
    sheet.oval(12, 15, 10, 7.6, skin)
    for x in (6.8, 17.2):
        sheet.oval(x, 6, 4.2, 4.2, skin)
        _eye(sheet, x, 5.6, 1.8)
    sheet.line(canvas.curve((6.5, 14), (9, 17.6), (15, 17.6), (17.5, 14)), 1.3, deep(skin, 0.55))
    sheet.oval(12, 20.4, 5, 1.9, pale(skin, 0.6))


def _mouse(sheet: Sheet) -> None:
    fur = (158, 158, 170)
    sheet.line(canvas.curve((4, 18), (-2, 16), (3, 8), (0.9, 4.5)), 1.4, (232, 150, 150))
    sheet.oval(10, 16.5, 8, 6, fur)
    sheet.oval(17, 13.5, 5.6, 5, fur)
    for x in (13.5, 18.6):
        sheet.oval(x, 7.6, 3.4, 3.4, fur)
        sheet.oval(x, 7.8, 2, 2, (240, 176, 176))
    sheet.oval(18.4, 12.8, 1.1, 1.1, INK)
    sheet.oval(22.3, 14.6, 1.2, 1.1, (226, 110, 120))


def _bird(sheet: Sheet) -> None:
    plume = (70, 130, 210)
    sheet.polygon([(7, 14), (0.5, 9), (1.5, 18)], deep(plume, 0.3))
    for x in (11, 15):
        sheet.line([(x, 19), (x, 23)], 1.2, (236, 146, 50))
    sheet.polygon([(19, 5.6), (23.6, 8.4), (19, 11)], (236, 146, 50))
    sheet.oval(11.5, 14.4, 8, 6.4, plume)
    sheet.oval(16, 8.4, 5.4, 5.2, plume)
    sheet.oval(13, 17, 4.6, 3, pale(plume, 0.65))
    sheet.oval(8.6, 13, 4.6, 2.8, deep(plume, 0.3))
    _eye(sheet, 17.2, 7.6, 1.3)


_DRAWN = {
    "grass": _grass,
    "leaf": _leaf,
    "flower": _flower,
    "snail": _snail,
    "beetle": _beetle,
    "worm": _worm,
    "frog": _frog,
    "mouse": _mouse,
    "bird": _bird,
}


@lru_cache(maxsize=32)
def organism(name: str, faces_left: bool) -> Cutout:
    """A plant or an animal on a sheet of ORGANISM pixels."""
    sheet = Sheet(ORGANISM, ORGANISM)
    _DRAWN[name](sheet)
    if faces_left:
        sheet.mirror()
    return sheet.cut()
