"""What the notebooks are made of beside `minillava` itself: cards, exercises, and figures of their own."""

from minillava.course.cards import card
from minillava.course.exercises import check, exercise, hint, solution

__all__ = ["card", "check", "exercise", "hint", "solution"]
