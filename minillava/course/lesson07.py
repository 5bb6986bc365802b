"""Exercises of lesson 07: rows by hand, the row that predicts, and what a row gives the picture."""

from typing import Any

import numpy as np
import torch

from minillava.course.exercises import Exercise, is_number, same_tensor


def attend(queries, keys):
    scores = queries @ keys.T / keys.shape[1] ** 0.5
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def _attend(answer: Any) -> str | None:
    queries = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found, wanted = answer(queries.clone(), keys.clone()), attend(queries, keys)
    wrong = same_tensor(found, wanted)
    if wrong is None:
        longer = torch.cat([keys, queries]), torch.cat([queries, keys])
        wrong = same_tensor(answer(*(each.clone() for each in longer)), attend(*longer))
        return wrong and f"right for three words; for six {wrong}"
    scores = queries @ keys.T
    scaled, future = scores / 2**0.5, torch.ones(3, 3).triu(1).bool()
    if isinstance(found, torch.Tensor) and found.isnan().any():
        return (
            "it returns rows of nan: 0 · −∞ is nan, so hide scores by masked_fill; and a row that may not "
            "see even itself has nothing to share out."
        )
    known = {
        "rows that see the future: position 0 may look at nobody but itself": scaled.softmax(-1),
        "rows whose shares do not sum to 1: mask the scores, before softmax shares out": (
            scaled.softmax(-1).tril()
        ),
        "softmax with 0 for what is hidden, and e⁰ is 1: a score that counts for nothing is −∞": (
            scaled.tril().softmax(-1)
        ),
        "shares of scores that were not divided by the root of 2, the numbers in a key": (
            scores.masked_fill(future, -torch.inf).softmax(-1)
        ),
        "shares that sum to 1 down each column; a row belongs to a query": (
            scaled.masked_fill(future, -torch.inf).softmax(0)
        ),
        "a row for each key; a row belongs to a query": (
            scaled.T.masked_fill(future, -torch.inf).softmax(-1)
        ),
        "shares of scores by the width, 2; wanted is its root": (
            (scores / 2).masked_fill(future, -torch.inf).softmax(-1)
        ),
        "the past masked, not the future": scaled.masked_fill(future.T, -torch.inf).softmax(-1),
        "scores; softmax makes shares of them": scaled.masked_fill(future, -torch.inf),
    }
    for words, rows in known.items():
        if isinstance(found, torch.Tensor) and found.shape == rows.shape:
            if torch.allclose(found.float(), rows, atol=1e-4):
                return f"it returns {words}."
    return wrong


def predicting(prompt, answer):
    return list(range(prompt - 1, prompt + answer - 1))


def _predicting(answer: Any) -> str | None:
    found = answer(10, 3)
    if isinstance(found, (torch.Tensor, np.ndarray)):
        found = found.tolist()
    if not isinstance(found, (list, tuple, range)):
        return f"it returns a {type(found).__name__}; a list of rows is wanted."
    if not all(map(is_number, found)):
        return f"it returns {found!r}; a list of rows is wanted, each a number."
    found = [int(row) for row in found]
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
        if wrong is None and [int(row) for row in answer(4, 2)] != [3, 4]:
            return f"right for one prompt; for one of 4 tokens and an answer of 2 it returns {answer(4, 2)}."
        return wrong and f"{where}: {wrong}"
    return f"{where} it returns {found}; the answer's tokens stand at 10, 11 and 12."


def times_even(row, patches):
    return row[patches].sum() / (len(patches) / len(row))


def _times_even(answer: Any) -> str | None:
    row, patches = torch.tensor([0.5, 0.1, 0.2, 0.0, 0.2]), [1, 2]
    found = answer(row, patches)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; one number is wanted."
    found = round(float(found), 4)
    if found == 0.75:
        again = float(answer(torch.tensor([0.1, 0.2, 0.3, 0.4]), [3]))
        if abs(again - 1.6) < 1e-4:
            return None
        return f"right for one row; for another it returns {again:.3f}, not 1.6."
    known = {
        0.3: "that is the image mass; many patches have much by being many. Divide by their even share.",
        0.15: "that is the mean of the patches; beside it belongs what every position would have, 1 of 5.",
        0.2143: "the rest of the row is other words' share. The even share is 2 positions of 5.",
        0.4286: "that is picture to all the rest; wanted is picture to what it would have by lot.",
        1.3333: "turned round: the mass is above, the even share below.",
        3.3333: "turned round, and without the number of patches.",
    }
    return known.get(found, f"for two patches with .3 of a row of five it returns {found}; wanted is .75.")


EXERCISES = {
    "attend": Exercise(
        statement=(
            "Write `attend(queries, keys)`: two tensors `[T, width]` → all rows of attention `[T, T]`, in "
            "which position i shares out 1 among positions 0 to i. Scores are dot products over the root of "
            "`width`."
        ),
        hint="torch.ones(T, T).triu(1).bool() is the future. masked_fill it with -torch.inf before softmax.",
        solution=attend,
        mistake=_attend,
        shows="This and a sum of values is one head. The first row is always 1, 0, 0 …: it has no choice.",
    ),
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
    "mass": Exercise(
        statement=(
            "Write `times_even(row, patches)`: a row's shares of the positions that it sees, and the list of "
            "those that are patches → the picture's share of the row, by the share that it would have if all "
            "positions had the same. 1 is as much as by lot."
        ),
        hint="The even share is how many patches there are, by how many positions.",
        solution=times_even,
        mistake=_times_even,
        shows="Twice as much as by lot says that a row likes pictures, not that it knows which part.",
    ),
}
