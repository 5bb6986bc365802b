"""A subset of SVG: circles, rectangles and polygons in one color each, written, read strictly and drawn.

    <svg viewBox="0 0 12 12">
    <circle cx="3" cy="4" r="2" fill="red"/>
    <rect x="6" y="1" width="4" height="3" fill="blue"/>
    <polygon points="1,11 5,11 3,7" fill="green"/>
    </svg>

Numbers are whole units, twelve to the picture's edge. A browser shows the same picture, but for the shades
that Toybox's names of colors stand for.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image

from minillava.toybox.canvas import Cutout, Layer, Sheet
from minillava.toybox.domain import Box
from minillava.toybox.scene import COLORS, SIZE

GRID = 12
"""Units to the edge of a picture."""

UNIT = SIZE // GRID
"""Edge of a unit in pixels."""

OPEN, CLOSE = f'<svg viewBox="0 0 {GRID} {GRID}">', "</svg>"

ATTRIBUTES = {
    "circle": ("cx", "cy", "r"),
    "rect": ("x", "y", "width", "height"),
    "polygon": ("points",),
}
"""What each tag must have, in the order in which it is written; beside these, only `fill`."""


class SvgError(ValueError):
    """Code that is outside the subset."""


@dataclass(frozen=True)
class Primitive:
    """One element. `numbers` are its attributes' in writing order, a polygon's x and y by turns."""

    tag: str
    numbers: tuple[int, ...]
    fill: str

    def code(self) -> str:
        """The element as a line of SVG."""
        if self.tag == "polygon":
            corners = zip(self.numbers[::2], self.numbers[1::2], strict=True)
            values = [" ".join(f"{x},{y}" for x, y in corners)]
        else:
            values = self.numbers
        named = zip(ATTRIBUTES[self.tag], values, strict=True)
        return f"<{self.tag} " + " ".join(f'{k}="{v}"' for k, v in named) + f' fill="{self.fill}"/>'

    def moved(self, x: int, y: int) -> "Primitive":
        """The same element so many units to the right and down."""
        places = len(self.numbers) if self.tag == "polygon" else 2
        shifted = [n + (x, y)[i % 2] for i, n in enumerate(self.numbers[:places])]
        return replace(self, numbers=(*shifted, *self.numbers[places:]))

    @property
    def extent(self) -> Box:
        """The box around it, in units: (x1, y1, x2, y2)."""
        match self.tag, self.numbers:
            case "circle", (x, y, r):
                return x - r, y - r, x + r, y + r
            case "rect", (x, y, width, height):
                return x, y, x + width, y + height
        xs, ys = self.numbers[::2], self.numbers[1::2]
        return min(xs), min(ys), max(xs), max(ys)


def write(primitives: tuple[Primitive, ...]) -> str:
    """The whole code, one element a line."""
    return "\n".join([OPEN, *(primitive.code() for primitive in primitives), CLOSE])


def parse(code: str) -> tuple[Primitive, ...]:
    """The elements of a code, in order.

    Blanks between elements and the order of attributes are free; everything else is as `write` has it.
    Raises SvgError, which names the line, for anything outside the subset.
    """
    lines = code.strip().replace(">", ">\n").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) < 2 or lines[0] != OPEN or lines[-1] != CLOSE:
        raise SvgError(f"SVG code begins with {OPEN} and ends with {CLOSE}.")
    return tuple(_element(line) for line in lines[1:-1])


def _element(line: str) -> Primitive:
    form = re.fullmatch(r'<(\w+)((?: [\w-]+="[^"]*")*) ?/>', line)
    if form is None or form[1] not in ATTRIBUTES:
        raise SvgError(f"{line!r} is no element of the form <{'|'.join(ATTRIBUTES)} .../>.")
    tag, found = form[1], re.findall(r'([\w-]+)="([^"]*)"', form[2])
    given, wanted = dict(found), (*ATTRIBUTES[tag], "fill")
    if sorted(name for name, _ in found) != sorted(wanted):
        raise SvgError(f"{line!r} needs the attributes {', '.join(wanted)}, each once and no other.")
    if given["fill"] not in COLORS:
        raise SvgError(f"{line!r} has another fill than {', '.join(COLORS)}.")
    pattern = r"\d{1,4},\d{1,4}(?: \d{1,4},\d{1,4}){2,}" if tag == "polygon" else r"\d{1,4}"
    if not all(re.fullmatch(pattern, given[name], re.ASCII) for name in ATTRIBUTES[tag]):
        raise SvgError(f"{line!r} needs whole numbers, or for a polygon three or more corners x,y.")
    numbers = tuple(int(n) for name in ATTRIBUTES[tag] for n in re.findall(r"\d+", given[name]))
    if max(numbers) > GRID:
        raise SvgError(f"{line!r} has a number beyond the edge at {GRID}.")
    made = Primitive(tag, numbers, given["fill"])
    x1, y1, x2, y2 = made.extent
    if x1 == x2 or y1 == y2 or (tag == "polygon" and _on_a_line(numbers)):
        raise SvgError(f"{line!r} has no area.")
    return made


def _on_a_line(corners: tuple[int, ...]) -> bool:
    """Whether all corners, x and y by turns, lie on one line."""
    (x, y), *others = zip(corners[::2], corners[1::2], strict=True)
    sides = [(a - x, b - y) for a, b in others]
    return all(a * d == b * c for a, b in sides for c, d in sides)


@lru_cache(maxsize=4096)
def cutout(primitive: Primitive) -> Cutout:
    """An element at the origin (see `Primitive.moved`), drawn."""
    _, _, width, height = (v * UNIT for v in primitive.extent)
    sheet, paint = Sheet(width, height), COLORS[primitive.fill]
    match primitive.tag:
        case "circle":
            sheet.oval(width / 2, height / 2, width / 2, height / 2, paint)
        case "rect":
            sheet.bar(0, 0, width, height, 0, paint)
        case "polygon":
            xs, ys = primitive.numbers[::2], primitive.numbers[1::2]
            sheet.polygon([(x * UNIT, y * UNIT) for x, y in zip(xs, ys, strict=True)], paint)
    return sheet.cut()


def layer(primitive: Primitive, thing: int | None = None) -> Layer:
    """The element in its place; what lies beyond the picture's edge is cut off when it is painted."""
    x, y, *_ = primitive.extent
    return cutout(primitive.moved(-x, -y)).at(x * UNIT, y * UNIT, thing)


def render(primitives: tuple[Primitive, ...]) -> Image.Image:
    """A picture of labels ("L", SIZE x SIZE): 0 where nothing is, else 1 + the number of the color."""
    picture = Image.new("L", (SIZE, SIZE))
    for primitive in primitives:
        drawn = layer(primitive)
        inside = drawn.image.getchannel("A").point(lambda v: 255 if v >= 128 else 0)
        label = 1 + tuple(COLORS).index(primitive.fill)
        picture.paste(label, (drawn.left, drawn.top), inside)
    return picture
