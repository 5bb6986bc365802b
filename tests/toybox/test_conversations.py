"""Scenes' further kinds of conversation: true, balanced, and each in its format."""

import random
from collections import Counter, defaultdict

import pytest

from minillava.evaluation.scoring import score
from minillava.toybox import records
from minillava.toybox.language import RELATIONS
from minillava.toybox.pope import DEGREES
from minillava.toybox.regions import REGION
from minillava.toybox.scene import SIZE
from minillava.toybox.scenes import SCENES


@pytest.fixture(scope="module")
def sample():
    """(kind, scene, questions of one conversation), of 700 scenes: over 20,000 questions."""
    made = [records.scene("train", index) for index in range(700)]
    return [
        (kind, scene, ask(scene, random.Random(f"{kind}/{index}/{again}"), False))
        for index, scene in enumerate(made)
        for kind, ask in SCENES.conversations.items()
        for again in range(3)
    ]


def of(sample, kind: str):
    return [(scene, question) for k, scene, asked in sample if k == kind for question in asked]


def test_the_right_answer_scores_fully(sample):
    assert sum(len(asked) for *_, asked in sample) > 20000
    for kind, _, asked in sample[:1500]:
        for question in asked:
            measure = "letter" if question.options else question.measure
            assert score(measure, question.gpt(), question.gpt())[""] == 1, (kind, question)


def test_a_dialogue_asks_only_what_it_has_not_told(sample):
    for kind, _, asked in sample:
        told = ""
        for question in asked if kind == "dialogue" else ():
            if question.references:
                told = question.references[0]
            assert question.references or "it" in question.text.lower().rstrip("?").split()
            assert question.answer not in told.split()
            told += f" {question.answer}"


def test_reasons_are_true_of_the_picture(sample):
    for scene, question in of(sample, "reasoning"):
        answer, reason = question.answer.rstrip(".").lower().split(", because ")
        match question.type:
            case "compare":
                one, other = question.objects
                same = one.size == other.size
                assert (answer == "neither") == same and f"is {one.size} and" in reason
            case "most":
                number = sum(answer in (o.color, o.shape) for o in scene.objects)
                assert reason.startswith(f"{number} objects are {answer}")
            case "remain":
                total, taken = (int(word) for word in reason.split() if word.isdigit())
                assert total == len(scene.objects) and int(answer) == total - taken
            case "two_hops":
                thing, other = question.objects
                relation = next(r for r in RELATIONS if f" {r} the " in reason)
                assert RELATIONS[relation](other, thing)
                assert answer in (other.color, other.shape, other.size)


def test_reasons_are_even(sample):
    by_type = defaultdict(Counter)
    for _, question in of(sample, "reasoning"):
        answer = question.answer.split(", because")[0].lower().removeprefix("the ")
        if question.type == "compare" and answer != "neither":
            answer = "first" if answer in question.text.split(" or ")[0] else "second"
        by_type[question.type][answer] += 1
    neither = by_type["compare"]["neither"] / by_type["compare"].total()
    assert abs(neither - 1 / 3) < 0.06
    remain = by_type["remain"]
    assert len(remain) == 6 and max(remain.values()) / remain.total() < 1 / 6 + 0.06


def test_pope_is_half_yes_and_tempts_by_degree(sample):
    counts = Counter((q.type, q.answer) for _, q in of(sample, "pope"))
    for degree in DEGREES:
        assert counts[f"pope_{degree}", "yes"] == counts[f"pope_{degree}", "no"] > 300
    for scene, question in of(sample, "pope"):
        color, shape = question.text.rstrip("?").replace(" in the image", "").split()[-2:]
        pairs = {(o.color, o.shape) for o in scene.objects}
        assert ((color, shape) in pairs) == (question.answer == "yes")
        if question.answer == "no":
            here = (color in {c for c, _ in pairs}) + (shape in {s for _, s in pairs})
            assert question.type == f"pope_{DEGREES[here]}"


def test_boxes_are_those_of_the_objects(sample):
    for _, question in of(sample, "region"):
        numbers = [float(part) * SIZE for part in question.answer.strip("[]").split(", ")]
        assert all(abs(a - b) <= 0.5 for a, b in zip(numbers, question.objects[0].box, strict=True))
        assert question.human().endswith(f"\n{REGION}")


def test_letters_are_even(sample):
    letters = Counter((len(q.options), q.gpt()) for _, q in of(sample, "choice"))
    for (number, _), count in letters.items():
        total = sum(c for (n, _), c in letters.items() if n == number)
        assert abs(count / total - 1 / number) < 0.03


@pytest.mark.parametrize("kind", SCENES.conversations)
def test_held_out_wordings_are_in_no_training_question(kind):
    made = [records.scene("train", index) for index in range(150)]
    texts = [
        {
            q.text
            for i, scene in enumerate(made)
            for q in SCENES.conversations[kind](scene, random.Random(i), h)
        }
        for h in (False, True)
    ]
    assert texts[1] and not texts[0] & texts[1]
