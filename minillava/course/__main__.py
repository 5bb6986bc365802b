"""Print exercises and their solutions: `python -m minillava.course 03 04`; all lessons without a number."""

import sys

from minillava.course.exercises import answers, lessons


def main(wanted: list[str]) -> None:
    """Raises ValueError for a lesson without exercises."""
    print("\n\n".join(answers(lesson) for lesson in wanted or lessons()))


if __name__ == "__main__":
    main(sys.argv[1:])
