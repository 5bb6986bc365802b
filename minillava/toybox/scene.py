"""Scenes as symbols: which objects there are, and where.

A picture is `SIZE` pixels square and falls into a 3x3 grid of places. Every object stands alone in one
place, so "the object at the top-left" is one object; inside its place it is free to move and to tilt.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache

from minillava.toybox.shapes import SHAPES, sprite

SIZE = 96
"""Edge of a picture in pixels: an 8x8 grid of 12-pixel patches."""

CELL = SIZE // 3
"""Edge of a place in pixels."""

COLORS = {
    "red": (214, 40, 40),
    "orange": (244, 140, 30),
    "yellow": (242, 206, 36),
    "green": (46, 150, 70),
    "blue": (38, 96, 205),
    "purple": (128, 60, 168),
    "pink": (240, 120, 180),
    "black": (44, 44, 52),
}
SIZES = {"small": (14, 15, 16, 17), "large": (25, 26, 27, 28)}
"""Diameters in pixels. Large is at least 1.5 times small, so size can be told from the pixels alone."""

PLACES = (
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
BACKGROUNDS = (
    (250, 247, 240), (240, 246, 252), (246, 240, 250), (240, 250, 242), (252, 242, 240), (244, 244, 246),
)  # fmt: skip

MAX_OBJECTS = 5
"""The most objects in a training picture. The `more` split shows one object more."""

WITHHELD = frozenset(zip(COLORS, SHAPES * 2, strict=False))
"""Eight (color, shape) pairs, one per color, that no training picture holds: the compositional split."""


@dataclass(frozen=True)
class Object:
    """One thing in a picture: its looks, its place, and its exact pixels.

    `left`, `top` are the corner of its sprite in pixels, `diameter` its nominal size in pixels and
    `angle` its tilt in degrees.
    """

    shape: str
    color: str
    size: str
    place: str
    left: int
    top: int
    diameter: int
    angle: int

    @property
    def name(self) -> str:
        """What it is called where things are listed: "red star"."""
        return f"{self.color} {self.shape}"

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight pixel box (x1, y1, x2, y2), x2 and y2 exclusive."""
        x1, y1, x2, y2 = sprite(self.shape, self.diameter, self.angle).getbbox()
        return self.left + x1, self.top + y1, self.left + x2, self.top + y2

    @property
    def column(self) -> int:
        return PLACES.index(self.place) % 3

    @property
    def row(self) -> int:
        return PLACES.index(self.place) // 3


@dataclass(frozen=True)
class Plan:
    """What a scene is built around, so that counts are balanced by construction, not by throwing away.

    Exactly `count` of the scene's `total` objects have the attribute value `value` (a shape or a color).
    """

    value: str
    count: int
    total: int


@dataclass(frozen=True)
class Scene:
    """A picture's symbols. `objects` stand in reading order: row by row, left to right."""

    objects: tuple[Object, ...]
    background: tuple[int, int, int]
    texture: int
    plan: Plan

    def key(self) -> str:
        """A hash of what the scene shows, blind to jitter and background: equal keys, equal captions."""
        text = ";".join(f"{o.size} {o.color} {o.shape} {o.place}" for o in self.objects)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def instances(self) -> list[dict]:
        """Objects with boxes in 0-1, in the schema of LLaVA's caps_boxes_coco2014_val_80.jsonl."""
        return [
            {
                "category": f"{o.color} {o.shape}",
                "bbox": [round(value / SIZE, 3) for value in o.box],
            }
            for o in self.objects
        ]


@lru_cache(maxsize=1)
def trained_kinds() -> tuple[tuple[str, str], ...]:
    """The (color, shape) pairs that training pictures may hold."""
    return tuple((c, s) for c in COLORS for s in SHAPES if (c, s) not in WITHHELD)


MAX_COUNT = 4
"""Counts of one attribute value run from 0 to this, each equally often."""


def sample_plan(rng: random.Random, most: int = MAX_OBJECTS) -> Plan:
    """A plan whose count is uniform on 0..MAX_COUNT for every value, within `most` objects."""
    value = rng.choice((*SHAPES, *COLORS))
    count = rng.randint(0, min(MAX_COUNT, most))
    return Plan(value, count, rng.randint(max(count, 1), most))


def sample_scene(rng: random.Random, plan: Plan, kinds: tuple[tuple[str, str], ...]) -> Scene:
    """Draw a scene that fulfils `plan` with objects from `kinds` (color, shape)."""
    inside = [kind for kind in kinds if plan.value in kind]
    outside = [kind for kind in kinds if plan.value not in kind]
    chosen = [rng.choice(inside) for _ in range(plan.count)]
    chosen += [rng.choice(outside) for _ in range(plan.total - plan.count)]
    places = rng.sample(range(len(PLACES)), plan.total)
    objects = (_place(rng, *kind, place) for kind, place in zip(chosen, places, strict=True))
    return Scene(
        objects=tuple(sorted(objects, key=lambda o: (o.row, o.column))),
        background=rng.choice(BACKGROUNDS),
        texture=rng.getrandbits(32),
        plan=plan,
    )


def _place(rng: random.Random, color: str, shape: str, place: int) -> Object:
    size = rng.choice(tuple(SIZES))
    diameter = rng.choice(SIZES[size])
    angle = rng.choice(range(-15, 16, 5))
    width, height = sprite(shape, diameter, angle).size
    left = (place % 3) * CELL + rng.randint(1, CELL - width - 1)
    top = (place // 3) * CELL + rng.randint(1, CELL - height - 1)
    return Object(shape, color, size, PLACES[place], left, top, diameter, angle)
