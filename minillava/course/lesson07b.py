"""Exercises of lesson 07b: does it point, how good is the best of many, and does it follow the question."""

from typing import Any

import numpy as np

from minillava.course.exercises import Exercise, is_number


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
        spread = np.array([[0.2, 0.2, 0.2], [0, 0, 0], [0.3, 0, 0]])  # all of row 0 has more
        ours = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]], bool)
        hits = answer(flat, corner), answer(heat, corner), answer(spread, ours)
        if all(hits) and not answer(flat, np.eye(3, dtype=bool)):
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
    if not is_number(found) and not (isinstance(found, np.ndarray) and found.ndim == 0):
        return f"it returns a {type(found).__name__}; one number is wanted."
    found = float(found)
    if abs(found - wanted) < 1e-5:
        other = np.array([[0.0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1]])
        again, wanted = float(answer(other)), float(honest(other))
        if abs(again - wanted) < 1e-5:
            return None
        return f"right for one table; for another it returns {again:.3f}, not {wanted:.3f}."
    known = {
        1.0: "each half is scored by its own best head, or each example; both are what is to be avoided.",
        0.5: "that is the best head of all examples, chosen on the very examples that score it.",
    }
    return known.get(found, f"for a table of 4 examples and 3 heads it returns {found}; wanted is {wanted}.")


def follows(about_a, about_b, a, b):
    more_on_a = about_a[a].sum() > about_b[a].sum()
    more_on_b = about_b[b].sum() > about_a[b].sum()
    return bool(more_on_a and more_on_b)


def _follows(answer: Any) -> str | None:
    a, b = (np.array([[first, not first], [False, False]]) for first in (True, False))
    cases = (  # what the first map has on A and on B, what the second has; what to say if it is not seen
        ((0.3, 0.1), (0.1, 0.3), True, "each map lies on what it was asked about, and it says False."),
        ((0.1, 0.3), (0.3, 0.1), False, "each map lies on the other question's thing, and it says True."),
        ((0.5, 0.1), (0.5, 0.1), False, "both maps are the same, so they follow no question; it says True."),
        ((0.5, 0.2), (0.4, 0.1), False, "asked about A, B gets more than asked about B; it says True."),
        ((0.2, 0.1), (0.3, 0.2), False, "asked about A, A gets less than asked about B; it says True."),
        ((0.6, 0.2), (0.2, 0.1), False, "asked about B, B gets less, however much A gains; it says True."),
        (
            (0.2, 0.3), (0.1, 0.4), True,
            "asked about A, A gets less than B does, but more than when B is asked about. Compare two maps "
            "on one thing, not two things in one map.",
        ),
    )  # fmt: skip
    tried = [
        ([np.array([list(on), [1 - sum(on), 0]]) for on in (about_a, about_b)], a, b, wanted, words)
        for about_a, about_b, wanted, words in cases
    ]
    of_two = np.array([[True, True, False], [False] * 3, [False] * 3])
    about_a = np.array([[0.2, 0.2, 0], [0.3, 0.2, 0], [0, 0, 0.1]])
    about_b = np.array([[0.3, 0.0, 0], [0.3, 0.2, 0], [0, 0, 0.2]])
    words = "A has two patches, .2 and .2 when it is asked about and .3 and 0 when B is: their sum counts."
    corner = np.array([[False] * 3, [False] * 3, [False, False, True]])
    tried.append(([about_a, about_b], of_two, corner, True, words))
    for maps, one, other, wanted, words in tried:
        found = answer(*maps, one, other)
        if np.shape(found) or float(found) not in (0, 1):
            return f"it returns {found!r}; True or False is wanted."
        if bool(found) is not wanted:
            return words
    return None


EXERCISES = {
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
    "follows": Exercise(
        statement=(
            "Write `follows(about_a, about_b, a, b)`: maps `[grid, grid]` of two questions about one "
            "picture, each of which sums to 1, and the patches of the things A and B, bools of that shape, "
            "all NumPy arrays → whether each thing gets more of the map when it is asked about than when the "
            "other is."
        ),
        hint="Two comparisons, each of one thing in two maps. about_a[a].sum() is what the first gives A.",
        solution=follows,
        mistake=_follows,
        shows="The score that no map can have by liking things: it has to have read which thing.",
    ),
}
