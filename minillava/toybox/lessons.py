"""Lessons: science questions about magnets, beakers, thermometers and food chains. Stands for ScienceQA.

Multiple choice, short answers, and answers with a lecture and an explanation before the letter.
"""

import random
from dataclasses import dataclass, replace

from PIL import Image

from minillava.toybox import canvas
from minillava.toybox.canvas import Color, Layer
from minillava.toybox.domain import CHOICE, Domain, Question, Thing, digest
from minillava.toybox.measures import Beakers, Thermometers
from minillava.toybox.scene import BACKGROUNDS
from minillava.toybox.topics import Chains, Magnets, Topic

TOPICS = (Magnets, Beakers, Thermometers, Chains)

OPTIONS = 4
"""The most options that a question shows."""

TYPES = ("choice", "lesson", "fact")
"""A letter; a lecture, an explanation and a letter; a word."""


@dataclass(frozen=True)
class Lesson:
    """A topic on a ground."""

    topic: Topic
    background: Color
    texture: int


def _lesson(rng: random.Random, topic: Topic) -> Lesson:
    return Lesson(topic, rng.choice(BACKGROUNDS), rng.getrandbits(32))


def _sample(rng: random.Random) -> Lesson:
    return _lesson(rng, rng.choice(TOPICS).sample(rng))


def _sample_compositional(rng: random.Random) -> Lesson:
    """Numbers of particles, or marks, in colors in which no training picture shows them."""
    return _lesson(rng, rng.choice((Beakers, Thermometers)).sample(rng, novel=True))


def _sample_more(rng: random.Random) -> Lesson:
    """A beaker with one particle more than any in training."""
    return _lesson(rng, Beakers.sample(rng, more=True))


def _key(lesson: Lesson) -> str:
    return digest(lesson.topic.symbols())


def layers(lesson: Lesson) -> list[Layer]:
    """The lesson's cut-outs, back to front, numbered as its things are."""
    return lesson.topic.layers()


def _draw(lesson: Lesson) -> Image.Image:
    return canvas.paint(lesson.background, lesson.texture, layers(lesson))


def _things(lesson: Lesson) -> tuple[Thing, ...]:
    found = canvas.boxes(layers(lesson))
    return tuple(Thing(name, box) for name, box in zip(lesson.topic.names(), found, strict=True))


def _captions(lesson: Lesson) -> list[str]:
    return lesson.topic.captions()


def _facts(lesson: Lesson) -> list[list[str]]:
    return lesson.topic.told()


def _questions(lesson: Lesson, rng: random.Random, held_out: bool) -> list[Question]:
    """One fact of each group, in types by turns: no answer can be read off another question."""
    things, groups = _things(lesson), lesson.topic.facts()
    rng.shuffle(groups)
    types = rng.sample(TYPES, len(TYPES)) + ["choice"]
    asked = []
    for kind, group in zip(types, groups, strict=False):
        fact = rng.choice(group)
        rests_on = tuple(things[number] for number in fact.things)
        question = Question(kind, fact.text(rng, held_out), fact.answer, rests_on)
        if kind != "fact":
            wrong = [candidate for candidate in fact.candidates if candidate != fact.answer]
            options = [fact.answer, *rng.sample(wrong, min(len(wrong), OPTIONS - 1))]
            rng.shuffle(options)
            because = f"{fact.lecture} {fact.solution}" if kind == "lesson" else ""
            prompt = CHOICE if kind == "choice" else ""
            question = replace(question, options=tuple(options), because=because, prompt=prompt)
        asked.append(question)
    return asked


LESSONS = Domain(
    name="lessons",
    samplers={"train": _sample, "compositional": _sample_compositional, "more": _sample_more},
    key=_key,
    draw=_draw,
    captions=_captions,
    things=_things,
    questions=_questions,
    types=TYPES,
    facts=_facts,
)
