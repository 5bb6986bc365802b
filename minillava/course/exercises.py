"""Exercises: each has one source, which states it, helps, solves it, and says in words what is wrong.

    exercise("03.splice")          what is asked
    check("03.splice", splice)     "not yet", what is wrong, or right and what it shows
    hint("03.splice")
    solution("03.splice")          code that passes the check, to paste over the stub

Exercise `03.splice` stands in `lesson03.py`, as `EXERCISES["splice"]`; another lesson is another file. A
check never raises over an answer, so "Run All" gets past stubs, which return NotImplemented, and past wrong
ones.
"""

import inspect
import numbers
import re
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import Markdown
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        statement: what is asked, in Markdown.
        hint: the way there, without the answer.
        solution: the function that is asked for; where a value is, a function without parameters that
            returns it and has the name of the variable. Its source is what students are shown.
        mistake: an answer -> what is wrong with it, in a sentence, or None if nothing is.
        shows: what one has seen by getting it right.
    """

    statement: str
    hint: str
    solution: Callable
    mistake: Callable[[Any], str | None]
    shows: str

    @property
    def answer(self) -> Any:
        """The right answer, as `check` takes it."""
        return self.solution if inspect.signature(self.solution).parameters else self.solution()


class Unfinished(Exception):
    """The answer, or what it returned, is still NotImplemented."""


class Stopped(Exception):
    """The student's function raised; the message says what, and where."""


def find(name: str) -> Exercise:
    """The exercise of that name; ValueError, with those there are, if there is none."""
    lesson, _, title = name.partition(".")
    exercises = of_lesson(lesson)
    if title not in exercises:
        raise ValueError(f"Lesson {lesson} has the exercises {', '.join(exercises)}, not {title!r}.")
    return exercises[title]


def of_lesson(lesson: str) -> dict[str, Exercise]:
    """Lesson "03"'s exercises by name; ValueError if it has none."""
    try:
        return import_module(f"minillava.course.lesson{lesson}").EXERCISES
    except ModuleNotFoundError as error:
        raise ValueError(
            f"There are no exercises of lesson {lesson!r}: a name looks like '03.splice'."
        ) from error


def lessons() -> list[str]:
    """The lessons that have exercises, "00" first."""
    return sorted(path.stem.removeprefix("lesson") for path in Path(__file__).parent.glob("lesson[0-9]*.py"))


def answers(lesson: str) -> str:
    """All of a lesson's exercises and the code that solves them, as Markdown; ValueError as `of_lesson`."""
    solved = of_lesson(lesson).items()
    parts = [f"### {lesson}.{name}\n{one.statement}\n\n```python\n{source(one)}\n```" for name, one in solved]
    return "\n\n".join([f"## Lesson {lesson}", *parts])


def exercise(name: str) -> Markdown:
    """What is asked, as a notebook shows it."""
    return Markdown(f"### Exercise {name}\n{find(name).statement}")


def check(name: str, answer: Any) -> None:
    """Print what is to be said about an answer: a function, or a value."""
    _say(f"{name}: {verdict(find(name), answer, name)}")


def hint(name: str) -> None:
    """Print the way to the answer."""
    _say(find(name).hint)


def solution(name: str) -> None:
    """Print code that passes the check."""
    print(source(find(name)))


def source(exercise: Exercise) -> str:
    """The solution's code, as it can be pasted over the stub: a function, or `name = value`."""
    code = textwrap.dedent(inspect.getsource(exercise.solution)).strip()
    return re.sub(r"^def (\w+)\(\):\s+return ", r"\1 = ", code)


def verdict(exercise: Exercise, answer: Any, name: str = "") -> str:
    """One sentence or two on an answer. Raises nothing that the answer could cause."""
    try:
        wrong = exercise.mistake(_watched(_finished(answer)))
    except Unfinished:
        return f'… not yet. When stuck:\nhint("{name}")\nsolution("{name}")'
    except Stopped as stop:
        wrong = str(stop)
    except Exception as error:  # an answer that the check did not foresee
        wrong = f"this answer cannot be checked ({type(error).__name__}: {error})."
    return f"✗ {wrong}" if wrong else f"✓ right. {exercise.shows}"


def _watched(answer: Any) -> Any:
    """A student's function, with its stubs and its errors told apart from those of the check."""
    if not callable(answer):
        return answer

    @wraps(answer)
    def call(*args: Any) -> Any:
        try:
            result = answer(*args)
        except Exception as error:
            kind, given = type(error).__name__, " and ".join(map(_described, args))
            message = f"your function stops{_line(answer, error)} with {kind}: {error}"
            raise Stopped(f"{message.rstrip('.')}. It was given {given}.") from error
        return _finished(result)

    return call


def _line(answer: Callable, error: Exception) -> str:
    """Where a student's own code stopped, not the library that it called; nothing for a builtin."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in line {lines[-1]}" if lines else ""


def _described(given: Any) -> str:
    """An argument in a few words: a tensor or an array by its shape, other values as they are."""
    if isinstance(given, (Tensor, np.ndarray)):
        return f"a {'tensor' if isinstance(given, Tensor) else 'NumPy array'} of shape {list(given.shape)}"
    return textwrap.shorten(repr(given), 60, placeholder=" ...")


def _finished(answer: Any) -> Any:
    if answer is NotImplemented or answer is ...:
        raise Unfinished
    return answer


def _say(text: str) -> None:
    print("\n".join(textwrap.fill(line, 100) for line in text.split("\n")))


def same_tensor(found: Any, wanted: Tensor, what: str = "the result") -> str | None:
    """How `found` is not `wanted`: no tensor, another shape, other values; None if it is."""
    if not isinstance(found, Tensor):
        return f"{what} is a {type(found).__name__}; a tensor of shape {list(wanted.shape)} is wanted."
    if found.shape != wanted.shape:
        return f"{what} has shape {list(found.shape)}; wanted is {list(wanted.shape)}."
    gap = (found.double() - wanted.double()).abs().max().item()
    if not gap <= 1e-4:
        return f"{what} has the right shape but other values, by up to {gap:.3g}."
    return None


def is_number(found: Any) -> bool:
    """Whether it can be compared as a number: an int, a float, one of NumPy's, or a tensor of one."""
    return (
        isinstance(found, numbers.Real)  # NumPy's, too
        and not isinstance(found, bool)
        or (isinstance(found, Tensor) and found.numel() == 1 and found.dtype is not torch.bool)
    )
