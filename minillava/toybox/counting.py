"""Counting: one picture, asked how many of this and how many of that, no number twice of a kind; and told."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from minillava.toybox import language
from minillava.toybox.domain import Question
from minillava.toybox.scene import COLORS, Plan, Scene
from minillava.toybox.shapes import SHAPES


def counts(scene: Scene, rng: random.Random, wordings: Sequence[dict]) -> list[Question]:
    """How many there are of one value, for most of the numbers that the scene gives, from none to all.

    A scene's own question how many is about one value, and a picture has many; asked about each of them,
    "one" would be the answer to most. Each question is in one of the `wordings`. A quarter of them ask for
    all objects instead, or are left out, as `language._count` has it; so there may be none.
    """
    numbers = Counter(value for thing in scene.objects for value in (thing.color, thing.shape))
    values = defaultdict(list)
    for value in (*COLORS, *SHAPES):
        values[numbers[value]].append(value)
    asked = []
    for number, alike in values.items():
        about = replace(scene, plan=Plan(rng.choice(alike), number, len(scene.objects)))
        asked += language.questions(about, rng, templates=rng.choice(wordings), types=("count",))
    rng.shuffle(asked)
    return list({question.text: question for question in asked}.values())


def numbered(scene: Scene, rng: random.Random) -> str:
    """The scene told so that every object says how many are like it, as tiny-CLIP's features do.

    Whoever is asked how many red objects there are need not count, but find one of them.
    """
    numbers = Counter(value for thing in scene.objects for value in (thing.color, thing.shape))
    told = []
    for thing in rng.sample(scene.objects, len(scene.objects)):
        alike = [
            f"one of {numbers[thing.color]} {thing.color} objects",
            f"one of {numbers[thing.shape]} {language.PLURAL[thing.shape]}",
            f"one of {len(scene.objects)} objects",
        ]
        sentence = language.telling(replace(scene, objects=(thing,)), rng)
        told.append(", ".join([sentence.rstrip("."), *rng.sample(alike, rng.choice((2, 3)))]) + ".")
    return " ".join(told)


def counting(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """A conversation of nothing else."""
    return counts(scene, rng, (language.PARAPHRASES if held_out else language.TEMPLATES,))
