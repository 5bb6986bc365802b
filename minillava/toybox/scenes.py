"""Scenes as a domain: colored shapes on a pale ground. Stands for COCO and all that was made from it.

What a scene is stands in `scene.py`, its pixels in `draw.py`, its words and short answers in `language.py`.
"""

import random

from minillava.toybox import language
from minillava.toybox.choices import choices
from minillava.toybox.descriptions import description
from minillava.toybox.dialogue import dialogue
from minillava.toybox.domain import Domain, Question
from minillava.toybox.draw import draw
from minillava.toybox.pope import pope
from minillava.toybox.reasoning import reasoning
from minillava.toybox.regions import regions
from minillava.toybox.scene import (
    COLORS,
    MAX_OBJECTS,
    WITHHELD,
    Object,
    Plan,
    Scene,
    sample_plan,
    sample_scene,
    trained_kinds,
)
from minillava.toybox.shapes import SHAPES

TURNS = 12
"""Questions about one scene in one conversation; LLaVA-1.5 merges them too (P2 A.2)."""


def _sample_compositional(rng: random.Random) -> Scene:
    """A scene with an object in a color in which no training picture shows its shape."""
    kinds = tuple((color, shape) for color in COLORS for shape in SHAPES)
    while True:
        made = sample_scene(rng, sample_plan(rng), kinds)
        if any((thing.color, thing.shape) in WITHHELD for thing in made.objects):
            return made


def _sample_more(rng: random.Random) -> Scene:
    """A scene of one object more than trained."""
    plan = sample_plan(rng)
    return sample_scene(rng, Plan(plan.value, plan.count, MAX_OBJECTS + 1), trained_kinds())


def _things(scene: Scene) -> tuple[Object, ...]:
    return scene.objects


def _questions(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    wordings = language.PARAPHRASES if held_out else language.TEMPLATES
    return language.questions(scene, rng, TURNS, wordings)


def scenes(most: int = MAX_OBJECTS) -> Domain[Scene]:
    """The domain of scenes of at most `most` objects: curricula start with few."""
    return Domain(
        name="scenes",
        samplers={
            "train": lambda rng: sample_scene(rng, sample_plan(rng, most), trained_kinds()),
            "compositional": _sample_compositional,
            "more": _sample_more,
        },
        key=Scene.key,
        draw=draw,
        captions=language.captions,
        things=_things,
        questions=_questions,
        types=tuple(language.TYPES),
        telling=language.telling,
        conversations={
            "description": description,
            "dialogue": dialogue,
            "reasoning": reasoning,
            "choice": choices,
            "pope": pope,
            "region": regions,
        },
    )


SCENES = scenes()
