"""Complex reasoning: questions that take two looks, answered with a "because" whose facts can be checked.

Each function makes one question, or None where the scene gives none. As in `language`, the wanted answer is
drawn first, or answers are even because colors and shapes are exchangeable, or made even by dropping.
"""

import random
from collections import Counter

from minillava.toybox import language
from minillava.toybox.domain import Question, plural
from minillava.toybox.language import RELATIONS, article
from minillava.toybox.scene import MAX_COUNT, MAX_OBJECTS, Object, Scene
from minillava.toybox.shapes import SHAPES

EXPLAIN = "Explain your answer."
"""Our format prompt: an answer, a comma, and "because" with the facts."""

WORDINGS = {
    "compare": (
        ("Which is larger, the {x} or the {y}?", "Is the {x} or the {y} larger?"),
        ("The {x} or the {y}, which is larger?",),
    ),
    "most": (
        ("Which {x} do most objects have?", "What {x} do most objects have?"),
        ("Most objects have which {x}?",),
    ),
    "remain": (
        ("How many objects remain without the {x}?", "Without the {x}, how many objects remain?"),
        ("If the {x} are taken away, how many objects remain?",),
    ),
    "two_hops": (
        ("What {x} is the object {relation} the {y}?", "Which {x} does the object {relation} the {y} have?"),
        ("The object {relation} the {y} has which {x}?",),
    ),
}
"""Wordings by type: those of training, then those that no training question uses."""


def reasoning(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """One question of each type that the scene gives."""
    found = [
        make(scene, rng, WORDINGS[kind][held_out])
        for kind, make in (("compare", _compare), ("most", _most), ("remain", _remain), ("two_hops", _hops))
    ]
    asked = [question for question in found if question]
    rng.shuffle(asked)
    return asked


def _because(kind: str, text: str, answer: str, fact: str, objects: tuple[Object, ...]) -> Question:
    reply = f"{answer}, because {fact}."
    return Question(kind, text, reply.capitalize(), objects, prompt=EXPLAIN, measure="because")


def _compare(scene: Scene, rng: random.Random, wordings: tuple[str, ...]) -> Question | None:
    """One, the other, or neither, each equally often: only of scenes that could give all three."""
    named = [(o, language.reference(scene, o, "size", rng, by_place=False)) for o in scene.objects]
    pairs = [(a, b) for a in named for b in named if a is not b and a[1] and b[1]]
    wanted = rng.choice(("large", "small", "same"))
    groups = {
        size: [(a, b) for a, b in pairs if (a[0].size if a[0].size != b[0].size else "same") == size]
        for size in ("large", "small", "same")
    }
    if not all(groups.values()):
        return None
    (one, x), (other, y) = rng.choice(groups[wanted])
    text = rng.choice(wordings).format(x=x, y=y)
    larger = {"large": f"the {x}", "small": f"the {y}", "same": "neither"}[wanted]
    fact = f"the {x} is {one.size} and the {y} is {other.size}"
    return _because("compare", text, larger, fact, (one, other))


def _most(scene: Scene, rng: random.Random, wordings: tuple[str, ...]) -> Question | None:
    """Of one color or shape there are two or more, and of every other fewer."""
    attribute = rng.choice(("color", "shape"))
    counts = Counter(getattr(thing, attribute) for thing in scene.objects).most_common()
    if counts[0][1] < 2 or len(counts) > 1 and counts[0][1] == counts[1][1]:
        return None
    value, number = counts[0]
    objects = tuple(o for o in scene.objects if getattr(o, attribute) == value)
    fact = f"{number} objects are {language.PLURAL.get(value, value)}"
    return _because("most", rng.choice(wordings).format(x=attribute), value, fact, objects)


def _share_of_rest(rest: int) -> float:
    """How often `scene.sample_plan` leaves so many objects without the plan's value."""
    counts = [c for c in range(MAX_COUNT + 1) if max(c, 1) <= c + rest <= MAX_OBJECTS]
    return sum(1 / (MAX_OBJECTS - max(c, 1) + 1) for c in counts) / (MAX_COUNT + 1)


def _remain(scene: Scene, rng: random.Random, wordings: tuple[str, ...]) -> Question | None:
    """Taken away is what the scene was planned around; rests are made even by dropping."""
    value, total = scene.plan.value, len(scene.objects)
    away = tuple(o for o in scene.objects if value in (o.color, o.shape))
    rest = total - len(away)
    if rest <= MAX_OBJECTS and rng.random() > _share_of_rest(MAX_OBJECTS) / _share_of_rest(rest):
        return None
    names = language.PLURAL.get(value, f"{value} objects")
    taken = plural(len(away), value if value in SHAPES else f"{value} object")
    if value == "cross" and len(away) != 1:
        taken = f"{len(away)} crosses"
    fact = f"the picture has {plural(total, 'object')} and {taken}"
    return _because("remain", rng.choice(wordings).format(x=names), str(rest), fact, scene.objects)


def _hops(scene: Scene, rng: random.Random, wordings: tuple[str, ...]) -> Question | None:
    """From one object to the only one that stands so beside it, and to what that looks like."""
    thing, relation = rng.choice(scene.objects), rng.choice(tuple(RELATIONS))
    attribute = rng.choice(("color", "shape", "size"))
    found = [o for o in scene.objects if o is not thing and RELATIONS[relation](o, thing)]
    name = language.reference(scene, thing, "place", rng, by_place=False)
    if name is None or len(found) != 1:
        return None
    (other,) = found
    text = rng.choice(wordings).format(x=attribute, y=name, relation=relation)
    fact = f"{article(f'{other.size} {other.color} {other.shape}')} is {relation} the {name}"
    return _because("two_hops", text, getattr(other, attribute), fact, (thing, other))
