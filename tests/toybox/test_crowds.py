"""crowds.py: scenes with several of most, to count on; and what their counts ask."""

from collections import Counter

import pytest

from minillava.toybox import domain, records
from minillava.toybox.crowds import CROWDS
from minillava.toybox.language import PARAPHRASES, PLURAL, TEMPLATES
from minillava.toybox.scene import COLORS, trained_kinds
from minillava.toybox.shapes import SHAPES

NAMES = {value: PLURAL.get(value, f"{value} objects") for value in (*COLORS, *SHAPES)}


@pytest.fixture(scope="module")
def sample():
    """(crowd, its questions) of 1000."""
    return [
        (domain.specimen(CROWDS, "train", i), domain.questions(CROWDS, "train", i)) for i in range(1000)
    ]


def test_a_crowd_has_few_kinds_and_several_of_most(sample):
    partial = Counter()
    for scene, _ in sample:
        colors, shapes = Counter(o.color for o in scene.objects), Counter(o.shape for o in scene.objects)
        assert len(colors) <= 2 and len(shapes) <= 3 and 3 <= len(scene.objects) <= 5
        assert all((o.color, o.shape) in trained_kinds() for o in scene.objects)
        partial.update(n for n in (colors | shapes).values() if n < len(scene.objects))
    assert partial[2] + partial[3] + partial[4] > partial[1] and partial[3] > 0.15 * partial.total()


def test_counts_are_true_and_no_number_is_the_answer_to_most(sample):
    numbers = Counter()
    for scene, asked in sample:
        there = Counter(value for thing in scene.objects for value in (thing.color, thing.shape))
        assert len({q.text for q in asked}) == len(asked) >= 5
        told = {v: int(q.answer) for q in asked for v, name in NAMES.items() if f" {name}" in q.text}
        assert all(there[value] == number for value, number in told.items())
        for question in asked:
            assert len(question.objects) == int(question.answer) and question.measure == "number"
            numbers[question.answer] += 1
    assert max(numbers.values()) < 0.3 * numbers.total() and len(numbers) == 6
    assert numbers["3"] > 0.15 * numbers.total()


def test_what_is_held_out_is_no_crowd_that_was_trained_on():
    """Crowds are divided by the same hash as scenes, so that no held-out scene is among them."""
    keys = {CROWDS.key(domain.specimen(CROWDS, "train", i)) for i in range(1000)}
    assert keys.isdisjoint({records.scene("test", i).key() for i in range(1000)})
    assert {int(key, 16) % 10 for key in keys} <= {*domain.HASHED["train"]}


def test_held_out_wordings_are_not_those_of_training():
    for split, wordings in (("train", TEMPLATES), ("paraphrase", PARAPHRASES)):
        texts = {q.text for i in range(30) for q in domain.questions(CROWDS, split, i)}
        names = (*NAMES.values(), "objects")
        assert texts <= {wording.format(x=name) for wording in wordings["count"] for name in names}
