"""Notes: a told scene and many facts about it in shorthand, the first text that tiny-Vicuna reads.

"At the top is a large red star. ... star color red. number stars 1. red object place top." A chat spends
a dozen tokens on a question and learns from one or two of them; a note spends three or four. And what a
note asks about stands right before what it asks for, so that looking it up is all there is to learn.
"""

import random
from dataclasses import replace

from minillava.toybox import language, records
from minillava.toybox.counting import counts
from minillava.toybox.scene import PLACES, Scene

SHORTHAND: dict[str, tuple[str, ...]] = {
    "color": ("{x} color",),
    "shape": ("{x} shape",),
    "size": ("{x} size",),
    "place": ("{x} place",),
    "exist": ("{x} there",),
    "relation": ("{x} {relation} {y}",),
    "count": ("number {x}",),
}
"""The questions of `toybox.language` in shorthand."""

FACTS = 40
"""The most notes about one scene."""


def comparisons(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Steps toward relations between objects: "top left of right yes", "red star above bottom no".

    To compare two objects, both have to be found, and their places compared, and of these
    either half alone is no better than guessing. Places named outright teach to compare.
    """
    asked = []
    for _ in range(3):
        thing = rng.choice(scene.objects)
        one, other = (replace(thing, place=rng.choice(PLACES)) for _ in range(2))
        name = language.reference(scene, thing, "place", rng, by_place=False)
        for first, said in ((one, one.place), (thing, name)):
            relation = rng.choice(tuple(language.RELATIONS))
            if said and first.place != other.place:
                true = language.RELATIONS[relation](first, other)
                asked.append((f"{said} {relation} {other.place}", "yes" if true else "no"))
    return asked


def notes(index: int, seed: int, most: int) -> tuple[str, list[tuple[str, str]]]:
    """Training scene `index` told in words, and up to FACTS different (question, answer) pairs about it."""
    rng = random.Random(f"notes/{seed}/{index}")
    scene = records.scene("train", index, seed=seed, most=most)
    told = language.telling(scene, rng) if rng.random() < 0.7 else language.caption(scene)
    asked = {}
    for _ in range(2):
        # Half of the counts stand in full: a number has to be carried over more words than a color, and with
        # shorthand alone the chats' counts stayed at guessing.
        # Relations compare two objects and are learned last: they are asked about three times as often.
        asked |= dict(comparisons(scene, rng))
        for question in [
            *language.questions(scene, rng, FACTS, SHORTHAND),
            *language.questions(scene, rng, FACTS, SHORTHAND, types=("relation",) * 2),
            *counts(scene, rng, (SHORTHAND, language.TEMPLATES)),
        ]:
            asked[question.text] = question.answer
    pairs = list(asked.items())[:FACTS]
    rng.shuffle(pairs)
    return told, pairs
