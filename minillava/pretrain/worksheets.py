"""Worksheets: pictures of every domain in words, and all that they are asked, without a chat's trappings.

A chat about a sign spends sixty tokens on roles and format prompts and learns from six; a worksheet has the
telling, then question after question, each followed by its reply. Multiple choice is climbed in two steps:
half of its questions say the answer in words before they show the options, so that finding the letter beside
given words is learned first, and then to find it beside words that nobody has said.
"""

import random

from minillava.toybox import domain, mix
from minillava.toybox.creatures import CREATURES
from minillava.toybox.domain import CHOICE, SHORT_ANSWER, Question
from minillava.toybox.lessons import LESSONS
from minillava.toybox.mix import Share, Table
from minillava.toybox.scenes import SCENES
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH

SHEETS: Table = (
    Share(SCENES, "choice", 5),
    Share(SCENES, "reasoning", 3),
    Share(SIGNS, "questions", 8),
    Share(LESSONS, "questions", 5),
    Share(CREATURES, "questions", 1),
    Share(SKETCH, "questions", 2),
)
"""What worksheets are about. Short questions about scenes have their own, the notes."""

ROUNDS = 3
"""How often a picture's questions are drawn anew; those drawn twice are asked once."""

LONGEST = 12
"""The most questions of a worksheet."""


def worksheet(index: int, seed: int, split: str = "train") -> tuple[str, str, list[tuple[str, str]]]:
    """What picture `index` is about, what is told of it, and up to LONGEST (question, reply) pairs."""
    row = mix.share(SHEETS, "sheets", index, seed)
    one, rng = row.domain, random.Random(f"worksheet/{seed}/{index}")
    made = domain.specimen(one, split, index, seed)
    ask = {"questions": one.questions, **one.conversations}[row.kind]
    asked = {question.human(): question for _ in range(ROUNDS) for question in ask(made, rng, False)}
    told = one.telling(made, rng) if one.telling and rng.random() < 0.5 else one.captions(made)[0]
    about = one.name if row.kind == "questions" else f"{one.name}, {row.kind}"
    return about, told, [_pair(question, rng) for question in list(asked.values())[:LONGEST]]


def _pair(question: Question, rng: random.Random) -> tuple[str, str]:
    """The question and what to reply; some with the answer in words before the options.

    Of the format prompts only the one for explanations stays: options and the others speak for themselves.
    """
    shown = question.human(prompt=question.prompt not in (SHORT_ANSWER, CHOICE))
    if question.options and rng.random() < 0.5:
        shown = shown.replace(question.text, f"{question.text} {question.answer}", 1)
    return shown, question.gpt()
