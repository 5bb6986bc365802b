"""Scenes as words: captions, and questions with their answers and the objects the answers rest on.

Each question type is one function from a scene and a random generator to a `Question`, or to None where
the scene gives no such question. Answers are balanced by construction: the wanted answer is drawn first,
or the answer is uniform because colors, shapes and places are exchangeable in `scene.py`.
"""

import random
from collections.abc import Callable

from minillava.toybox.domain import SHORT_ANSWER as SHORT_ANSWER
from minillava.toybox.domain import Question
from minillava.toybox.scene import (
    COLORS,
    MAX_COUNT,
    MAX_OBJECTS,
    SIZES,
    Object,
    Scene,
    trained_kinds,
)
from minillava.toybox.shapes import SHAPES

PLURAL = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def phrase(thing: Object) -> str:
    """An object in full, its place first: "at the top-left a large red star".

    Place first, so that a model that writes it has only one thing to find at a time: the next place with
    something in it, and then, looking there, what that is.
    """
    return f"at the {thing.place} a {thing.size} {thing.color} {thing.shape}"


def caption(scene: Scene) -> str:
    """The dense caption: every object with every attribute, in reading order."""
    text = ", ".join(phrase(thing) for thing in scene.objects)
    return text[0].upper() + text[1:] + "."


_TELLINGS = (
    "At the {place} is {a}.",
    "At the {place} there is {a}.",
    "At the {place} I see {a}.",
    "The {place} shows {a}.",
)


def telling(scene: Scene, rng: random.Random) -> str:
    """The scene told in sentences, in any order: what tiny-Vicuna reads about."""
    things = rng.sample(scene.objects, len(scene.objects))
    return " ".join(
        rng.choice(_TELLINGS).format(a=f"a {o.size} {o.color} {o.shape}", place=o.place)
        for o in things
    )


def captions(scene: Scene) -> list[str]:
    """Five captions of one picture, as COCO has: the dense one and four that leave things out."""
    rng = random.Random(scene.key())
    first, last = scene.objects[0], scene.objects[-1]
    number = len(scene.objects)
    some = rng.choice(scene.objects)
    return [
        caption(scene),
        f"A picture of {number} {'object' if number == 1 else 'objects'}.",
        f"{article(some.color).capitalize()} {some.shape} at the {some.place}.",
        f"There is {article(first.shape)} and something {last.color}.",
        telling(scene, rng),
    ]


# --- Referring to an object --------------------------------------------------------------------


def reference(
    scene: Scene, thing: Object, hidden: str, rng: random.Random, by_place: bool = True
) -> str | None:
    """Words that fit `thing` alone and do not tell its `hidden` attribute, or None if there are none."""
    fields = [("shape",), ("color",), ("color", "shape"), ("size", "shape"), ("size", "color")]
    if by_place:
        fields.append(("place",))
    rng.shuffle(fields)
    for names in fields:
        if hidden in names or hidden == "size" and "size" in names:
            continue
        same = [o for o in scene.objects if all(getattr(o, n) == getattr(thing, n) for n in names)]
        if len(same) == 1:
            return _refer(thing, names)
    return None


def _refer(thing: Object, names: tuple[str, ...]) -> str:
    if names == ("place",):
        return f"object at the {thing.place}"
    words = [getattr(thing, name) for name in names]
    return " ".join(words if "shape" in names else [*words, "object"])


# --- Question types ----------------------------------------------------------------------------

TEMPLATES: dict[str, tuple[str, ...]] = {
    "color": (
        "What color is the {x}?",
        "Which color does the {x} have?",
        "What is the color of the {x}?",
        "The {x}: what color is it?",
    ),
    "shape": (
        "What shape is the {x}?",
        "Which shape does the {x} have?",
        "What is the shape of the {x}?",
        "The {x}: what shape is it?",
    ),
    "size": (
        "What size is the {x}?",
        "Is the {x} large or small?",
        "What is the size of the {x}?",
        "The {x}: what size is it?",
    ),
    "place": (
        "Where is the {x}?",
        "In which place is the {x}?",
        "What is the place of the {x}?",
        "The {x}: where is it?",
    ),
    "exist": (
        "Is there {x} in the picture?",
        "Does the picture show {x}?",
        "Do you see {x}?",
        "Is {x} there?",
    ),
    "relation": (
        "Is the {x} {relation} the {y}?",
        "Does the {x} lie {relation} the {y}?",
        "The {x}: is it {relation} the {y}?",
    ),
    "count": (
        "How many {x} are there?",
        "What is the number of {x}?",
        "How many {x} do you see?",
        "The number of {x} is what?",
    ),
}
"""Wordings of training, several a type, so that a visitor's own wording has a chance."""

PARAPHRASES: dict[str, tuple[str, ...]] = {
    "color": ("The {x} has which color?",),
    "shape": ("The {x} has which shape?",),
    "size": ("The {x} is what size?",),
    "place": ("The {x} is in which place?",),
    "exist": ("Is {x} in the picture?",),
    "relation": ("Does the picture show the {x} {relation} the {y}?",),
    "count": ("There are how many {x}?",),
}
"""Wordings that no training record uses: the `paraphrase` split."""


def _attribute(name: str) -> Callable:
    def ask(scene: Scene, rng: random.Random, templates: tuple[str, ...]) -> Question | None:
        thing = rng.choice(scene.objects)
        words = reference(scene, thing, name, rng, by_place=name != "place")
        if words is None:
            return None
        text = rng.choice(templates).format(x=words)
        return Question(name, text, getattr(thing, name), (thing,), (words,))

    return ask


def _fits(thing: Object, color: str | None, shape: str | None) -> bool:
    return color in (None, thing.color) and shape in (None, thing.shape)


def _exist(scene: Scene, rng: random.Random, templates: tuple[str, ...]) -> Question | None:
    """Yes or no, decided first. Half of the noes are adversarial: color and shape are there, not on one
    object. Withheld pairs are asked about only where a picture may hold them, or "no" would be free.
    """
    wanted = rng.random() < 0.5
    form = rng.choice((("color", "shape"), ("color", "shape"), ("color",), ("shape",)))
    if wanted:
        thing = rng.choice(scene.objects)
        color = thing.color if "color" in form else None
        shape = thing.shape if "shape" in form else None
    else:
        here_colors = sorted({o.color for o in scene.objects})
        here_shapes = sorted({o.shape for o in scene.objects})
        adversarial = form == ("color", "shape") and rng.random() < 0.5
        pairs = [
            (c if "color" in form else None, s if "shape" in form else None)
            for c in (here_colors if adversarial else COLORS)
            for s in (here_shapes if adversarial else SHAPES)
            if len(form) == 1 or (c, s) in trained_kinds()
        ]
        pairs = [p for p in pairs if not any(_fits(o, *p) for o in scene.objects)]
        if not pairs:
            return None
        color, shape = rng.choice(pairs)
    words = " ".join(word for word in (color, shape or "object") if word)
    text = rng.choice(templates).format(x=article(words))
    evidence = tuple(o for o in scene.objects if _fits(o, color, shape))
    return Question("exist", text, "yes" if wanted else "no", evidence)


RELATIONS: dict[str, Callable[[Object, Object], bool]] = {
    "left of": lambda a, b: a.column < b.column,
    "right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}


def _relation(scene: Scene, rng: random.Random, templates: tuple[str, ...]) -> Question | None:
    if len(scene.objects) < 2:
        return None
    one, other = rng.sample(scene.objects, 2)
    relation = rng.choice(tuple(RELATIONS))
    wanted = rng.random() < 0.5
    if not RELATIONS[relation](one, other):
        one, other = other, one
    if not RELATIONS[relation](one, other):
        return None
    if not wanted:
        one, other = other, one
    x = reference(scene, one, "place", rng, by_place=False)
    y = reference(scene, other, "place", rng, by_place=False)
    if x is None or y is None:
        return None
    text = rng.choice(templates).format(x=x, y=y, relation=relation)
    return Question("relation", text, "yes" if wanted else "no", (one, other), (x, y))


def _share_of_total(total: int) -> float:
    """How often `scene.sample_plan` makes pictures of `total` objects."""
    counts = range(MAX_COUNT + 1)
    return sum(
        1 / (MAX_OBJECTS - max(c, 1) + 1) for c in counts if total >= max(c, 1)
    ) / len(counts)


def _count(scene: Scene, rng: random.Random, templates: tuple[str, ...]) -> Question | None:
    """Counts of the plan's value, uniform by construction; totals, made uniform by dropping."""
    if rng.random() < 0.75:
        value, number = scene.plan.value, scene.plan.count
        evidence = tuple(o for o in scene.objects if value in (o.color, o.shape))
        words = PLURAL.get(value, f"{value} objects")
    else:
        number, words, evidence = len(scene.objects), "objects", scene.objects
        if number <= MAX_OBJECTS and rng.random() > _share_of_total(1) / _share_of_total(number):
            return None
    return Question("count", rng.choice(templates).format(x=words), str(number), evidence, measure="number")


TYPES: dict[str, Callable[[Scene, random.Random, tuple[str, ...]], Question | None]] = {
    "relation": _relation,
    "count": _count,
    "exist": _exist,
    "place": _attribute("place"),
    "color": _attribute("color"),
    "shape": _attribute("shape"),
    "size": _attribute("size"),
}
ANSWERS: dict[str, int] = {
    "color": len(COLORS), "shape": len(SHAPES), "size": len(SIZES), "place": 9,
    "exist": 2, "relation": 2, "count": MAX_COUNT + 1,
}  # fmt: skip
"""How many answers each type has: chance is one over it."""


def questions(
    scene: Scene,
    rng: random.Random,
    number: int = 8,
    templates: dict[str, tuple[str, ...]] = TEMPLATES,
    types: tuple[str, ...] = tuple(TYPES),
) -> list[Question]:
    """Up to `number` different questions about a scene, types as even as the scene allows.

    Every type is tried equally often whatever the scene holds, and counts once: asking again after a "no
    such question" would favor the answers of sparse pictures.
    """
    rounds = [
        [TYPES[name](scene, rng, templates[name]) for name in types if turn == 0 or name != "count"]
        for turn in range(3)
    ]
    asked = {question.text: question for turn in rounds for question in turn if question}
    chosen = list(asked.values())[:number]
    rng.shuffle(chosen)
    return chosen
