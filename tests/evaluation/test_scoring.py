"""How replies are scored beside right or wrong: errors, characters, letters, and POPE's four numbers."""

import pytest

from minillava.evaluation.scoring import edits, score
from minillava.evaluation.toybox import scores


def test_a_number_is_right_or_off_by_so_many():
    assert score("number", "3", "3") == {"": 1, "mean absolute error": 0}
    assert score("number", "Two.", "3") == {"": 0, "mean absolute error": 1}
    assert score("number", "many", "3") == {"": 0, "mean absolute error": 3}
    assert score("number", "3.5", "3") == {"": 0, "mean absolute error": 0.5}
    for digits in (400, 5000):
        assert score("number", "9" * digits, "3") == {"": 0, "mean absolute error": 997}


def test_a_box_beyond_the_edge_is_not_the_one_inside():
    assert score("box", "[0.10, 0.20, 0.30, 0.40]", "[0.10, 0.20, 0.30, 0.40]") == {"": 1}
    assert score("box", "[-0.9, 0.20, 0.30, 0.40]", "[0.90, 0.20, 0.30, 0.40]") == {"": 0}


def test_a_sign_is_right_or_read_in_part():
    assert score("written", "T7H", "T7H") == {"": 1, "characters": 1}
    assert score("written", "T7", "T7H")["characters"] == pytest.approx(2 / 3)
    assert score("written", "a long story", "T7H") == {"": 0, "characters": 0}
    assert score("written", "THE", "THE")[""] == 1 and score("written", "t7h", "T7H")[""] == 0


@pytest.mark.parametrize(
    ("text", "other", "distance"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "axc", 1), ("abc", "bc", 1), ("kitten", "sitting", 3)],
)
def test_edits_are_counted_as_levenshtein_did(text, other, distance):
    assert edits(text, other) == edits(other, text) == distance


def row(measure, answer, kind="pope_random"):
    return {"measure": measure, "answer": answer, "domain": "scenes", "kind": "pope", "type": kind}


def test_pope_has_precision_recall_and_f1():
    said = ["yes", "yes", "yes", "no", "no"]
    true = ["yes", "yes", "no", "yes", "no"]
    table = scores([row("pope", answer) for answer in true], said)
    mean = {title: sum(values) / len(values) for title, values in table.items()}
    assert mean["pope_random"] == pytest.approx(3 / 5)
    assert mean["pope_random: says yes"] == pytest.approx(3 / 5)
    for title in ("precision", "recall", "F1"):
        assert mean[f"pope_random: {title}"] == pytest.approx(2 / 3)
    assert mean["scenes, pope"] == pytest.approx(3 / 5)


def test_pope_without_a_yes_has_no_empty_rows():
    never = scores([row("pope", answer) for answer in ("yes", "no")], ["no", "no"])
    assert never["pope_random: F1"] == [0] and "pope_random: precision" not in never
    assert all(scores([row("pope", "no")], ["yes"]).values())


def test_letters_are_also_counted_by_the_right_one():
    table = scores([row("letter", letter, "choice") for letter in "AABB"], ["A", "B", "B", "B"])
    assert table["choice: right is A"] == [1, 0] and table["choice: right is B"] == [1, 1]
