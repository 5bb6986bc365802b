"""Lessons: every answer, explanation and arrow agrees with the picture's symbols."""

import random
from collections import Counter

import pytest

from minillava.toybox import apparatus, domain
from minillava.toybox.lessons import LESSONS, OPTIONS, TOPICS
from minillava.toybox.measures import MOST, Beakers, Thermometers, withheld
from minillava.toybox.topics import LEVELS, WORDINGS, Chains, Magnets


def sampled(topic, number=200):
    return [topic.sample(random.Random(f"lesson/{i}")) for i in range(number)]


def facts(topic):
    """(what is shown, a fact about it) for many of a topic."""
    return [(made, fact) for made in sampled(topic) for group in made.facts() for fact in group]


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.__name__)
def test_answers_are_candidates_and_rest_on_things(topic):
    for made, fact in facts(topic):
        assert fact.answer in fact.candidates and len(set(fact.candidates)) == len(fact.candidates)
        assert max(fact.things) < len(made.names())
        assert fact.lecture.endswith(".") and fact.solution.endswith(".")
        for held_out in (False, True):
            assert fact.about in fact.text(random.Random(0), held_out)


def test_each_topic_is_shown_as_often():
    shown = Counter(type(domain.specimen(LESSONS, "train", i).topic) for i in range(2000))
    assert set(shown) == set(TOPICS) and min(shown.values()) > 400


def test_opposite_poles_attract_and_near_magnets_are_stronger():
    for made, fact in facts(Magnets):
        if fact.wording == "effect":
            pair = made.pairs[("top", "bottom").index(fact.about)]
            assert (fact.answer == "attract") == (pair.left != pair.right)
            assert f"{pair.left} faces {pair.right}" in fact.solution
        else:
            top, bottom = made.pairs
            assert (fact.answer == "top") == (top.gap < bottom.gap)


def test_magnets_are_drawn_with_the_poles_that_face_each_other():
    """North is red: the inner ends of a pair show the poles that its symbols name."""
    red = {"north": True, "south": False}
    for made in sampled(Magnets, 30):
        magnets = [layer for layer in made.layers() if layer.thing is not None]
        for row, pair in enumerate(made.pairs):
            left, right = magnets[2 * row : 2 * row + 2]
            assert right.left - left.box[2] == pair.gap
            inner = left.image.getpixel((left.image.width - 4, 13)), right.image.getpixel((3, 13))
            assert [pixel[0] > pixel[2] for pixel in inner] == [red[pair.left], red[pair.right]]


def test_particles_are_counted_and_compared():
    for made, fact in facts(Beakers):
        left, right = made.counts
        if fact.wording == "particles":
            count = made.counts[("left", "right").index(fact.about)]
            assert fact.answer == str(count) == str(len(fact.things) - 1)
        else:
            assert fact.answer == ("neither" if left == right else "left" if left > right else "right")


def test_particles_lie_in_the_water_of_their_beaker():
    for made in sampled(Beakers, 50):
        layers = [layer for layer in made.layers() if layer.thing is not None]
        beakers, particles = layers[:2], layers[2:]
        assert len(particles) == sum(made.counts)
        for number, layer in enumerate(particles):
            x1, y1, x2, y2 = beakers[number >= made.counts[0]].box
            a1, b1, a2, b2 = layer.box
            assert x1 + 5 <= a1 and a2 <= x2 - 5 and y1 + 13 <= b1 and b2 <= y2 - 2
            for other in particles[:number]:
                c1, d1, c2, d2 = other.box
                assert a2 <= c1 or c2 <= a1 or b2 <= d1 or d2 <= b1


def test_thermometers_are_read_and_heat_flows_to_the_cold():
    for made, fact in facts(Thermometers):
        left, right = made.degrees
        assert left != right
        match fact.wording:
            case "degrees":
                assert int(fact.answer) == made.degrees[("left", "right").index(fact.about)]
            case "warmer":
                assert fact.answer == ("left" if left > right else "right")
            case "heat":
                assert fact.answer == ("right" if left > right else "left")


def test_the_liquid_stands_at_its_mark():
    for mark in range(apparatus.MARKS):
        image = apparatus.thermometer(mark, "red").image
        filled = [y for y in range(8, 70) if image.getpixel((10, y))[1] < 100]
        assert min(filled) == apparatus.mark_height(mark)


def test_arrows_point_from_food_to_the_animal_that_eats_it():
    for made, fact in facts(Chains):
        layers = {layer.thing: layer for layer in made.layers() if layer.thing is not None}
        food, arrow, animal = (layers[number] for number in fact.things)
        names = made.names()
        eaten, eater = names[fact.things[0]], names[fact.things[2]]
        assert (fact.about, fact.answer) in {(eaten, eater), (eater, eaten)}
        assert (fact.wording == "eater") == (fact.answer == eater)
        to_right = food.left < animal.left
        between = (food, animal) if to_right else (animal, food)
        assert between[0].box[2] <= arrow.left and arrow.box[2] <= between[1].left
        assert arrow.image.tobytes() == apparatus.arrow(to_right).image.tobytes()
        level = next(i for i, names in enumerate(LEVELS) if eaten in names)
        assert eater in LEVELS[level + 1]


def test_every_type_is_asked_about_every_fact():
    seen = set()
    for index in range(600):
        for question in domain.questions(LESSONS, "train", index):
            kinds = [k for k, (trained, _) in WORDINGS.items() if _fits(question.text, trained)]
            seen |= {(question.type, kind) for kind in kinds}
            assert len(question.options) <= OPTIONS
    assert seen == {(kind, wording) for kind in LESSONS.types for wording in WORDINGS}


def _fits(text, wordings):
    return any(text.startswith(w.split("{x}")[0]) and text.endswith(w.split("{x}")[-1]) for w in wordings)


def test_no_question_tells_the_answer_of_another_about_the_same_fact():
    for index in range(300):
        made = domain.specimen(LESSONS, "train", index)
        asked = domain.questions(LESSONS, "train", index)
        groups = [{fact.solution for fact in group} for group in made.topic.facts()]
        assert len(asked) == len({q.text for q in asked}) <= len(groups)


def test_an_explanation_holds_the_solution_before_the_letter():
    for index in range(200):
        made = domain.specimen(LESSONS, "train", index)
        solutions = {fact.solution for group in made.topic.facts() for fact in group}
        (explained,) = (q for q in domain.questions(LESSONS, "train", index) if q.type == "lesson")
        assert any(f"{solution} The answer is " in explained.gpt() for solution in solutions)
        assert "Options: (A)" in explained.human()


def _colored(lesson):
    """(color, number) pairs that a lesson shows."""
    match lesson.topic:
        case Beakers(color=color, counts=counts):
            return {(color, count) for count in counts}
        case Thermometers(colors=colors, marks=marks):
            return set(zip(colors, marks, strict=True))
    return set()


def test_withheld_pairs_are_in_the_compositional_split_alone():
    for index in range(300):
        assert not any(withheld(*pair) for pair in _colored(domain.specimen(LESSONS, "train", index)))
        assert any(withheld(*pair) for pair in _colored(domain.specimen(LESSONS, "compositional", index)))


def test_the_more_split_has_a_beaker_with_one_particle_more():
    for index in range(50):
        assert max(domain.specimen(LESSONS, "more", index).topic.counts) == MOST + 1
        for question in domain.questions(LESSONS, "more", index):
            assert question.answer in (question.options or (question.answer,))
    trained = [domain.specimen(LESSONS, "train", i).topic for i in range(400)]
    assert max(max(t.counts) for t in trained if isinstance(t, Beakers)) == MOST
