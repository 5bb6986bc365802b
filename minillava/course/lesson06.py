"""Exercises of lesson 06: what a batch's loss is a mean of, and how conversations are put side by side."""

from typing import Any

from minillava.course.exercises import Exercise, is_number


def accumulated(passes):
    return sum(sum(losses) / len(losses) for losses in passes) / len(passes)


def _accumulated(answer: Any) -> str | None:
    passes = [[2.0, 1.0], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]]
    found = answer(passes)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; a number is wanted."
    known = {
        0.75: "that is the mean over all tokens: right for one pass. Here each pass has its own mean first.",
        6.0: "that is the sum of all tokens' losses; each pass takes a mean.",
        2.0: "the passes' means are added up; the gradients are divided by the number of passes.",
        3.0: "each pass takes the mean over its tokens, not the sum.",
    }
    for value, sentence in known.items():
        if abs(float(found) - value) < 1e-6:
            return sentence
    if not abs(float(found) - accumulated(passes)) <= 1e-6:
        return f"for passes of losses {passes} it returns {float(found):.4g}; wanted is 1."
    one = answer([[3.0]])
    if not is_number(one) or not abs(float(one) - 3) <= 1e-6:
        return "it is right for two passes, but not for one."
    return None


def positions(rounds, merged):
    if merged:
        return 576 + 40 + 15 * rounds
    return rounds * (576 + 40 + 15)


def _positions(answer: Any) -> str | None:
    for rounds, merged, wanted in ((1, True, 631), (10, True, 766), (10, False, 6310)):
        found = answer(rounds, merged)
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number is wanted."
        if found == wanted:
            continue
        where = f"for {rounds} questions, {'merged' if merged else 'each on its own'}, it returns {found}"
        if merged and found == 576 + 55 * rounds:
            return f"{where}: a conversation has its system prompt once, however long it is."
        if merged and found == 6310:
            return f"{where}: merged, the picture is read once for all of them."
        if not merged and found == 766:
            return f"{where}: on its own, each question needs the picture and the system prompt again."
        if not merged and found == 576 * 10 + 40 + 150:
            return f"{where}: each conversation begins with its own system prompt."
        return f"{where}; wanted is {wanted}."
    return None


def length(record):
    words = sum(len(turn["value"].split()) for turn in record["conversations"])
    return words if "image" in record else -words


def _length(answer: Any) -> str | None:
    turns = [
        {"from": "human", "value": "<image>\nWhat color is it?"},
        {"from": "gpt", "value": "dark red"},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "yes"},
    ]
    seen = answer({"id": "a", "image": "a.png", "conversations": turns})
    read = answer({"id": "b", "conversations": [{**turns[0], "value": "What color is it?"}, *turns[1:]]})
    for found, wanted, what in ((seen, 9, "with a picture"), (read, -8, "of text alone")):
        if not is_number(found):
            return f"for a record {what} it returns a {type(found).__name__}; a number is wanted."
        if found == wanted:
            continue
        where = f"for a record {what} and {abs(wanted)} words in all its turns it returns {found}"
        if wanted < 0 and found == -wanted:
            return f"{where}: the sign says that there is no picture, so it is negative."
        if wanted > 0 and found == -wanted:
            return f"{where}: records with a picture are the positive ones."
        if abs(found) == abs(wanted) - 1:
            return f"{where}: `<image>` counts as a word, and words are divided by newlines, too: split()."
        if abs(found) > 20:
            return f"{where}: those are letters; split the text into words."
        if abs(found) in (3, 5, 6):
            return f"{where}: the words of humans and of gpt count, in all rounds."
        return f"{where}; wanted is {wanted}."
    return None


def padding(lengths):
    return 1 - sum(lengths) / (len(lengths) * max(lengths))


def _padding(answer: Any) -> str | None:
    for lengths, wanted in (([4, 4], 0.0), ([10, 5, 5], 1 / 3), ([100, 1], 0.495)):
        found = answer(list(lengths))
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number is wanted."
        found = float(found)
        if abs(found - wanted) < 1e-6:
            continue
        where = f"for the lengths {lengths} it returns {found:.4g}"
        if abs(found - (1 - wanted)) < 1e-6:
            return f"{where}: that is the share that is *not* padding."
        if abs(found - sum(max(lengths) - one for one in lengths)) < 1e-6 and found:
            return f"{where}: those are padded positions; divide by all positions of the batch."
        if abs(found - (1 / (1 - wanted) - 1)) < 1e-6:
            return f"{where}: divide by all positions of the batch, padded ones included."
        return f"{where}; wanted is {wanted:.4g}."
    return None


EXERCISES = {
    "loss": Exercise(
        statement=(
            "A batch that does not fit into memory goes through in several passes. Write "
            "`accumulated(passes)`: for each pass a list of its learned tokens' losses → what LLaVA "
            "minimizes, the mean of the passes' means."
        ),
        hint="First one number for each pass, then the mean of those numbers.",
        solution=accumulated,
        mistake=_accumulated,
        shows="1, where one pass over both would give 0.75: how a batch is cut changes what is minimized.",
    ),
    "merge": Exercise(
        statement=(
            "Say a picture takes 576 positions, the system prompt 40, a question with its answer 15. Write "
            "`positions(rounds, merged)`: how many positions `rounds` questions about one picture take, "
            "merged into one conversation, or each in its own."
        ),
        hint="Merged, picture and system prompt come once. On its own, each question brings both again.",
        solution=positions,
        mistake=_positions,
        shows="Ten questions for little more than the price of one: LLaVA-1.5 merges them (appendix A.2).",
    ),
    "length": Exercise(
        statement=(
            "LLaVA orders its records by a number: how many words all turns have together, as a *negative* "
            "number if there is no picture. Write `length(record)`. In LLaVA's files `<image>` counts as a "
            "word, and a record without a picture has no key `image`."
        ),
        hint='turn["value"].split() are the words of a turn; "image" in record says if there is a picture.',
        solution=length,
        mistake=_length,
        shows="Words and not tokens, and no picture counted: crude, and good enough to sort by.",
    ),
    "padding": Exercise(
        statement=(
            "Samples of a batch are filled up to the longest one. Write `padding(lengths)`: the samples' "
            "lengths → the share of the batch's positions, between 0 and 1, that are filling."
        ),
        hint="The batch has len(lengths) * max(lengths) positions. How many of them are real?",
        solution=padding,
        mistake=_padding,
        shows="Filling costs as much as text does, and teaches nothing.",
    ),
}
