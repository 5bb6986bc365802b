"""Detailed descriptions: everything that is there, with its looks and its place."""

import random

from minillava.toybox import language
from minillava.toybox.domain import DESCRIBE, Question
from minillava.toybox.scene import Scene

WORDINGS = (
    (DESCRIBE, "Give a detailed description of the picture."),
    ("What does the picture show in detail?",),
)
"""What asks for it in training, and what no training record says."""


def description(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """The dense caption, asked for."""
    text, told = rng.choice(WORDINGS[held_out]), language.caption(scene)
    return [Question("description", text, told, scene.objects, prompt="", measure="objects")]
