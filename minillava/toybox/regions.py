"""Boxes: where exactly the thing is that a sentence describes. Stands for RefCOCO."""

import random
from collections.abc import Sequence

from minillava.toybox import language
from minillava.toybox.domain import Question
from minillava.toybox.scene import SIZE, Scene

REGION = "Provide the bounding box coordinate of the region this sentence describes."
"""LLaVA-1.5's format prompt for boxes (P2 table 7), appended to the sentence after a newline."""

WORDINGS = (("The {x}.", "There is the {x}."), ("I see the {x}.",))
"""Sentences of training, then those that no training question uses."""


def written(box: Sequence[int]) -> str:
    """A box in pixels as text: "[0.10, 0.25, 0.31, 0.46]", shares of the picture's edge."""
    return "[" + ", ".join(f"{value / SIZE:.2f}" for value in box) + "]"


def regions(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """A sentence about each object, by what it looks like."""
    asked = []
    for thing in rng.sample(scene.objects, len(scene.objects)):
        name = language.reference(scene, thing, "place", rng, by_place=False)
        if name:
            text = rng.choice(WORDINGS[held_out]).format(x=name)
            box = written(thing.box)
            asked.append(Question("box", text, box, (thing,), (name,), prompt=REGION, measure="box"))
    return asked
