"""judge.py: who is judged on what, whichever answer comes first, and what cannot be read is counted."""

import pytest

from minillava.evaluation.judge import (
    CATEGORIES,
    RULE,
    Judgment,
    describe,
    judge_prompt,
    relative_scores,
    review,
)


def items(answer="a ball"):
    return [
        Judgment(i, category, "A red ball.", f"What is it? ({category})", "a red ball", answer)
        for i, category in enumerate(CATEGORIES)
    ]


def test_a_prompt_has_the_scene_the_question_and_both_answers():
    things = [{"category": "ball", "bbox": (0.1, 0.25, 0.5, 1.0)}, {"category": "box", "bbox": [0, 0, 1, 1]}]
    context = describe(["A red ball.", "A box."], things)
    assert context == "A red ball.\nA box.\n\nball: [0.1, 0.25, 0.5, 1.0]\nbox: [0, 0, 1, 1]"
    assert describe("A red ball.") == "A red ball." and describe(["A", "B"], []) == "A\nB\n\n"
    assert judge_prompt(context, "What?", "one", "two", "Grade.") == (
        f"[Context]\n{context}\n\n[Question]\nWhat?\n\n[Assistant 1]\none\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\ntwo\n\n[End of Assistant 2]\n\n[System]\nGrade.\n\n"
    )


def test_the_rule_asks_for_what_the_parser_reads():
    """And it is one text for all three kinds of question, ours."""
    (found, *others) = review(items(), lambda prompt: "8 6\nThe second names no color.", "stub")
    assert found.pair == (8, 6) and found.prompt.endswith(f"[System]\n{RULE}\n\n") and len(others) == 2
    assert "from 1 to 10" in RULE and "first line, with a space between" in RULE


def length_judge(prompt):
    """Prefers the longer answer, wherever it stands."""
    first, second = (prompt.split(f"[Assistant {n}]\n")[1].split("\n\n[End")[0] for n in (1, 2))
    return f"{len(first)} {len(second)}\nlonger is better"


@pytest.mark.parametrize("swap", [False, True])
def test_relative_scores_by_kind_whichever_comes_first(swap):
    reviews = review(items(), length_judge, "length", swap=swap)
    assert ("[Assistant 1]\na ball" in reviews[0].prompt) == swap
    assert {r.pair for r in reviews} == {(len("a red ball"), len("a ball"))}
    assert all((r.judge, r.swapped) == ("length", swap) for r in reviews)
    table = relative_scores(reviews)
    assert {name: score.relative for name, score in table.items()} == dict.fromkeys(
        ("all", *CATEGORIES), 60.0
    )


def test_what_cannot_be_read_is_kept_and_counted():
    answers = iter(["8 6\nfine", "I would say 8 and 6.", "4 2\n"])
    rows = items()[:1] * 3
    reviews = review(rows, lambda prompt: next(answers), "stub")
    assert [r.pair for r in reviews] == [(8, 6), None, (4, 2)] and reviews[1].text == "I would say 8 and 6."
    score = relative_scores(reviews)["conv"]
    assert (score.reviews, score.unparsed, score.relative) == (2, 1, 66.7)
    with pytest.raises(ValueError, match="None of the 3 reviews"):
        relative_scores(review(rows, lambda prompt: "no", "stub"))


def test_judges_are_not_mixed():
    reviews = [*review(items(), length_judge, "a"), *review(items(), length_judge, "b")]
    with pytest.raises(ValueError, match="different judges do not compare: a, b"):
        relative_scores(reviews)
