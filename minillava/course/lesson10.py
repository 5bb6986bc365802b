"""Exercises of lesson 10: bytes, floating-point operations, passes and hours, before a machine is rented."""

from typing import Any

from minillava.course.exercises import Exercise, is_number


def memory(trained, frozen):
    return 16 * trained + 2 * frozen


def _memory(answer: Any) -> str | None:
    for trained, frozen, wanted in ((0, 10, 20), (10, 0, 160), (3, 5, 58)):
        found = answer(trained, frozen)
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number of bytes is wanted."
        if found == wanted:
            continue
        where = f"for {trained} trained and {frozen} frozen parameters it returns {found}"
        if found == 4 * frozen + 16 * trained:
            return f"{where}: a frozen weight is bfloat16, 2 bytes."
        if trained and found == 12 * trained + 2 * frozen:
            return f"{where}: something is missing: weight, gradient, and *two* averages, 4 bytes each."
        if trained and found == 8 * trained + 2 * frozen:
            return f"{where}: AdamW keeps two averages for each weight, which are as large as the weight."
        if found == 16 * (trained + frozen):
            return f"{where}: a frozen weight has no gradient and no averages."
        return f"{where}; wanted is {wanted}."
    return None


def flops(weights, positions, trained):
    return weights * positions * (6 if trained else 4)


def _flops(answer: Any) -> str | None:
    for trained, wanted in ((True, 720), (False, 480)):
        found = answer(12, 10, trained)
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number is wanted."
        if found == wanted:
            continue
        where = f"for 12 weights, 10 positions, trained={trained} it returns {found}"
        if found == 240:
            return f"{where}: that is the forward pass alone; the gradient is passed on, trained or frozen."
        if found == wanted / 2:
            return f"{where}: a product and a sum are two operations."
        if not trained and found == 720:
            return f"{where}: a frozen matrix passes the gradient on, and needs none for its own weights."
        return f"{where}; wanted is {wanted}."
    return None


def passes(batch, devices, micro_batch):
    count, rest = divmod(batch, devices * micro_batch)
    return None if rest or not count else count


def _passes(answer: Any) -> str | None:
    for given, wanted in (((256, 8, 16), 2), ((128, 8, 16), 1), ((128, 1, 4), 32), ((128, 8, 24), None),
                          ((256, 8, 24), None), ((128, 8, 32), None)):  # fmt: skip
        found = answer(*given)
        if wanted is not None and not is_number(found):
            return f"for passes{given} it returns {found!r}; a number of passes is wanted."
        if found == wanted and not isinstance(found, bool):
            continue
        where = f"for passes{given} it returns {found!r}"
        if wanted is None:
            return f"{where}: {given[1]} devices with {given[2]} samples each do not make {given[0]}; None."
        if found == given[0] // given[2]:
            return f"{where}: all devices work at the same time."
        if found == given[0] // given[1]:
            return f"{where}: those are the samples of one device; how many passes are they?"
        return f"{where}; wanted is {wanted}."
    return None


def hours(operations, devices, peak, mfu):
    return operations / (devices * peak * mfu) / 3600


def _hours(answer: Any) -> str | None:
    given = 3.6e19, 8, 3e14, 0.5
    found, wanted = answer(*given), hours(*given)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; a number of hours is wanted."
    known = {
        "those are seconds.": 3600 * wanted,
        "that is as if every device ran at its peak: it reaches the share `mfu` of it.": wanted * 0.5,
        "the peak is multiplied with mfu, so the time is divided by it.": wanted * 0.25,
        "that is the time of a single device.": wanted * 8,
        "those are minutes.": 60 * wanted,
    }
    for sentence, value in known.items():
        if abs(float(found) - value) < 1e-6 * value:
            return sentence
    if abs(float(found) - wanted) < 1e-6 * wanted:
        return None
    where = "for 3.6e19 operations on 8 devices of 3e14 a second, half of them reached,"
    return f"{where} it returns {found}; wanted is {wanted:.4g}."


EXERCISES = {
    "memory": Exercise(
        statement=(
            "Write `memory(trained, frozen)`: how many bytes the weights of a model in training take, with "
            "gradients and optimizer, for so many `trained` and `frozen` parameters."
        ),
        hint="Trained: weight, gradient and AdamW's two averages, float32 each. Frozen: one bfloat16.",
        solution=memory,
        mistake=_memory,
        shows="Eight times as much for a weight that trains: most of what LoRA saves is here.",
    ),
    "flops": Exercise(
        statement=(
            "Write `flops(weights, positions, trained)`: floating-point operations of one matrix with so "
            "many weights over so many positions, forward and backward, where it is trained or frozen. The "
            "gradient is always passed on."
        ),
        hint="One product over the positions is 2 operations a weight. How many products are there?",
        solution=flops,
        mistake=_flops,
        shows="6 and 4 a weight and position: stage 1 costs two thirds of what it would if all trained.",
    ),
    "passes": Exercise(
        statement=(
            "Write `passes(batch, devices, micro_batch)`: how many passes of `micro_batch` samples on each "
            "of `devices` make one step of `batch` samples, or None if none do."
        ),
        hint="devices * micro_batch samples go through at once. divmod gives how often, and what is left.",
        solution=passes,
        mistake=_passes,
        shows="The batch is a part of the recipe; what it runs on is not. `train_stage` refuses the Nones.",
    ),
    "hours": Exercise(
        statement=(
            "Write `hours(operations, devices, peak, mfu)`: the time in hours for so many floating-point "
            "operations on `devices` of `peak` operations a second, of which the share `mfu` is reached."
        ),
        hint="Operations over operations a second are seconds.",
        solution=hours,
        mistake=_hours,
        shows="MFU, model FLOPs utilization, is the one number of the four that has to be measured.",
    ),
}
