"""Exercises of lesson 00, a first meeting: ask it something, and say what an accuracy is worth."""

from typing import Any

from minillava.course.exercises import Exercise, is_number
from minillava.toybox.language import SHORT_ANSWER


def ask(model, picture, color):
    question = f"What shape is the {color} object?"
    return model.answer(picture, question + "\nAnswer the question using a single word or phrase.")


class _Listener:
    """In the model's place: hears what is asked, and answers always the same."""

    def __init__(self):
        self.heard: list[tuple[Any, str]] = []

    def answer(self, image: Any, question: str, **_: Any) -> str:
        self.heard.append((image, question))
        return "a parrot"


def _ask(answer: Any) -> str | None:
    model = _Listener()
    found = answer(model, "a picture", "violet")
    if not model.heard:
        return "it never asks: model.answer(picture, question) is the way to."
    picture, question = model.heard[-1]
    if picture != "a picture" or not isinstance(question, str):
        return "model.answer takes the picture first, then the question, a text."
    if "violet" not in question:
        return f"asked about violet, it says {question!r}; the color has to come from `color`."
    if "shape" not in question.lower():
        return f"it asks {question!r}, which is not about a shape."
    if not question.endswith(SHORT_ANSWER):
        return "the question does not end in the format prompt: a whole sentence may come back."
    if not question.endswith("\n" + SHORT_ANSWER):
        return "the format prompt stands on a line of its own: a newline before it."
    return None if found == "a parrot" else f"it asks rightly, but returns {found!r} and not the answer."


def seen():
    return 74 - 55


def _worth(answer: Any) -> str | None:
    if not is_number(answer):
        return f"a number of answers is wanted, not a {type(answer).__name__}."
    known = {
        19: None,
        22: "that is more than the blind twin; the shuffled one got 55, and its picture told it nothing.",
        74: "55 of these come without its picture, whatever they come from.",
        -33: "twin and twin overlap: what one of them guesses, the other mostly guesses too.",
        24: "50 is a coin; the model's own twins do better than that.",
    }
    return known.get(answer, f"{answer}? Take away what the better of the two twins gets.")


EXERCISES = {
    "ask": Exercise(
        statement=(
            f"The format prompt is `{SHORT_ANSWER}` and stands on a line of its own. Write `ask(model, "
            "picture, color)`: ask what shape the object of that color has, and return the short answer."
        ),
        hint="Build the question with an f-string, add a newline and the format prompt, call model.answer.",
        solution=ask,
        mistake=_ask,
        shows="Now try it on the picture: a color that is there, then one that is not. Does it ever say no?",
    ),
    "worth": Exercise(
        statement=(
            "A model answers 74 of 100 yes/no questions rightly. Without any picture it gets 52, with "
            "somebody else's 55. For how many of the 74 does its own picture have to be the reason? Set "
            "`seen = ...`."
        ),
        hint="Either twin shows what can be had without the right picture. Which one leaves less to explain?",
        solution=seen,
        mistake=_worth,
        shows="74 % sounds like sight; 19 answers are. The stronger baseline is the one that counts.",
    ),
}
