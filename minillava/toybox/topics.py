"""What lessons are about, and two of their topics: magnets and food chains (see `measures` for the others).

Every topic is a class with the same few methods. It says of each fact that can be asked what the candidates
for its answer are, and is sampled so that each of them is as likely as the others.
"""

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from minillava.toybox import apparatus, canvas
from minillava.toybox.canvas import Layer
from minillava.toybox.scene import SIZE

ROWS, SIDES = ("top", "bottom"), ("left", "right")

LEVELS = (("grass", "leaf", "flower"), ("snail", "beetle", "worm"), ("frog", "mouse", "bird"))
"""Plants, animals that eat them, and animals that eat those; any may eat any of the level before."""

WORDINGS = {
    "effect": (
        ("Do the magnets at the {x} attract or repel?", "Will the magnets at the {x} attract or repel?"),
        ("The magnets at the {x} attract or repel?",),
    ),
    "force": (
        ("Which magnets have the stronger force?", "Where is the force of the magnets stronger?"),
        ("The force is stronger between which magnets?",),
    ),
    "particles": (
        (
            "How many particles are in the {x} beaker?",
            "What is the number of particles in the {x} beaker?",
        ),
        ("There are how many particles in the {x} beaker?",),
    ),
    "concentration": (
        ("Which beaker has the higher concentration?", "In which beaker is the concentration higher?"),
        ("The concentration is higher in which beaker?",),
    ),
    "degrees": (
        (
            "How many degrees does the {x} thermometer show?",
            "What is the number of degrees on the {x} thermometer?",
        ),
        ("The {x} thermometer shows how many degrees?",),
    ),
    "warmer": (
        ("Which side is warmer?", "On which side is it warmer?"),
        ("It is warmer on which side?",),
    ),
    "heat": (
        ("To which side does heat flow?", "Which side does heat flow to?"),
        ("Heat flows to which side?",),
    ),
    "eater": (
        ("What eats the {x}?", "Which animal eats the {x}?"),
        ("The animal that eats the {x} is what?",),
    ),
    "food": (("What does the {x} eat?", "Which food does the {x} eat?"), ("The {x} eats what?",)),
}
"""Wordings by fact: those of training, then those that no training question uses."""


@dataclass(frozen=True)
class Fact:
    """What can be asked about a picture.

    `wording` is a key of WORDINGS and `about` what it is filled with; `things` are the numbers of the things
    that the answer rests on; `lecture` is a general truth, `solution` what the picture shows.
    """

    wording: str
    about: str
    answer: str
    candidates: tuple[str, ...]
    things: tuple[int, ...]
    lecture: str
    solution: str

    def text(self, rng: random.Random, held_out: bool) -> str:
        return rng.choice(WORDINGS[self.wording][held_out]).format(x=self.about)


class Topic(Protocol):
    """What a lesson shows."""

    def symbols(self) -> str:
        """What is there, written out, without jitter."""

    def layers(self) -> list[Layer]:
        """Cut-outs, back to front."""

    def names(self) -> list[str]:
        """Names of things 0, 1, ..."""

    def captions(self) -> list[str]:
        """The first says all; the others leave things out."""

    def told(self) -> list[list[str]]:
        """Short true statements about the whole, then about each thing (see `domain.facts`)."""

    def facts(self) -> list[tuple[Fact, ...]]:
        """All that can be asked; of facts in one group, each gives the others away."""


# --- Magnets -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two magnets that face each other, `gap` pixels apart; `left` and `right` are the facing poles."""

    left: str
    right: str
    gap: int
    x: int
    y: int

    @property
    def effect(self) -> str:
        return "repel" if self.left == self.right else "attract"


@dataclass(frozen=True)
class Magnets:
    """A pair at the top and a pair at the bottom, one of them near and one far apart."""

    pairs: tuple[Pair, Pair]

    @classmethod
    def sample(cls, rng: random.Random) -> "Magnets":
        gaps = [rng.randint(3, 8), rng.randint(15, 22)]
        rng.shuffle(gaps)
        width, height = apparatus.MAGNET
        made = []
        for row, gap in enumerate(gaps):
            left, right = rng.choices(tuple(apparatus.POLES), k=2)
            x = rng.randint(3, SIZE - 3 - 2 * width - gap)
            y = rng.randint(8, SIZE // 2 - height - 8) + row * SIZE // 2
            made.append(Pair(left, right, gap, x, y))
        return cls(tuple(made))

    @property
    def near(self) -> str:
        return ROWS[self.pairs[0].gap > self.pairs[1].gap]

    def symbols(self) -> str:
        return "magnets " + ", ".join(f"{p.left} {p.gap} {p.right}" for p in self.pairs)

    def layers(self) -> list[Layer]:
        width, height = apparatus.MAGNET
        stack = []
        for row, pair in enumerate(self.pairs):
            back = "south" if pair.left == "north" else "north"
            for side, pole, x in ((0, back, pair.x), (1, pair.right, pair.x + width + pair.gap)):
                stack.append(canvas.shadow(width + 4, 12).at(x - 2, pair.y + height - 6))
                stack.append(apparatus.magnet(pole).at(x, pair.y, 2 * row + side))
        return stack

    def names(self) -> list[str]:
        return ["magnet"] * 4

    def captions(self) -> list[str]:
        apart = {self.near: "near"}
        told = [
            f"At the {row} {p.left} faces {p.right} and the magnets are {apart.get(row, 'far')}."
            for row, p in zip(ROWS, self.pairs, strict=True)
        ]
        return [" ".join(told), "Two magnets at the top and two magnets at the bottom.", told[1]]

    def told(self) -> list[list[str]]:
        about = []
        for row, p in zip(ROWS, self.pairs, strict=True):
            apart = "near" if row == self.near else "far"
            both = [
                f"at the {row} {p.left} faces {p.right}",
                f"at the {row} the magnets are {apart}",
                f"the magnets at the {row} {p.effect}",
            ]
            about += [[*both, f"{p.left} faces right"], [*both, f"{p.right} faces left"]]
        return [[], *about]

    def facts(self) -> list[tuple[Fact, ...]]:
        effects = [
            Fact(
                "effect",
                row,
                p.effect,
                ("attract", "repel"),
                (2 * number, 2 * number + 1),
                "Opposite poles attract and same poles repel.",
                f"At the {row} {p.left} faces {p.right}, so the magnets {p.effect}.",
            )
            for number, (row, p) in enumerate(zip(ROWS, self.pairs, strict=True))
        ]
        lecture = "The force between near magnets is stronger."
        seen = f"The magnets at the {self.near} are near."
        force = Fact("force", "", self.near, ROWS, (0, 1, 2, 3), lecture, seen)
        return [(fact,) for fact in (*effects, force)]


# --- Food chains -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chains:
    """Two food chains, one above the other, read to the right or to the left, straight or arched."""

    chains: tuple[tuple[str, str, str], tuple[str, str, str]]
    to_right: tuple[bool, bool]
    arched: tuple[bool, bool]
    tops: tuple[int, int]

    @classmethod
    def sample(cls, rng: random.Random) -> "Chains":
        chosen = [rng.sample(level, 2) for level in LEVELS]
        to_right, arched = (tuple(rng.choices((False, True), k=2)) for _ in range(2))
        tops = rng.randint(12, 18), rng.randint(60, 66)
        return cls(tuple(zip(*chosen, strict=True)), to_right, arched, tops)

    def symbols(self) -> str:
        return f"chains {self.chains} {self.to_right} {self.arched}"

    def layers(self) -> list[Layer]:
        edge, (width, height) = apparatus.ORGANISM, apparatus.ARROW
        pitch = edge + width + 1
        links, arrows = [], []
        for row, chain in enumerate(self.chains):
            right, top = self.to_right[row], self.tops[row]
            lift = 6 if self.arched[row] else 0
            for link, name in enumerate(chain):
                column = link if right else 2 - link
                y = top - (lift if link == 1 else 0)
                links.append(apparatus.organism(name, not right).at(1 + column * pitch, y, len(links)))
            for step in (0, 1):
                x, y = 1 + edge + step * pitch, top + (edge - height - lift) // 2
                arrows.append(apparatus.arrow(right).at(x, y, 6 + len(arrows)))
        shadows = [canvas.shadow(edge, 10).at(layer.left, layer.box[3] - 5) for layer in links]
        return [*shadows, *links, *arrows]

    def names(self) -> list[str]:
        return [name for chain in self.chains for name in chain] + ["arrow"] * 4

    def captions(self) -> list[str]:
        meals = [f"the {animal} eats the {food}" for chain in self.chains for food, animal in pairwise(chain)]
        return [
            f"At the top {meals[0]} and {meals[1]}. At the bottom {meals[2]} and {meals[3]}.",
            "Two food chains.",
            f"{meals[1]}.".capitalize(),
        ]

    def told(self) -> list[list[str]]:
        links, arrows = [], []
        for row, chain, right in zip(ROWS, self.chains, self.to_right, strict=True):
            meals = [f"the {animal} eats the {food}" for food, animal in pairwise(chain)]
            for link, name in enumerate(chain):
                links.append([f"a {name}", f"a {name} at the {row}", *meals[max(link - 1, 0) : link + 1]])
            side = SIDES[right]
            drawn = [[meal, f"an arrow to the {side}", f"at the {row} {meal}"] for meal in meals]
            arrows += drawn if right else drawn[::-1]
        return [[], *links, *arrows]

    def facts(self) -> list[tuple[Fact, ...]]:
        lecture = "An arrow points from food to the animal that eats it."
        found = []
        for row, chain in enumerate(self.chains):
            for link, (food, animal) in enumerate(pairwise(chain)):
                step = link if self.to_right[row] else 1 - link
                things = 3 * row + link, 6 + 2 * row + step, 3 * row + link + 1
                seen = f"An arrow points from the {food} to the {animal}."
                eater = Fact("eater", food, animal, LEVELS[link + 1], things, lecture, seen)
                eaten = Fact("food", animal, food, LEVELS[link], things, lecture, seen)
                found.append((eater, eaten))
        return found
