"""Crowds as a domain: scenes of few colors and shapes, with several of most. Pictures to count on.

A scene seldom has three of five things of one color, and three was the number that no model learned from
scenes: with 38,400 conversations 88 % of all counts were right, of the threes among five things one in eight.
Crowds are only trained on; how well a model counts, it is asked about scenes.
"""

import random
from dataclasses import replace

from minillava.toybox.counting import counting
from minillava.toybox.domain import Question
from minillava.toybox.scene import COLORS, MAX_COUNT, MAX_OBJECTS, Plan, Scene, sample_scene, trained_kinds
from minillava.toybox.scenes import SCENES
from minillava.toybox.shapes import SHAPES

FEWEST = 5
"""Questions about one crowd, at least."""


def _sample(rng: random.Random) -> Scene:
    """Three to five objects in two colors and three shapes, and up to four of one of these."""
    colors, shapes = rng.sample(tuple(COLORS), 2), rng.sample(tuple(SHAPES), 3)
    kinds = tuple(kind for kind in trained_kinds() if kind[0] in colors and kind[1] in shapes)
    dividing = [value for value in (*colors, *shapes) if len({value in kind for kind in kinds}) == 2]
    count = rng.randint(1, MAX_COUNT)
    plan = Plan(rng.choice(dividing), count, rng.randint(max(count, 3), MAX_OBJECTS))
    return sample_scene(rng, plan, kinds)


def _questions(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """How many there are of this and of that, in rounds of `counting` until there are FEWEST questions."""
    asked: dict[str, Question] = {}
    while len(asked) < FEWEST:
        asked |= {question.text: question for question in counting(scene, rng, held_out)}
    return list(asked.values())


CROWDS = replace(
    SCENES,
    name="crowds",
    samplers={"train": _sample},
    questions=_questions,
    types=("count",),
    conversations={},
)
