"""POPE: is a thing there or not, half of each, in three degrees of temptation (Li et al. 2023).

    random       neither its color nor its shape is in the picture
    popular      one of the two is
    adversarial  both are, but not on one object

The original takes what is common in COCO, or common beside what is there; in Toybox nothing is.
"""

import random

from minillava.toybox.domain import Question
from minillava.toybox.language import article
from minillava.toybox.scene import Scene, trained_kinds

DEGREES = ("random", "popular", "adversarial")

WORDINGS = (("Is there {x} in the image?",), ("Does the image contain {x}?",))
"""The original's wording, and one that no training question uses."""


def pope(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """A yes and a no of each degree that the scene gives; of few objects, of some of the degrees."""
    colors, shapes = ({getattr(o, name) for o in scene.objects} for name in ("color", "shape"))
    there = {(o.color, o.shape) for o in scene.objects}
    present, asked = rng.sample(sorted(there), len(there)), []
    for degree in rng.sample(DEGREES, len(DEGREES)):
        absent = [
            (color, shape)
            for color, shape in trained_kinds()
            if (color, shape) not in there and (color in colors) + (shape in shapes) == DEGREES.index(degree)
        ]
        if absent and present:
            for pair, answer in ((present.pop(), "yes"), (rng.choice(absent), "no")):
                text = rng.choice(WORDINGS[held_out]).format(x=article(" ".join(pair)))
                evidence = tuple(o for o in scene.objects if (o.color, o.shape) == pair)
                asked.append(Question(f"pope_{degree}", text, answer, evidence, measure="pope"))
    rng.shuffle(asked)
    return asked
