"""Counting: one picture, asked how many of this and how many of that, no number twice of a kind."""

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


def counting(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """A conversation of nothing else."""
    return counts(scene, rng, (language.PARAPHRASES if held_out else language.TEMPLATES,))
