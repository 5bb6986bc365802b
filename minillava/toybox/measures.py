"""Lessons in which something is counted or read off: particles in beakers, degrees on thermometers."""

import random
from dataclasses import dataclass

from minillava.toybox import apparatus, canvas
from minillava.toybox.canvas import Layer
from minillava.toybox.domain import plural
from minillava.toybox.language import article
from minillava.toybox.scene import COLORS, SIZE
from minillava.toybox.topics import SIDES, Fact

MOST = 7
"""The most particles in a beaker that is trained on. The `more` split shows a beaker with one more."""


def withheld(color: str, number: int) -> bool:
    """Whether no training picture shows so many particles, or the liquid at that mark, in this color."""
    return tuple(COLORS).index(color) % apparatus.MARKS == number


def _color(rng: random.Random, numbers: list[int], novel: bool) -> str | None:
    """A color for all of these numbers that are in one color, withheld with one of them or with none."""
    fitting = [c for c in COLORS if any(withheld(c, number) for number in numbers) == novel]
    return rng.choice(fitting) if fitting else None


# --- Beakers -----------------------------------------------------------------------------------

_COLUMNS, _CELL = 3, 9
"""Particles stand in cells of this many pixels, four rows of three, and jitter inside them."""


@dataclass(frozen=True)
class Beakers:
    """Particles in as much water on the left and on the right; each is (cell, x, y) with its jitter."""

    color: str
    particles: tuple[tuple[tuple[int, int, int], ...], ...]
    shift: tuple[int, int]

    @classmethod
    def sample(cls, rng: random.Random, novel: bool = False, more: bool = False) -> "Beakers":
        """Left, right and neither are as likely, and so are all counts of one beaker.

        `novel` for a color withheld with one of the counts, `more` for a beaker with one particle more.
        """
        color = None
        while color is None:
            counts = rng.sample(range(1, MOST + 1), 2)
            if rng.random() < 1 / 3:
                counts[1] = counts[0]
            if more:
                counts[rng.randrange(2)] = MOST + 1
            color = _color(rng, counts, novel)
        particles = []
        for count in counts:
            cells = sorted(rng.sample(range(4 * _COLUMNS), count))
            particles.append(tuple((cell, rng.randint(0, 1), rng.randint(0, 1)) for cell in cells))
        shift = rng.randint(-2, 2), rng.randint(-8, 8)
        return cls(color, tuple(particles), shift)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.particles[0]), len(self.particles[1])

    def symbols(self) -> str:
        cells = ["-".join(str(cell) for cell, *_ in side) for side in self.particles]
        return f"beakers {self.color} {cells}"

    def layers(self) -> list[Layer]:
        width, height = apparatus.BEAKER
        back, front = [], []
        for side, particles in enumerate(self.particles):
            left, top = 4 + side * (width + 4) + self.shift[0], 22 + self.shift[1]
            back.append(canvas.shadow(width + 2, 14).at(left - 1, top + height - 8))
            back.append(apparatus.beaker().at(left, top, side))
            for cell, x, y in particles:
                x += left + 8 + cell % _COLUMNS * _CELL
                y += top + 15 + cell // _COLUMNS * _CELL
                front.append(apparatus.particle(self.color).at(x, y, 2 + len(front)))
        return back + front

    def names(self) -> list[str]:
        return [*(f"{side} beaker" for side in SIDES), *[f"{self.color} particle"] * sum(self.counts)]

    def captions(self) -> list[str]:
        left, right = (plural(count, f"{self.color} particle") for count in self.counts)
        return [
            f"At the left is a beaker with {left}. At the right is a beaker with {right}.",
            f"Two beakers of water with {self.color} particles.",
            f"There is a beaker with {left}.",
        ]

    def told(self) -> list[list[str]]:
        """Of single particles nothing is said: there are many, and alike."""
        left, right = self.counts
        higher = "neither" if left == right else f"the {SIDES[right > left]}"
        about = []
        for side, count in zip(SIDES, self.counts, strict=True):
            inside = plural(count, f"{self.color} particle")
            about.append(
                [
                    plural(count, "particle"),
                    f"a beaker with {inside}",
                    f"the {side} beaker has {plural(count, 'particle')}",
                ]
            )
        return [[f"{higher} beaker has the higher concentration"], *about, *[[]] * (left + right)]

    def facts(self) -> list[tuple[Fact, ...]]:
        left, right = self.counts
        numbers = tuple(str(n) for n in range(1, max(MOST, left, right) + 1))
        inside = (0, *range(2, 2 + left)), (1, *range(2 + left, 2 + left + right))
        counts = [
            Fact(
                "particles",
                side,
                str(count),
                numbers,
                inside[number],
                "Every particle counts as one.",
                f"The {side} beaker has {plural(count, 'particle')}.",
            )
            for number, (side, count) in enumerate(zip(SIDES, self.counts, strict=True))
        ]
        higher = "neither" if left == right else SIDES[right > left]
        lecture = "More particles in the same water is a higher concentration."
        seen = f"The left beaker has {left} and the right beaker has {right}."
        both = tuple(range(2 + left + right))
        concentration = Fact("concentration", "", higher, (*SIDES, "neither"), both, lecture, seen)
        return [(fact,) for fact in (*counts, concentration)]


# --- Thermometers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thermometers:
    """Two thermometers that differ; marks 0, 1, ... are 0, 10, ... degrees."""

    marks: tuple[int, int]
    colors: tuple[str, str]
    corners: tuple[tuple[int, int], tuple[int, int]]

    @classmethod
    def sample(cls, rng: random.Random, novel: bool = False) -> "Thermometers":
        """`novel` for colors withheld with their marks."""
        width, height = apparatus.THERMOMETER
        marks = rng.sample(range(apparatus.MARKS), 2)
        corners = tuple(
            (rng.randint(4, SIZE // 2 - width - 4) + left, rng.randint(2, SIZE - height - 4))
            for left in (0, SIZE // 2)
        )
        return cls(tuple(marks), tuple(_color(rng, [mark], novel) for mark in marks), corners)

    @property
    def degrees(self) -> tuple[int, int]:
        return 10 * self.marks[0], 10 * self.marks[1]

    def symbols(self) -> str:
        return f"thermometers {self.marks} {self.colors}"

    def layers(self) -> list[Layer]:
        width, height = apparatus.THERMOMETER
        stack = []
        for side, (x, y) in enumerate(self.corners):
            stack.append(canvas.shadow(width + 8, height + 8, 60).at(x - 4, y - 2))
            stack.append(apparatus.thermometer(self.marks[side], self.colors[side]).at(x, y, side))
        return stack

    def names(self) -> list[str]:
        return [f"{side} thermometer" for side in SIDES]

    def captions(self) -> list[str]:
        told = [
            f"At the {side} is {article(color)} thermometer that shows {degrees} degrees."
            for side, color, degrees in zip(SIDES, self.colors, self.degrees, strict=True)
        ]
        return [" ".join(told), "Two thermometers.", told[1]]

    def told(self) -> list[list[str]]:
        warmer, colder = SIDES if self.marks[0] > self.marks[1] else SIDES[::-1]
        about = [
            [
                article(f"{color} thermometer"),
                f"{degrees} degrees",
                f"{article(color)} thermometer that shows {degrees} degrees",
                f"the {side} thermometer shows {degrees} degrees",
            ]
            for side, color, degrees in zip(SIDES, self.colors, self.degrees, strict=True)
        ]
        return [[f"the {warmer} side is warmer", f"heat does flow to the {colder} side"], *about]

    def facts(self) -> list[tuple[Fact, ...]]:
        left, right = self.degrees
        warmer, colder = SIDES if left > right else SIDES[::-1]
        seen = f"The left shows {left} and the right shows {right} degrees."
        numbers = tuple(str(10 * mark) for mark in range(apparatus.MARKS))
        degrees = [
            Fact(
                "degrees",
                side,
                str(self.degrees[number]),
                numbers,
                (number,),
                "From mark to mark are 10 degrees.",
                f"The {side} thermometer is {plural(self.marks[number], 'mark')} up.",
            )
            for number, side in enumerate(SIDES)
        ]
        warm = Fact("warmer", "", warmer, SIDES, (0, 1), "More degrees are warmer.", seen)
        heat = Fact("heat", "", colder, SIDES, (0, 1), "Heat flows from warm to cold.", seen)
        return [*((fact,) for fact in degrees), (warm, heat)]
