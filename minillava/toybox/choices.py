"""Multiple choice: the short questions about scenes, answered by a letter. Stands for A-OKVQA."""

import random
from dataclasses import replace

from minillava.toybox import language
from minillava.toybox.claims import VALUES
from minillava.toybox.domain import CHOICE, Question
from minillava.toybox.scene import Scene

OPTIONS = 4
"""The most options that a question shows."""


def choices(scene: Scene, rng: random.Random, held_out: bool) -> list[Question]:
    """Questions about color, shape, size and place; options and their order are drawn by lot."""
    wordings = language.PARAPHRASES if held_out else language.TEMPLATES
    asked = []
    for question in language.questions(scene, rng, 6, wordings, tuple(VALUES)):
        wrong = [value for value in VALUES[question.type] if value != question.answer]
        options = [question.answer, *rng.sample(wrong, min(len(wrong), OPTIONS - 1))]
        rng.shuffle(options)
        asked.append(replace(question, type="multiple_choice", prompt=CHOICE, options=tuple(options)))
    return asked
