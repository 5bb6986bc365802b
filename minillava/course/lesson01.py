"""Exercises of lesson 01: boxes, records, and what can be guessed without looking."""

from collections import Counter
from typing import Any

import numpy as np

from minillava.course.exercises import Exercise, is_number
from minillava.toybox.domain import DESCRIBE


def normalized(box, edge):
    return [round(value / edge, 3) for value in box]


def _normalized(answer: Any) -> str | None:
    for box, edge, wanted in (
        ((24, 12, 48, 90), 96, [0.25, 0.125, 0.5, 0.938]), ((5, 10, 20, 25), 50, [0.1, 0.2, 0.4, 0.5])
    ):  # fmt: skip
        found = answer(box, edge)
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if not isinstance(found, (list, tuple)) or len(found) != 4 or not all(map(is_number, found)):
            return f"for the box {box} it returns {found!r}; a list of four numbers is wanted."
        found = [float(value) for value in found]
        if all(abs(one - other) < 1e-6 for one, other in zip(found, wanted, strict=True)):
            continue
        if found == [value / edge for value in box]:
            return "the numbers are right but not rounded to three decimals, as in LLaVA's file."
        if max(found) > 1:
            return f"it returns {found}: numbers beyond 1. Divide each by the picture's edge, {edge}."
        if found[:2] == wanted[:2] and abs(found[2] - (box[2] - box[0]) / edge) < 1e-3:
            return (
                "the last two are width and height; LLaVA's boxes end with the lower right corner, x2 and y2."
            )
        return f"for the box {box} and the edge {edge} it returns {found}; wanted is {wanted}."
    return None


def caption_record(name, image, caption):
    question = "<image>\nDescribe the picture in detail."
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
    return {"id": name, "image": image, "conversations": turns}


def _caption_record(answer: Any) -> str | None:
    found = answer("cat-1", "cats/1.png", "A cat on a mat.")
    if not isinstance(found, dict):
        return f"it returns a {type(found).__name__}; a record is a dict."
    missing = [key for key in ("id", "image", "conversations") if key not in found]
    if missing:
        return (
            f"the record has no {' and no '.join(missing)}; it has {', '.join(map(str, found)) or 'nothing'}."
        )
    turns = found["conversations"]
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        return "`conversations` is a list of two turns, the human's and gpt's, each a dict."
    others = [turn for turn in turns if set(turn) != {"from", "value"}]
    if others:
        return f"a turn has the keys `from` and `value`; one has {', '.join(map(str, others[0])) or 'none'}."
    if [turn["from"] for turn in turns] != ["human", "gpt"]:
        return f"turns are from human, then gpt; yours are from {turns[0]['from']}, then {turns[1]['from']}."
    if turns[1]["value"] != "A cat on a mat.":
        return f"gpt's turn is the caption and nothing else; yours is {turns[1]['value']!r}."
    if turns[0]["value"].count("<image>") != 1:
        return f"the human's turn holds <image> once, where the picture goes; yours: {turns[0]['value']!r}."
    if not turns[0]["value"].startswith("<image>\n"):
        return "the picture stands first, on a line of its own: <image>, a newline, then the request."
    if turns[0]["value"] != f"<image>\n{DESCRIBE}":
        return f"the human asks {turns[0]['value'][8:]!r}; wanted is {DESCRIBE!r}."
    if (found["id"], found["image"]) != ("cat-1", "cats/1.png"):
        return "`id` and `image` are to be those that the function was given."
    return None


def majority(answers):
    return Counter(answers).most_common(1)[0][1] / len(answers)


def _majority(answer: Any) -> str | None:
    answers = ["no", "no", "yes", "no", "yes", "maybe", "no", "no"]
    found, wanted = answer(answers), 5 / 8
    if isinstance(found, str):
        return f"{found!r} is what the guesser says; wanted is how often it is right, between 0 and 1."
    if not is_number(found):
        return f"it returns a {type(found).__name__}; a number between 0 and 1 is wanted."
    if abs(found - wanted) < 1e-6:
        if abs(answer(["red", "blue", "blue"]) - 2 / 3) < 1e-6:
            return None
        return "it is right where \"no\" is commonest; of red, blue and blue the guesser gets two thirds."
    if found == 5:
        return "5 is how often the commonest answer occurs; divide it by the number of answers."
    if abs(found - 1 / 3) < 1e-6:
        return (
            "a third is what blind chance gives over three answers; the guesser has seen which is commonest."
        )
    return f"for {answers} it returns {found:.3g}; wanted is {wanted}."


def tempting(things):
    colors = {color for color, _ in things}
    shapes = {shape for _, shape in things}
    return {(color, shape) for color in colors for shape in shapes} - set(things)


def _tempting(answer: Any) -> str | None:
    things = [("red", "star"), ("blue", "heart"), ("blue", "star")]
    found = answer(things)
    if not isinstance(found, (set, frozenset, list, tuple)) or not all(isinstance(p, tuple) for p in found):
        return "it returns no set of (color, shape) pairs."
    found, wanted = set(found), {("red", "heart")}
    if found == wanted:
        if set(answer([("blue", "heart"), ("red", "star")])) == {("blue", "star"), ("red", "heart")}:
            return None
        return "it is right here; of a blue heart and a red star *two* pairs are tempting: cross them all."
    if here := found & set(things):
        return f"{sorted(here)[0]} is in the picture: the answer would be yes."
    if foreign := {pair for pair in found - wanted if pair[0] not in ("red", "blue")}:
        return f"{sorted(foreign)[0]} has a color that is not in the picture: easy to deny, not adversarial."
    if foreign := {pair for pair in found - wanted if pair[1] not in ("star", "heart")}:
        return f"{sorted(foreign)[0]} has a shape that is not in the picture: easy to deny, not adversarial."
    if not found:
        return "it finds nothing, but a red heart is not there while something red and a heart are."
    return f"it returns {sorted(found)}; wanted is {sorted(wanted)}."


EXERCISES = {
    "box": Exercise(
        statement=(
            "LLaVA told GPT-4 where things are by boxes between 0 and 1. Write `normalized(box, edge)`: "
            "pixels `(x1, y1, x2, y2)` of a square picture of `edge` pixels → a list of four numbers, "
            "rounded to three decimals."
        ),
        hint="Each of the four numbers is a share of the picture's edge. round(value, 3) rounds.",
        solution=normalized,
        mistake=_normalized,
        shows=(
            "Three decimals locate a thing to a thousandth of the picture, in text that a language model "
            "reads."
        ),
    ),
    "record": Exercise(
        statement=(
            "Write `caption_record(name, image, caption)`: a stage-1 record in LLaVA's format, which asks"
            ' "Describe the picture in detail." and is answered by the caption.'
        ),
        hint=(
            "Print one of Toybox's records without its picture and look at its keys. The human's text "
            "begins with <image> and a newline."
        ),
        solution=caption_record,
        mistake=_caption_record,
        shows="A JSON list of such dicts, beside a folder of pictures, is all that LLaVA's training reads.",
    ),
    "majority": Exercise(
        statement=(
            "A guesser that never looks can still give the commonest answer each time. Write "
            "`majority(answers)`: the share of a list of right answers that it gets, between 0 and 1."
        ),
        hint="collections.Counter counts; its most_common(1) is [(answer, how often)].",
        solution=majority,
        mistake=_majority,
        shows="tiny-LLaVA's card has it for every type of question: the column `majority`.",
    ),
    "adversarial": Exercise(
        statement=(
            "The hardest *no* is about a thing whose color is there, and whose shape is there, but not on"
            " one object. Write `tempting(things)`: a picture's `(color, shape)` pairs → the set of all "
            "such pairs."
        ),
        hint=(
            "Cross every color that is there with every shape that is there. What has to be taken out again?"
        ),
        solution=tempting,
        mistake=_tempting,
        shows=(
            "Who only notes that there is red and that there is a heart says yes here. POPE calls such "
            "questions adversarial."
        ),
    ),
}
