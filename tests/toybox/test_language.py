"""Words: answers are right, references fit one object, and no answer can be guessed from the question."""

import random
from collections import Counter, defaultdict

import pytest

from minillava.toybox import language, records
from minillava.toybox.claims import reshape, sample_claim, sample_twin
from minillava.toybox.language import ANSWERS, PARAPHRASES, TEMPLATES, TYPES


def asked(split: str, number: int):
    for index in range(number):
        scene = records.scene(split, index)
        for question in records.questions(split, index):
            yield scene, question


@pytest.fixture(scope="module")
def sample():
    """2,500 scenes, some 20,000 questions."""
    return list(asked("train", 2500))


def test_answers_are_balanced_within_each_question_text(sample):
    """The commonest answer's share stays within 2 points of 1/K, and what chance adds at that number."""
    groups = defaultdict(Counter)
    for _, question in sample:
        groups[question.text][question.answer] += 1
    for text, counts in groups.items():
        total = counts.total()
        if total >= 150:
            share = max(counts.values()) / total
            chance = 3 * (share * (1 - share) / total) ** 0.5
            assert share <= 1 / len(counts) + 0.02 + chance, (text, counts)


def test_answers_are_balanced_within_each_type(sample):
    by_type = defaultdict(Counter)
    for _, question in sample:
        by_type[question.type][question.answer] += 1
    for kind, counts in by_type.items():
        assert len(counts) == (6 if kind == "count" else ANSWERS[kind])  # totals go to five
        if kind != "count":
            share = max(counts.values()) / counts.total()
            chance = 3 * (share * (1 - share) / counts.total()) ** 0.5
            assert share <= 1 / len(counts) + 0.01 + chance, counts


def test_every_type_is_asked_about_as_often(sample):
    counts = Counter(question.type for _, question in sample)
    assert set(counts) == set(TYPES)
    assert counts.pop("count") > 0.06 * counts.total()  # only one question of a picture is how many
    assert min(counts.values()) > 0.09 * counts.total()


def test_answers_are_true(sample):
    for scene, question in sample[:4000]:
        match question.type:
            case "color" | "shape" | "size" | "place":
                (thing,) = question.objects
                assert question.answer == getattr(thing, question.type)
            case "exist":
                assert (question.answer == "yes") == bool(question.objects)
            case "count":
                assert int(question.answer) == len(question.objects)
            case "relation":
                one, other = question.objects
                relation = next(r for r in language.RELATIONS if f" {r} " in question.text)
                true = language.RELATIONS[relation](one, other)
                assert (question.answer == "yes") == true
        for thing in question.objects:
            assert thing in scene.objects


def test_a_reference_fits_one_object_and_hides_the_answer(sample):
    attributes = ("size", "color", "shape")
    for scene, question in sample[:4000]:
        for reference, thing in zip(question.references, question.objects, strict=False):
            assert reference in question.text
            words = reference.split()
            if " at the " in reference:
                fits = [o for o in scene.objects if reference.endswith(f" at the {o.place}")]
            else:
                fits = [
                    o
                    for o in scene.objects
                    if all(w == "object" or w in [getattr(o, a) for a in attributes] for w in words)
                ]
            assert fits == [thing], (reference, fits)
            if question.type in attributes:
                assert question.answer not in words


def test_half_of_the_noes_are_adversarial(sample):
    noes = [(scene, q.text) for scene, q in sample if q.type == "exist" and q.answer == "no"]
    both = 0
    for scene, text in noes:
        colors = any(f" {o.color} " in text for o in scene.objects)
        shapes = any(f" {o.shape} " in f"{text} ".replace("?", " ") for o in scene.objects)
        both += colors and shapes
    assert both > 0.15 * len(noes)


def test_the_dense_caption_names_everything_in_reading_order():
    scene = records.scene("train", 5)
    caption = language.caption(scene)
    places = [caption.lower().index(language.phrase(o).lower()) for o in scene.objects]
    assert places == sorted(places)
    assert caption.endswith(".") and caption[0].isupper()
    assert len(language.captions(scene)) == 5


def test_a_telling_says_the_same_in_any_order():
    scene = records.scene("train", 5)
    told = {language.telling(scene, random.Random(i)) for i in range(9)}
    assert len(told) > 3
    for text in told:
        assert all(f"{o.size} {o.color} {o.shape}" in text for o in scene.objects)


def test_held_out_wordings_are_in_no_training_question(sample):
    assert set(TEMPLATES) == set(PARAPHRASES) == set(TYPES)
    assert not {t for ts in TEMPLATES.values() for t in ts} & {t for ts in PARAPHRASES.values() for t in ts}
    trained = {q.text for _, q in sample}
    assert not trained & {q.text for _, q in asked("paraphrase", 100)}


def test_a_claim_is_true_and_its_twin_is_false():
    rng = random.Random(0)
    twins = 0
    for index in range(200):
        scene = records.scene("train", index)
        claim = sample_claim(scene, rng)
        assert claim.holds(scene)
        twin = sample_twin(claim, scene, rng)
        if twin:
            twins += 1
            assert not twin.holds(scene)
            assert sum(a != b for a, b in zip(vars(claim).values(), vars(twin).values(), strict=True)) == 1
    assert twins > 150


def test_a_hard_negative_differs_in_one_shape():
    rng = random.Random(0)
    for index in range(50):
        scene = records.scene("train", index)
        other = reshape(scene, rng)
        differing = [(a, b) for a, b in zip(scene.objects, other.objects, strict=True) if a != b]
        assert len(differing) == 1
        ((a, b),) = differing
        assert a.shape != b.shape and (a.color, a.size, a.place) == (b.color, b.size, b.place)
