"""Sketches: flat shapes on squared paper, answered in a few lines of SVG. Stands for image to code."""

import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from minillava.toybox import canvas, svg
from minillava.toybox.canvas import Color, Cutout, Layer
from minillava.toybox.domain import SHORT_ANSWER, Domain, Question, Thing, digest, plural
from minillava.toybox.language import article
from minillava.toybox.scene import BACKGROUNDS, COLORS, PLACES, SIZE
from minillava.toybox.svg import GRID, UNIT, Primitive

NAMES = {"circle": "circle", "rect": "rectangle", "polygon": "triangle"}

NUMBERS = (1, 2, 3)
"""How many shapes a training sketch has. The `more` split shows one more."""

WITHHELD = frozenset((color, tuple(NAMES)[i % 3]) for i, color in enumerate(COLORS))
"""Eight (color, tag) pairs, one per color, that no training sketch shows: the compositional split."""


@dataclass(frozen=True)
class Sketch:
    """Shapes in reading order: by thirds of the picture from top to bottom, then from left to right."""

    shapes: tuple[Primitive, ...]
    background: Color
    texture: int


def _shape(rng: random.Random, color: str, tag: str) -> Primitive:
    """A shape of two to four units, somewhere on the paper, a unit or more from its edge."""
    width, height = rng.choice((2, 3, 4)), rng.choice((2, 3, 4))
    if tag == "circle":
        width = height = 2 * rng.choice((1, 2))
    elif tag == "polygon":
        width = 2 * rng.choice((1, 2))
    x, y = rng.randint(1, GRID - 1 - width), rng.randint(1, GRID - 1 - height)
    numbers = {
        "circle": (x + width // 2, y + height // 2, width // 2),
        "rect": (x, y, width, height),
        "polygon": (x, y + height, x + width, y + height, x + width // 2, y),
    }
    return Primitive(tag, numbers[tag], color)


def _apart(one: Primitive, other: Primitive) -> bool:
    """Whether a unit or more lies between two shapes."""
    x1, y1, x2, y2 = one.extent
    a1, b1, a2, b2 = other.extent
    return x2 < a1 or a2 < x1 or y2 < b1 or b2 < y1


def _middle(shape: Primitive) -> tuple[int, int]:
    """Twice the middle, in units."""
    x1, y1, x2, y2 = shape.extent
    return x1 + x2, y1 + y2


def _place(shape: Primitive) -> str:
    """Where the shape's middle is, in the words of scenes."""
    x, y = _middle(shape)
    return PLACES[min(3 * y // (2 * GRID), 2) * 3 + min(3 * x // (2 * GRID), 2)]


def _reading_order(shape: Primitive) -> tuple:
    x, y = _middle(shape)
    return min(3 * y // (2 * GRID), 2), x, y, shape.code()


def _made(rng: random.Random, number: int, withheld: bool = False) -> Sketch:
    """A sketch of `number` shapes: first what they are, then where."""
    pairs = [(color, tag) for color in COLORS for tag in NAMES if withheld or (color, tag) not in WITHHELD]
    kinds = [rng.choice(pairs) for _ in range(number)]
    while withheld and not WITHHELD & set(kinds):
        kinds = [rng.choice(pairs) for _ in range(number)]
    ordered = tuple(sorted(_scattered(rng, kinds), key=_reading_order))
    return Sketch(ordered, rng.choice(BACKGROUNDS), rng.getrandbits(32))


def _scattered(rng: random.Random, kinds: list[tuple[str, str]]) -> list[Primitive]:
    """One shape after another, each moved until it stands apart from those before; anew if it is stuck."""
    while True:
        shapes: list[Primitive] = []
        for kind in kinds:
            for _ in range(30):
                shape = _shape(rng, *kind)
                if all(_apart(shape, other) for other in shapes):
                    shapes.append(shape)
                    break
        if len(shapes) == len(kinds):
            return shapes


def _sample(rng: random.Random) -> Sketch:
    return _made(rng, rng.choice(NUMBERS))


def _sample_compositional(rng: random.Random) -> Sketch:
    return _made(rng, rng.choice(NUMBERS), withheld=True)


def _sample_more(rng: random.Random) -> Sketch:
    return _made(rng, max(NUMBERS) + 1)


def _key(sketch: Sketch) -> str:
    return digest(svg.write(sketch.shapes))


# --- Pixels ------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _squares() -> Cutout:
    """Thin lines, one a unit."""
    alpha = Image.new("L", (SIZE, SIZE))
    for i in range(UNIT, SIZE, UNIT):
        alpha.paste(20, (i, 0, i + 1, SIZE))
        alpha.paste(20, (0, i, SIZE, i + 1))
    image = Image.new("RGBA", (SIZE, SIZE), COLORS["blue"])
    image.putalpha(alpha)
    return Cutout(image, 0, 0)


@lru_cache(maxsize=4096)
def _shadow(shape: Primitive) -> Cutout:
    return canvas.cast(svg.cutout(shape))


def layers(sketch: Sketch) -> list[Layer]:
    """The sketch's cut-outs, back to front: things are the shapes in order."""
    corners = [shape.extent[:2] for shape in sketch.shapes]
    shadows = [
        _shadow(shape.moved(-x, -y)).at(x * UNIT, y * UNIT)
        for shape, (x, y) in zip(sketch.shapes, corners, strict=True)
    ]
    shapes = [svg.layer(shape, number) for number, shape in enumerate(sketch.shapes)]
    return [_squares().at(0, 0), *shadows, *shapes]


def _draw(sketch: Sketch) -> Image.Image:
    return canvas.paint(sketch.background, sketch.texture, layers(sketch))


def _things(sketch: Sketch) -> tuple[Thing, ...]:
    found = canvas.boxes(layers(sketch))
    return tuple(Thing(_name(shape), box) for shape, box in zip(sketch.shapes, found, strict=True))


# --- Words -------------------------------------------------------------------------------------


def _name(shape: Primitive) -> str:
    return f"{shape.fill} {NAMES[shape.tag]}"


def _measured(shape: Primitive) -> str:
    """A shape with all its numbers, in the order in which the code has them."""
    name, n = article(_name(shape)), shape.numbers
    match shape.tag:
        case "circle":
            return f"at {n[0]} {n[1]} {name} of radius {n[2]}"
        case "rect":
            return f"at {n[0]} {n[1]} {name}, {n[2]} wide and {n[3]} high"
    return f"at {n[0]} {n[1]}, {n[2]} {n[3]} and {n[4]} {n[5]} the corners of {name}"


def _captions(sketch: Sketch) -> list[str]:
    placed = [f"at the {_place(shape)} {article(_name(shape))}" for shape in sketch.shapes]
    return [
        " ".join(f"{_measured(shape)}.".capitalize() for shape in sketch.shapes),
        f"A sketch of {plural(len(sketch.shapes), 'shape')}.",
        f"{', '.join(placed)}.".capitalize(),
        f"A sketch with {article(_name(sketch.shapes[0]))}.",
        f"{placed[-1]}.".capitalize(),
    ]


def _facts(sketch: Sketch) -> list[list[str]]:
    """Of each shape what it is, where, and its numbers in words of their own."""
    about = []
    for shape in sketch.shapes:
        name, n = NAMES[shape.tag], shape.numbers
        told = [f"a {name}", article(_name(shape)), f"{article(_name(shape))} at the {_place(shape)}"]
        match shape.tag:
            case "circle":
                told += [f"at {n[0]} {n[1]} a circle", f"a circle of radius {n[2]}"]
            case "rect":
                told += [f"at {n[0]} {n[1]} a rectangle", f"a rectangle, {n[2]} wide and {n[3]} high"]
            case "polygon":
                corners = zip(n[::2], n[1::2], strict=True)
                told += [f"at {x} {y} the corners of a triangle" for x, y in corners]
        about.append(told)
    return [[f"a sketch of {plural(len(about), 'shape')}"], *about]


_WORDINGS = {
    "sketch": (
        ("Write the SVG code of the picture.", "Which SVG code draws the picture?"),
        ("The picture is drawn by which SVG code?",),
    ),
    "sketch_count": (
        ("How many shapes are in the sketch?", "What is the number of shapes in the sketch?"),
        ("There are how many shapes in the sketch?",),
    ),
    "sketch_color": (
        ("What color is the {x} in the sketch?", "Which color does the {x} in the sketch have?"),
        ("The {x} in the sketch has which color?",),
    ),
}
"""Wordings by type: those of training, then those that no training question uses."""


_MEASURES = {"sketch": "svg", "sketch_count": "number", "sketch_color": "exact"}


def _questions(sketch: Sketch, rng: random.Random, held_out: bool) -> list[Question]:
    """The code, the count, and the color of a shape that is the only one of its kind."""
    things = _things(sketch)
    facts = [
        ("sketch", "", svg.write(sketch.shapes), things, ""),
        ("sketch_count", "", str(len(things)), things, SHORT_ANSWER),
    ]
    chosen = rng.randrange(len(things))
    shape = sketch.shapes[chosen]
    if [other.tag for other in sketch.shapes].count(shape.tag) == 1:
        facts.append(("sketch_color", NAMES[shape.tag], shape.fill, (things[chosen],), SHORT_ANSWER))
    asked = []
    for kind, word, answer, rests_on, prompt in facts:
        text = rng.choice(_WORDINGS[kind][held_out]).format(x=word)
        asked.append(Question(kind, text, answer, rests_on, prompt=prompt, measure=_MEASURES[kind]))
    rng.shuffle(asked)
    return asked


SKETCH = Domain(
    name="sketch",
    samplers={"train": _sample, "compositional": _sample_compositional, "more": _sample_more},
    key=_key,
    draw=_draw,
    captions=_captions,
    things=_things,
    questions=_questions,
    types=tuple(_WORDINGS),
    facts=_facts,
)
