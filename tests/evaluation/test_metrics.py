import subprocess
import sys

import pytest

from minillava.evaluation.metrics import (
    bootstrap_interval,
    choice_index,
    choice_letter,
    exact_match,
    judge_score,
    judge_table,
    multiset_f1,
    normalise_answer,
    parse_review,
    pope_scores,
    says_yes,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    "raw, normalised",
    [
        ("The Red ball.", "red ball"),
        ("Two dogs, one cat", "2 dogs 1 cat"),
        ("dont know", "don't know"),
        ("black-and-white", "black and white"),  # no space beside the dash: it becomes one
        ("black - white", "black white"),  # a space beside it: the dash is dropped
        ("a -b c-d", "b cd"),  # one of them decides for all
        ("the dog's", "dog 's"),
        ("3.5 5. .5", "3.5 5 .5"),
        ("a" + "." * 40, "a" + "." * 8),  # no more than 32 stops go
    ],
)
def test_normalise_answer(raw, normalised):
    assert normalise_answer(raw) == normalised


def test_vqa_accuracy_leaves_each_person_out_in_turn():
    assert vqa_accuracy("Red.", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("red", ["the red"] + ["blue"] * 9) == pytest.approx(0.3)
    assert vqa_accuracy("green", ["red"] * 10) == 0
    with pytest.raises(ValueError, match="ten answers, 1 were given"):
        vqa_accuracy("red", ["red"])


def test_exact_match():
    assert exact_match("Red.", "red") and exact_match(" red\n", "red")
    assert not exact_match("the red", "red")


def test_multiset_f1():
    assert multiset_f1(["cat", "cat"], ["cat", "cat"]) == multiset_f1([], []) == 1
    assert multiset_f1(["cat"], ["cat", "cat"]) == pytest.approx(2 / 3)
    assert multiset_f1(["dog"], ["cat"]) == multiset_f1([], ["cat"]) == 0


def test_pope_reads_the_first_sentence_only():
    assert says_yes("Yes") and says_yes("There is. No cat though.") and says_yes("")
    assert says_yes("NO") and says_yes("No!")  # as the original has it
    assert not says_yes("No, there is not.") and not says_yes("There is not")


def test_pope_scores():
    scores = pope_scores(["yes", "yes", "no", "no", "no"], ["yes", "no", "no", "no", "yes"])
    assert scores.accuracy == 0.6 and scores.precision == scores.recall == scores.f1 == 0.5
    assert scores.yes_ratio == 0.4  # of the answers; of the labels it is the same by chance
    assert pope_scores(["yes", "yes"], ["no", "yes"]).yes_ratio == 1
    assert str(scores) == "0.500, 0.600, 0.500, 0.500, 0.400"


def test_pope_without_a_yes_is_zero_and_not_an_error():
    scores = pope_scores(["no", "no"], ["yes", "no"])
    assert scores.accuracy == 0.5 and scores.precision == scores.recall == scores.f1 == 0


@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        (["yes"], ["yes", "no"], "1 answers, 2 labels"),
        ([], [], "0 answers"),
        (["yes"], ["Yes."], r"'Yes\.'"),
    ],
)
def test_pope_refuses_what_it_cannot_score(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        pope_scores(predictions, labels)


@pytest.mark.parametrize(
    "text, letter",
    [
        ("C", "C"),
        ("C. the red one", "C"),
        ("So it is red. The answer is C.", "C"),
        ("A. The answer is C.", "A"),
        ("The answer is B. The answer is C.", None),
        ("The answer is C", None),
        ("C.", None),
        (" C", None),
        ("c", None),
        ("", None),
    ],
)
def test_choice_letter(text, letter):
    assert choice_letter(text) == letter


def test_choice_index():
    assert choice_index("C", 4) == 2
    assert choice_index("C", 2) == choice_index("The answer is Z.", 5) == choice_index("", 5) == -1


@pytest.mark.parametrize(
    "text, pair",
    [
        ("8 9\nBecause", (8, 9)),
        ("8,9.5", (8, 9.5)),
        ("-1 5", (-1, 5)),
        ("8, 9", None),
        ("8 9 ", None),
        ("8 9 7", None),
        ("eight 9", None),
        ("\n8 9", None),
        ("", None),
        ("nan 5", None),
        ("inf 5", None),
    ],
)
def test_parse_review(text, pair):
    assert parse_review(text) == pair


def test_judge_score_is_a_ratio_of_rounded_means():
    score = judge_score([(9, 3), (9, 3), (9, 4)])
    assert (score.relative, score.reference_x10, score.model_x10) == (37.0, 90.0, 33.3)
    assert judge_score([(1, 1), (1, 0), (0, 0)]).relative == 49.9  # 0.333 / 0.667, not 1 / 2


def test_reviews_without_scores_are_left_out_and_counted():
    score = judge_score([(8, 4), None, (8, 4)])
    assert (score.relative, score.reviews, score.unparsed) == (50.0, 2, 1)
    for nothing in ([], [None]):
        with pytest.raises(ValueError, match="has two scores"):
            judge_score(nothing)
    with pytest.raises(ValueError, match="score 0 on average"):
        judge_score([(0, 5)])


def test_judge_table():
    table = judge_table([("detail", (10, 5)), ("conv", (10, 10)), (None, (10, 6))])
    assert {name: score.relative for name, score in table.items()} == {
        "all": 70.0,
        "conv": 100.0,
        "detail": 50.0,
    }
    assert list(table) == ["all", "conv", "detail"]


def test_bootstrap_interval():
    values = [1.0] * 80 + [0.0] * 20
    low, high = bootstrap_interval(values, seed=1)
    assert (low, high) == bootstrap_interval(values, seed=1)
    assert 0.68 < low < 0.76 and 0.84 < high < 0.92  # 0.8 +- 1.96 * 0.04
    assert bootstrap_interval([1.0] * 5) == (1.0, 1.0)
    narrow = bootstrap_interval(values, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])


def test_metrics_need_no_torch():
    code = "import minillava.evaluation.metrics, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
