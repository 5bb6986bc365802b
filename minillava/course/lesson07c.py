"""Exercises of lesson 07c: where a patch lies, what it is when it is gone, and a row without an edge."""

from typing import Any

import numpy as np
import torch

from minillava.course.exercises import Exercise, is_number, same_tensor


def to_picture(row, column, width, height, grid):
    side = max(width, height)
    step = side / grid
    x, y = column * step - (side - width) // 2, row * step - (side - height) // 2
    return x, y, x + step, y + step


def _to_picture(answer: Any) -> str | None:
    for size, at, grid, kind in (
        ((40, 20), (1, 3), 4, "wide"), ((20, 40), (3, 1), 4, "high"), ((45, 20), (2, 1), 6, "wide"),
        ((40, 20), (0, 0), 4, "wide"),
    ):  # fmt: skip
        (width, height), (row, column) = size, at
        margin = abs(width - height)
        found = answer(row, column, width, height, grid)
        if isinstance(found, (torch.Tensor, np.ndarray)):
            found = found.tolist()
        if not isinstance(found, (list, tuple)) or len(found) != 4 or not all(map(is_number, found)):
            return f"it returns {found!r}; four numbers x1, y1, x2, y2 are wanted."
        found, wanted = [float(v) for v in found], [float(v) for v in to_picture(row, column, *size, grid)]
        if found == wanted:
            continue
        where = f"for a {kind} picture of {width} x {height} and patch {at}"
        x, y, step = column * width / grid, row * height / grid, max(size) / grid
        if found == [x, y, x + width / grid, y + height / grid]:
            return f"{where}: that stretches the grid over the picture; the model saw a padded square."
        if found == [column * step, row * step, column * step + step, row * step + step]:
            return f"{where}: those are pixels of the padded square; take the margin off."
        if found == [wanted[1], wanted[0], wanted[3], wanted[2]]:
            return f"{where}: x and y have changed places; a row goes with y."
        if found[2:] == [step, step]:
            return f"{where}: the last two are to be x2 and y2, not width and height."
        if min(found) >= 0 > min(wanted):
            return f"{where} it returns {found}: do not clip; what lies outside, {wanted} here, is padding."
        if margin % 2:
            return (
                f"{where} of {grid} x {grid} it returns {found}; wanted is {wanted}. A patch need not be "
                f"whole pixels wide, but the margin before it all is: half of {margin}, rounded down."
            )
        return f"{where} it returns {found}; wanted is {wanted}."
    return None


def blank(features, gone, mean):
    return torch.where(gone[:, None], mean, features)


def _blank(answer: Any) -> str | None:
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]])
    gone, mean = torch.tensor([False, True, False]), torch.tensor([4.0, 2.5])
    kept = features.clone()
    found, wanted = answer(features, gone, mean), blank(kept, gone, mean)
    if not torch.equal(features, kept):
        return "it overwrites the features that it was given; the next question wants them as they were."
    wrong = same_tensor(found, wanted)
    if wrong is None:
        gone = torch.tensor([True, False, True])
        if same_tensor(answer(features, gone, mean), blank(features, gone, mean)) is None:
            return None
        return "one patch that is gone is replaced, but not each of two."
    known = {
        "zeros, which no patch of a picture is; the mean was given": features * ~gone[:, None],
        "the mean where a patch is kept, and the patch where it is gone": blank(features, ~gone, mean),
        "the mean of these three patches; the one that was given is of many pictures": (
            blank(features, gone, features.mean(0))
        ),
        "fewer patches: what is gone keeps its place, or all behind it move up": features[~gone],
    }
    for words, rows in known.items():
        if same_tensor(found, rows) is None:
            return f"it returns {words}."
    return wrong


def cut(row, columns):
    left = row.clone()
    left[columns] = 0
    return left / left.sum()


def _cut(answer: Any) -> str | None:
    row, columns = torch.tensor([0.1, 0.4, 0.2, 0.3]), [1, 3]
    kept = row.clone()
    found, wanted = answer(row, columns), cut(kept, columns)
    if not torch.equal(row, kept):
        return "it overwrites the row that it was given; the next cut wants it whole."
    wrong = same_tensor(found, wanted)
    if wrong is None:
        other = torch.tensor([0.5, 0.3, 0.2])
        wrong = same_tensor(answer(other.clone(), [0]), cut(other, [0]))
        return wrong and f"right for one row; for another {wrong}"
    left = torch.tensor([0.1, 0, 0.2, 0])
    known = {
        "shares that sum to 0.3: softmax would have shared out all of 1 among those that are left": left,
        "the cut columns alone": torch.tensor([0, 0.4, 0, 0.3]),
        "the cut columns alone, shared out": torch.tensor([0, 0.4, 0, 0.3]) / 0.7,
        "softmax of shares; they have been through it once": row.index_fill(
            0, torch.tensor(columns), -torch.inf
        ).softmax(0),
        "softmax of shares, in which a cut one, as 0, still gets something": left.softmax(0),
        "a shorter row; the cut columns stay, with nothing in them": wanted[wanted > 0],
    }
    for words, shares in known.items():
        if same_tensor(found, shares) is None:
            return f"it returns {words}."
    return wrong


EXERCISES = {
    "pixels": Exercise(
        statement=(
            "A picture is padded to a square, half of the padding (rounded down) before it, and cut into "
            "`grid` × `grid` patches. Write `to_picture(row, column, width, height, grid)`: the pixels `(x1, "
            "y1, x2, y2)` of the *original* picture where a patch lies, beyond its edges too; clip nothing."
        ),
        hint="The square's edge is max(width, height), a patch's is that by grid. Then take the padding off.",
        solution=to_picture,
        mistake=_to_picture,
        shows="In LLaVA-1.5 a 4:3 photograph leaves a quarter of the 576 patches to padding.",
    ),
    "blank": Exercise(
        statement=(
            "Write `blank(features, gone, mean)`: patch features `[patches, width]`, a bool for each patch, "
            "and a feature `[width]` → a new tensor, with `mean` in place of the features that are gone."
        ),
        hint="torch.where(condition, a, b). The condition needs an axis more: gone[:, None].",
        solution=blank,
        mistake=_blank,
        shows="As many rows as before, each in its place: the model is not told that anything is missing.",
    ),
    "cut": Exercise(
        statement=(
            "Write `cut(row, columns)`: a row of attention, shares that sum to 1, and a list of columns → a "
            "new tensor, the row that softmax would have given, had the scores of those columns been −∞."
        ),
        hint="Softmax divides by the sum over all columns. Which part of that sum is left?",
        solution=cut,
        mistake=_cut,
        shows="What the cut edges carried goes to the others, in proportion: something is added, too.",
    ),
}
