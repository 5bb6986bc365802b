"""Creatures: toy animals built from parts, each beside a toy. Stands for telling breeds of dogs apart.

A kind (cat, bird, fish) has four breeds with invented names, told apart by three parts of two looks each:
what is on top (ears, crest, fin), the tail, and the coat. Breeds are the four combinations of even parity,
so no single part gives a breed away and any two do.
"""

import random
from dataclasses import dataclass

from PIL import Image

from minillava.toybox import anatomy, canvas
from minillava.toybox.anatomy import HEIGHT, TOY, WIDTH, Look
from minillava.toybox.canvas import Color, Layer
from minillava.toybox.domain import Domain, Question, Thing, digest
from minillava.toybox.language import article
from minillava.toybox.scene import BACKGROUNDS, COLORS, SIZE, trained_kinds

TOPS, TAILS = ("pointed", "round"), ("long", "short")
LOOKS: tuple[Look, ...] = (
    ("pointed", "long", "stripes"),
    ("pointed", "short", "spots"),
    ("round", "long", "spots"),
    ("round", "short", "stripes"),
)
"""(top, tail, coat) of the first, second, ... breed of every kind."""

BREEDS = {
    "cat": ("mika", "toffa", "lumo", "perri"),
    "bird": ("pilo", "keeva", "sunda", "zibo"),
    "fish": ("bela", "nixo", "dorin", "wavi"),
}
TOP_NAMES = {"cat": "ears", "bird": "crest", "fish": "fin"}
"""What is on top of each kind."""

WITHHELD = frozenset(
    (breed, color)
    for breeds in BREEDS.values()
    for number, breed in enumerate(breeds)
    for color in tuple(COLORS)[2 * number : 2 * number + 2]
)
"""(breed, color) pairs that no training picture shows: each color once in every kind, so that the rest is as
even as before. The compositional split."""

SIDES = ("left", "right")


@dataclass(frozen=True)
class Creature:
    """An animal and a toy, one of the six shapes. Corners are those of the animal's sheet and of the toy."""

    kind: str
    breed: str
    color: str
    facing: str
    toy: str
    toy_color: str
    toy_side: str
    corner: tuple[int, int]
    toy_corner: tuple[int, int]
    background: Color
    texture: int

    @property
    def look(self) -> Look:
        return LOOKS[BREEDS[self.kind].index(self.breed)]


def _sample(rng: random.Random, withheld: bool = False) -> Creature:
    """Everything uniform and independent, but for the withheld pairs of breed and color.

    Toys are the (color, shape) pairs that scenes train on: what those withhold is shown nowhere.
    """
    kind = rng.choice(tuple(BREEDS))
    pairs = [(b, c) for b in BREEDS[kind] for c in COLORS if ((b, c) in WITHHELD) == withheld]
    breed, color = rng.choice(pairs)
    (toy_color, toy), toy_side = rng.choice(trained_kinds()), rng.choice(SIDES)
    width, height = anatomy.toy(toy, "red").image.size
    top = rng.randint(8, SIZE - HEIGHT - 6)
    if toy_side == "left":
        left = rng.randint(width + 2, SIZE - WIDTH - 1)
        toy_left = rng.randint(1, left - width)
    else:
        left = rng.randint(1, SIZE - WIDTH - width - 2)
        toy_left = rng.randint(left + WIDTH, SIZE - width - 1)
    return Creature(
        kind=kind,
        breed=breed,
        color=color,
        facing=rng.choice(SIDES),
        toy=toy,
        toy_color=toy_color,
        toy_side=toy_side,
        corner=(left, top),
        toy_corner=(toy_left, top + HEIGHT - height + rng.randint(-1, 3)),
        background=rng.choice(BACKGROUNDS),
        texture=rng.getrandbits(32),
    )


def _sample_compositional(rng: random.Random) -> Creature:
    return _sample(rng, withheld=True)


def _key(creature: Creature) -> str:
    c = creature
    return digest(f"{c.color} {c.breed} {c.kind} {c.facing} {c.toy_color} {c.toy} {c.toy_side}")


# --- Pixels ------------------------------------------------------------------------------------


def layers(creature: Creature) -> list[Layer]:
    """The picture's cut-outs, back to front: thing 0 is the animal, thing 1 the toy."""
    c = creature
    left, top = c.corner
    toy = anatomy.toy(c.toy, c.toy_color).at(*c.toy_corner, 1)
    return [
        canvas.shadow(WIDTH - 4, 14).at(left + 2, top + HEIGHT - 8),
        canvas.shadow(TOY + 6, 10).at(toy.left + (toy.image.width - TOY) // 2 - 3, toy.box[3] - 6),
        anatomy.animal(c.kind, c.look, c.color, c.facing).at(left, top, 0),
        toy,
    ]


def _draw(creature: Creature) -> Image.Image:
    return canvas.paint(creature.background, creature.texture, layers(creature))


def _things(creature: Creature) -> tuple[Thing, ...]:
    """The animal, the toy, and of the animal what is on top and the tail."""
    c = creature
    animal, toy = canvas.boxes(layers(c))
    left, top = c.corner
    crown, tail = (
        (x1 + left, y1 + top, x2 + left, y2 + top)
        for x1, y1, x2, y2 in anatomy.part_boxes(c.kind, c.look, c.color, c.facing)
    )
    return (
        Thing(f"{c.color} {c.kind}", animal),
        Thing(f"{c.toy_color} {c.toy}", toy),
        Thing(TOP_NAMES[c.kind], crown),
        Thing("tail", tail),
    )


# --- Words -------------------------------------------------------------------------------------


def _captions(creature: Creature) -> list[str]:
    c = creature
    top, tail, coat = c.look
    animal, toy = article(f"{c.color} {c.kind}"), article(f"{c.toy_color} {c.toy}")
    crown = f"{top} {TOP_NAMES[c.kind]}"
    parts = f"It has {crown if c.kind == 'cat' else article(crown)}, a {tail} tail and {coat}"
    return [
        f"{animal.capitalize()} looks {c.facing}. {parts}, so it is a {c.breed}. "
        f"At the {c.toy_side} is {toy}.",
        f"{animal.capitalize()} with a toy.",
        f"There is a {c.kind}. {parts}.",
        f"A {c.breed} {c.kind}.",
        f"A {c.kind} and {toy}.",
    ]


def _facts(creature: Creature) -> list[list[str]]:
    """Animal and toy by color and kind, breed, parts and sides; a part's look is said of the animal too."""
    c = creature
    top, tail, coat = c.look
    crown = f"{top} {TOP_NAMES[c.kind]}"
    crown, tail = crown if c.kind == "cat" else article(crown), f"a {tail} tail"
    animal = [article(f"{c.color} {c.kind}"), f"a {c.kind}", f"a {c.breed}", f"a {c.breed} {c.kind}"]
    animal += [f"it looks {c.facing}", f"the {c.kind} looks {c.facing}", crown, tail, f"it has {coat}"]
    toy = article(f"{c.toy_color} {c.toy}")
    return [
        [f"{crown}, {tail} and {coat}"],
        animal,
        [toy, f"a {c.toy}", article(f"{c.toy_color} toy"), f"a toy at the {c.toy_side}"],
        [crown],
        [tail],
    ]


_WORDINGS = {
    "kind": (
        ("What animal is in the picture?", "Which animal does the picture show?"),
        ("The picture shows which animal?",),
    ),
    "breed": (
        ("Which breed is the {kind}?", "What breed of {kind} is this?"),
        ("The {kind} is of which breed?",),
    ),
    "animal_color": (
        ("What color is the {kind}?", "Which color does the {kind} have?"),
        ("The {kind} has which color?",),
    ),
    "toy": (("What shape is the toy?", "Which shape does the toy have?"), ("The toy has which shape?",)),
    "toy_color": (
        ("What color is the toy?", "Which color does the toy have?"),
        ("The toy has which color?",),
    ),
    "part": (
        ("Is the {part} {a} or {b}?", "Which is the {part}, {a} or {b}?"),
        ("The {part} is {a} or {b}?",),
    ),
    "ears": (
        ("Are the ears {a} or {b}?", "Which are the ears, {a} or {b}?"),
        ("The ears are {a} or {b}?",),
    ),
    "coat": (
        ("Does the {kind} have stripes or spots?", "Are there stripes or spots on the {kind}?"),
        ("The {kind} has stripes or spots?",),
    ),
    "facing": (
        ("Which way does the {kind} look?", "To which side does the {kind} look?"),
        ("The {kind} looks which way?",),
    ),
    "toy_side": (
        ("On which side of the {kind} is the toy?", "Is the toy left or right of the {kind}?"),
        ("The toy is on which side of the {kind}?",),
    ),
}
"""Wordings by type: those of training, then those that no training question uses."""


def _questions(creature: Creature, rng: random.Random, held_out: bool) -> list[Question]:
    c = creature
    animal, toy, *parts = _things(c)
    number = rng.randrange(2)
    part, looks = parts[number], (TOPS, TAILS)[number]
    facts = (
        ("kind", c.kind, (animal,)),
        ("breed", c.breed, (animal,)),
        ("animal_color", c.color, (animal,)),
        ("toy", c.toy, (toy,)),
        ("toy_color", c.toy_color, (toy,)),
        ("part", c.look[number], (part,)),
        ("coat", c.look[2], (animal,)),
        ("facing", c.facing, (animal,)),
        ("toy_side", c.toy_side, (animal, toy)),
    )
    words = {"kind": c.kind, "part": part.name, "a": looks[0], "b": looks[1]}
    asked = []
    for kind, answer, rests_on in facts:
        wordings = _WORDINGS["ears" if kind == "part" and part.name == "ears" else kind]
        asked.append(Question(kind, rng.choice(wordings[held_out]).format(**words), answer, rests_on))
    rng.shuffle(asked)
    return asked


CREATURES = Domain(
    name="creatures",
    samplers={"train": _sample, "compositional": _sample_compositional},
    key=_key,
    draw=_draw,
    captions=_captions,
    things=_things,
    questions=_questions,
    types=tuple(kind for kind in _WORDINGS if kind != "ears"),
    facts=_facts,
)
