"""Exercises of lesson 07: which row, does it point, and how good is the best of many."""

from typing import Any

import numpy as np
import torch

from minillava.course.exercises import Exercise, is_number


def predicting(prompt, answer):
    return list(range(prompt - 1, prompt + answer - 1))


def _predicting(answer: Any) -> str | None:
    found = answer(10, 3)
    if isinstance(found, (torch.Tensor, np.ndarray)):
        found = found.tolist()
    if not isinstance(found, (list, tuple, range)):
        return f"it returns a {type(found).__name__}; a list of rows is wanted."
    found = list(found)
    known = {
        (9, 10, 11): None,
        (10, 11, 12): (
            "those are the answer's own rows: row 10 has read the first token already, and predicts the next."
        ),
        (11, 12, 13): "rows look back: what predicts a token stands one before it, not one behind.",
        (9, 10, 11, 12): "row 12 belongs to the last token; what it predicts, the end, is not in the answer.",
        (9,): "that predicts the first token of the answer; there are three.",
        (10, 11): "the first token is predicted too, by the last row of the prompt.",
    }
    where = "for a prompt of 10 tokens and an answer of 3"
    if tuple(found) in known:
        wrong = known[tuple(found)]
        if wrong is None and list(answer(4, 2)) != [3, 4]:
            return f"right for one prompt; for one of 4 tokens and an answer of 2 it returns {answer(4, 2)}."
        return wrong and f"{where}: {wrong}"
    return f"{where} it returns {found}; the answer's tokens stand at 10, 11 and 12."


def points(heat, inside):
    return bool(inside.flatten()[heat.argmax()])


def _points(answer: Any) -> str | None:
    heat = np.array([[0.1, 0.3, 0.0], [0.0, 0.9, 0.0], [0.2, 0.0, 0.3]])
    inside = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0]], bool)
    elsewhere = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    hit, miss = answer(heat, inside), answer(heat, elsewhere)
    for found in (hit, miss):
        if np.shape(found) or float(found) not in (0, 1):
            return f"it returns {found!r}; True or False is wanted: is the strongest patch inside?"
    if (bool(hit), bool(miss)) == (True, False):
        flat = np.zeros((3, 3))
        flat[0, 2] = 1
        corner = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
        if answer(flat, corner) and answer(heat, corner) and not answer(flat, np.eye(3, dtype=bool)):
            return None
        return "it is right for one map only; take the place of the largest value, wherever that is."
    if (bool(hit), bool(miss)) == (False, True):
        return (
            "it says False where the strongest patch is inside, and True where it is not: turned round, or "
            "going by how much lies inside and not by the peak."
        )
    if hit:
        return (
            "it says True where 0.9 lies outside the box and 0.9 of the rest inside. Only the one strongest "
            "patch counts here, however much lies elsewhere."
        )
    return "it says False where the strongest patch, 0.9, lies inside the box."


def honest(scores):
    one, two = scores[0::2].mean(0), scores[1::2].mean(0)
    return (two[one.argmax()] + one[two.argmax()]) / 2


def _honest(answer: Any) -> str | None:
    # four examples, three heads: head 0 is best on the even ones, head 2 on the odd ones
    scores = np.array([[1.0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    found, wanted = answer(scores), float(honest(scores))
    if not is_number(found) and not isinstance(found, np.floating):
        return f"it returns a {type(found).__name__}; one number is wanted."
    found = float(found)
    if abs(found - wanted) < 1e-9:
        other = np.array([[0.0, 1], [0, 1], [0, 1], [1, 0], [0, 1], [0, 1]])  # head 1 is best on both halves
        again, wanted = float(answer(other)), float(honest(other))
        if abs(again - wanted) < 1e-9:
            return None
        return f"right for one table; for another it returns {again:.3f}, not {wanted:.3f}."
    known = {
        1.0: "each half is scored by its own best head, or each example; both are what is to be avoided.",
        0.5: "that is the best head of all examples, chosen on the very examples that score it.",
    }
    return known.get(found, f"for a table of 4 examples and 3 heads it returns {found}; wanted is {wanted}.")


EXERCISES = {
    "rows": Exercise(
        statement=(
            "Write `predicting(prompt, answer)`: the prompt has `prompt` tokens, the answer `answer` → the "
            "list of rows that *predict* the answer's tokens. Positions count from 0."
        ),
        hint="The answer's first token stands at position `prompt`. Which row had to guess it?",
        solution=predicting,
        mistake=_predicting,
        shows="The first of them is the prompt's last: the answer begins before its first word is there.",
    ),
    "points": Exercise(
        statement=(
            "Write `points(heat, inside)`: a map `[grid, grid]` and the patches of the right thing, bools of "
            "the same shape, both NumPy arrays → whether the map's strongest patch is one of them."
        ),
        hint="heat.argmax() counts through the patches row by row. So does inside.flatten().",
        solution=points,
        mistake=_points,
        shows="That is the pointing game (arXiv 1608.00507): crude, blind to scale, and hard to fool.",
    ),
    "honest": Exercise(
        statement=(
            "Write `honest(scores)`: an array `[examples, heads]`, of an even number of examples → the mean "
            "score of the best head, where examples 0, 2, 4 … are scored by the head that is best on 1, 3, 5 "
            "…, and the other way round."
        ),
        hint="scores[0::2].mean(0) is every head's mean on one half; its argmax is that half's choice.",
        solution=honest,
        mistake=_honest,
        shows="Never above the best head's own mean. What is lost on the way was luck.",
    ),
}
