"""Facts: of every thing, true, complete within their forms, and in words that the domain has anyway."""

import random
import re
from dataclasses import replace
from itertools import product

import pytest

from minillava.toybox import domain
from minillava.toybox.claims import VALUES, Claim, claims_of
from minillava.toybox.creatures import CREATURES
from minillava.toybox.domain import facts, specimen
from minillava.toybox.lessons import LESSONS
from minillava.toybox.records import scene
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH

every_domain = pytest.mark.parametrize("one", (SIGNS, CREATURES, LESSONS, SKETCH), ids=lambda one: one.name)


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text.lower()))


@every_domain
def test_facts_stand_beside_their_things(one):
    for split in domain.splits(one):
        for index in range(30):
            made = specimen(one, split, index)
            whole, *about = facts(one, made)
            assert len(about) == len(one.things(made)), (split, index)
            assert all(things <= whole for things in about) and len(whole) >= 4


@every_domain
def test_facts_use_the_words_of_captions_and_questions(one):
    said, told = set(), set()
    for index in range(400):
        made = specimen(one, "train", index)
        for caption in one.captions(made):
            said |= words(caption)
        for asked in one.questions(made, random.Random(index), False):
            said |= words(f"{asked.human()} {asked.answer} {asked.gpt()}")
        told |= {word for fact in facts(one, made)[0] for word in words(fact)}
    spelled = {word for word in told if not word.isdigit()}
    assert spelled <= said, spelled - said


def test_facts_change_with_what_they_are_about_and_with_nothing_else():
    sign = next(s for s in (specimen(SIGNS, "train", i) for i in range(99)) if len(s.text) == 5)
    other = "K" if sign.text[1] != "K" else "T"
    letters = list(sign.letters)
    letters[1] = replace(letters[1], character=other)
    changed = replace(sign, letters=tuple(letters))
    before, after = facts(SIGNS, sign), facts(SIGNS, changed)
    differing = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert differing == [0, 1, 3]  # the picture, the board that says it, the second character
    assert {f"character {other}", f"the second character on the sign is {other}"} == after[3] - before[3]
    assert f"the sign says {changed.text}" in after[1] - before[1]


def test_what_is_asked_is_said():
    """The true answer put into a statement is a fact, and any other answer's statement is none."""
    statements = {
        SIGNS: {"sign": "the sign says {}", "sign_count": "a sign of {} characters"},
        CREATURES: {
            "kind": "a {}",
            "breed": "a {}",
            "toy": "a {}",
            "coat": "it has {}",
            "facing": "it looks {}",
        },
        SKETCH: {"sketch_count": "a sketch of {} shapes"},
    }
    for one, forms in statements.items():
        drawn = [specimen(one, "train", i) for i in range(60)]
        answers = [
            {asked.type: asked.answer for asked in one.questions(made, random.Random(0), False)}
            for made in drawn
        ]
        for made, true in zip(drawn, answers, strict=True):
            for kind, form in forms.items():
                for answer in {row[kind] for row in answers} - {"1"}:
                    assert (form.format(answer) in facts(one, made)[0]) == (answer == true[kind])


def test_facts_of_lessons_agree_with_the_answers():
    forms = {
        "effect": "the magnets at the {x} {a}",
        "force": "at the {a} the magnets are near",
        "degrees": "the {x} thermometer shows {a} degrees",
        "warmer": "the {a} side is warmer",
        "heat": "heat does flow to the {a} side",
        "eater": "the {a} eats the {x}",
        "food": "the {x} eats the {a}",
    }
    seen = set()
    for index in range(80):
        made = specimen(LESSONS, "train", index)
        whole = facts(LESSONS, made)[0]
        for fact in (fact for group in made.topic.facts() for fact in group):
            seen.add(fact.wording)
            for answer in fact.candidates:
                if fact.wording == "particles":
                    plural = "particle" if answer == "1" else "particles"
                    told = f"the {fact.about} beaker has {answer} {plural}"
                elif fact.wording == "concentration":
                    which = answer if answer == "neither" else f"the {answer}"
                    told = f"{which} beaker has the higher concentration"
                else:
                    told = forms[fact.wording].format(x=fact.about, a=answer)
                assert (told in whole) == (answer == fact.answer), told
    assert seen == {*forms, "particles", "concentration"}


def test_a_domain_without_facts_has_the_names_of_its_things():
    plain = replace(SKETCH, facts=None)
    made = specimen(SKETCH, "train", 3)
    names = [thing.name for thing in SKETCH.things(made)]
    assert facts(plain, made) == [frozenset(names), *(frozenset([name]) for name in names)]


def test_claims_of_an_object_are_exactly_those_that_hold_of_it():
    thing = scene("train", 4).objects[0]
    alone = replace(scene("train", 4), objects=(thing,))
    every = [Claim(*chosen) for chosen in product(*((None, *values) for values in VALUES.values()))]
    true = {claim.text() for claim in every if any(vars(claim).values()) and claim.holds(alone)}
    assert set(claims_of(thing)) == true
