"""What LLaVA has to read off its patches in each domain beside scenes, thing by thing: for the probes."""

from collections.abc import Callable, Iterator

from minillava.toybox.creatures import CREATURES, Creature
from minillava.toybox.domain import Domain
from minillava.toybox.lessons import LESSONS, Lesson
from minillava.toybox.measures import Beakers, Thermometers
from minillava.toybox.signs import SIGNS, Sign
from minillava.toybox.sketch import SKETCH, Sketch
from minillava.toybox.topics import Chains, Magnets

Reading = tuple[str, int, str]
"""What is asked, the number of the thing whose box shows it, and the answer."""


def _signs(sign: Sign) -> Iterator[Reading]:
    yield "color", 0, sign.color
    for number, character in enumerate(sign.text, 1):
        yield "character", number, character
        yield "place of a character", number, str(number)


def _creatures(creature: Creature) -> Iterator[Reading]:
    c = creature
    top, tail, coat = c.look
    animal = {"kind": c.kind, "breed": c.breed, "color": c.color, "facing": c.facing, "coat": coat}
    yield from ((what, 0, value) for what, value in animal.items())
    toy = {"toy": c.toy, "color of the toy": c.toy_color, "side of the toy": c.toy_side}
    yield from ((what, 1, value) for what, value in toy.items())
    yield "top", 2, top
    yield "tail", 3, tail


def _lessons(lesson: Lesson) -> Iterator[Reading]:
    match lesson.topic:
        case Magnets() as magnets:
            for number in range(4):
                pair = magnets.pairs[number // 2]
                yield "facing pole", number, (pair.left, pair.right)[number % 2]
                yield "attract or repel", number, pair.effect
                yield "near or far", number, str(pair.gap < max(p.gap for p in magnets.pairs))
        case Beakers() as beakers:
            yield from (("particles", side, str(count)) for side, count in enumerate(beakers.counts))
            yield from (("color of the particles", side, beakers.color) for side in (0, 1))
        case Thermometers() as pair:
            yield from (("degrees", side, str(degrees)) for side, degrees in enumerate(pair.degrees))
            yield from (("color of the liquid", side, color) for side, color in enumerate(pair.colors))
        case Chains() as chains:
            for row, (chain, right) in enumerate(zip(chains.chains, chains.to_right, strict=True)):
                yield from (("plant or animal", 3 * row + link, name) for link, name in enumerate(chain))
                yield from (("arrow", 6 + 2 * row + step, str(right)) for step in (0, 1))
                eaters = (("eaten by", 3 * row + link, chain[link + 1]) for link in (0, 1))
                yield from eaters


def _sketch(sketch: Sketch) -> Iterator[Reading]:
    for number, shape in enumerate(sketch.shapes):
        x1, y1, x2, y2 = shape.extent
        sides = {"left edge": x1, "top edge": y1, "width": x2 - x1, "height": y2 - y1}
        yield "shape", number, shape.tag
        yield "color", number, shape.fill
        yield from ((what, number, str(value)) for what, value in sides.items())


READ: tuple[tuple[Domain, Callable[..., Iterator[Reading]]], ...] = (
    (SIGNS, _signs),
    (CREATURES, _creatures),
    (LESSONS, _lessons),
    (SKETCH, _sketch),
)
"""Domains beside scenes, and what there is to read in a specimen of each."""
