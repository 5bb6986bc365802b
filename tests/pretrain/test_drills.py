"""drills.py: the habits that reading signs, multiple choice and counting rest on."""

import random
from collections import Counter

from minillava.pretrain.drills import tallies, tallying
from minillava.toybox import domain
from minillava.toybox.crowds import CROWDS
from minillava.toybox.language import PLURAL
from minillava.toybox.scene import COLORS
from minillava.toybox.shapes import SHAPES


def test_tallies_are_right_and_asked_once():
    for index in range(50):
        scene = domain.specimen(CROWDS, "train", index)
        pairs = tallies(scene, random.Random(index))
        assert pairs and len({question for question, _ in pairs}) == len(pairs)
        for question, number in pairs:
            there = [o for o in scene.objects if _named(question) in (None, o.color, o.shape)]
            assert number == str(len(there)), question


def _named(question: str) -> str | None:
    """The color or shape that is counted; None if all objects are."""
    words = question.strip("?").split()
    return next((value for value in (*COLORS, *SHAPES) if {value, PLURAL.get(value)} & {*words}), None)


def test_three_of_more_is_asked_for_often():
    asked = Counter()
    for index in range(200):
        told, pairs = tallying(random.Random(index))
        assert told
        asked.update(number for question, number in pairs if "objects" in question)
    assert asked["3"] > asked.total() / 10
