"""Drills: the habits that reading signs, multiple choice and counting rest on, each by itself.

A sign is read by going on from each character to the one that followed it, and an option's letter is found
by going from its words back to what stands before them. Worksheets show each a few times among much else,
and in 250 steps of them neither was learned; in 240 steps of drills much like these both were: the loss on
characters fell from 3.1 nats after 15 steps, guessing among twenty, to 0.1, that on letters from 1.7 to 0.1.

Counting is learned from told crowds (see `toybox/crowds.py`): from told scenes alone 90 % of all counts were
learned, but of the threes among four or five things one in ten.
"""

import random

from minillava.pretrain.notes import SHORTHAND
from minillava.toybox import domain, language
from minillava.toybox.counting import counts
from minillava.toybox.crowds import CROWDS
from minillava.toybox.domain import LETTERS
from minillava.toybox.scene import COLORS, PLACES, Scene
from minillava.toybox.shapes import SHAPES
from minillava.toybox.signs import CHARACTERS

WORDS = (tuple(COLORS), tuple(PLACES), tuple(SHAPES), tuple("0123456789"))
"""What options are drawn from."""


def spelling(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A row of different characters, and again."""
    row = "".join(rng.sample(CHARACTERS, rng.randint(5, 14)))
    return f"{row}.", [("", row)]


def lettering(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A list of options, as A-OKVQA's or ScienceQA's; given the words of each, its letter."""
    words = rng.choice(WORDS)
    options = dict(zip(LETTERS, rng.sample(words, rng.randint(2, len(LETTERS))), strict=False))
    if rng.random() < 0.5:
        told = "\n".join(f"{letter}. {option}" for letter, option in options.items())
    else:
        told = "Options: " + " ".join(f"({letter}) {option}" for letter, option in options.items())
    asked = rng.sample(sorted(options), len(options))
    return told, [(options[letter], letter) for letter in asked]


def tallies(scene: Scene, rng: random.Random, most: int = 12) -> list[tuple[str, str]]:
    """How many there are of most values in the scene, in full and in shorthand; no question twice."""
    asked: dict[str, str] = {}
    for _ in range(3):
        wordings = (language.TEMPLATES, SHORTHAND)
        asked |= {question.text: question.answer for question in counts(scene, rng, wordings)}
    pairs = list(asked.items())[:most]
    rng.shuffle(pairs)
    return pairs


def tallying(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A told crowd, and its tallies."""
    scene = domain.specimen(CROWDS, "train", rng.getrandbits(32))
    pairs = tallies(scene, rng)
    return language.telling(scene, rng) if rng.random() < 0.7 else language.caption(scene), pairs
