"""Conversations of several turns: an object is named once, and from then on it is "it"."""

import random

from minillava.toybox import language
from minillava.toybox.domain import Question
from minillava.toybox.scene import Scene

ATTRIBUTES = ("color", "shape", "size", "place")

NAMED = 3
"""The most objects in one conversation."""

WORDINGS = {
    "color": (("What color is it?", "Which color does it have?"), ("It has which color?",)),
    "shape": (("What shape is it?", "Which shape does it have?"), ("It has which shape?",)),
    "size": (("What size is it?", "Is it large or small?"), ("It is what size?",)),
    "place": (("Where is it?", "In which place is it?"), ("It is in which place?",)),
}
"""Wordings by attribute: those of training, then those that no training question uses."""


def dialogue(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """All that can be asked of one object after another; what a turn or its history tells is not asked."""
    first_wordings = language.PARAPHRASES if held_out else language.TEMPLATES
    asked = []
    for thing in rng.sample(scene.objects, min(len(scene.objects), NAMED)):
        first, *others = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
        name = language.reference(scene, thing, first, rng, by_place=first != "place")
        if name is None:
            continue
        text = rng.choice(first_wordings[first]).format(x=name)
        asked.append(Question("dialogue", text, getattr(thing, first), (thing,), (name,)))
        for attribute in others:
            answer = getattr(thing, attribute)
            if answer not in name.split():
                text = rng.choice(WORDINGS[attribute][held_out])
                asked.append(Question("dialogue", text, answer, (thing,)))
    return asked
