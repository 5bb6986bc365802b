"""What every lesson with exercises keeps to, read off its source without executing it."""

import ast
import inspect
from pathlib import Path

import jupytext
import pytest

from minillava import course
from minillava.course.exercises import find

ROOT = Path(__file__).resolve().parents[2]


def number(path: Path) -> str:
    """ "03" of 03_projector.py."""
    return path.name.partition("_")[0]


LESSONS = [
    path
    for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))
    if (Path(course.__file__).parent / f"lesson{number(path)}.py").is_file()
]
FIRST = "00"
"""A first meeting is short: fewer questions and exercises, and nothing to break yet."""


@pytest.fixture(scope="module", params=LESSONS, ids=lambda path: path.stem)
def lesson(request):
    """(number, its cells)"""
    return number(request.param), jupytext.read(request.param).cells


def code(cells):
    return [cell.source for cell in cells if cell.cell_type == "code"]


def calls(source: str, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_it_opens_with_its_card(lesson):
    number, cells = lesson
    assert f'card("{number}")' in code(cells)[0]
    assert cells[0].source.startswith(f"# {number} · ") and "you can" in cells[0].source


def test_cells_are_short_and_prose_is_neither_thin_nor_thick(lesson):
    _, cells = lesson
    lengths = [sum(1 for line in source.split("\n") if line.strip()) for source in code(cells)]
    assert max(lengths) <= 25
    assert sum(length > 15 for length in lengths) <= 2
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    assert 5 <= words / sum(lengths) <= 10.5


def test_it_asks_first_breaks_something_and_ends_with_sources(lesson):
    number, cells = lesson
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert sum("**Predict first:**" in text for text in prose) >= (2 if number == FIRST else 4)
    assert number == FIRST or any("## Break it" in text for text in prose)
    assert "## Takeaways" in prose[-1] and "arXiv" in prose[-1]


def test_it_states_and_checks_each_of_its_exercises_once(lesson):
    number, cells = lesson
    module = __import__(f"minillava.course.lesson{number}", fromlist=["EXERCISES"])
    wanted = [f"{number}.{title}" for title in module.EXERCISES]
    for verb in ("exercise", "check"):
        found = [call.args[0].value for source in code(cells) for call in calls(source, verb)]
        assert sorted(found) == sorted(wanted)
    assert len(wanted) in ((1, 2) if number == FIRST else (3, 4))


def test_what_a_stub_says_when_stuck_can_be_typed(lesson):
    _, cells = lesson
    first = next(source for source in code(cells) if "check" in source and "import" in source)
    assert "from minillava.course import check, exercise, hint, solution" in first


def test_its_stubs_are_unfinished_and_take_what_the_solutions_take(lesson):
    _, cells = lesson
    for source in code(cells):
        for call in calls(source, "check"):
            exercise, answer = find(call.args[0].value), ast.unparse(call.args[1])
            assert "NotImplemented" in source
            if exercise.answer is not exercise.solution:  # a value
                assert answer == exercise.solution.__name__
                continue
            (stub,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
            assert stub.name == answer == exercise.solution.__name__
            assert [a.arg for a in stub.args.args] == list(inspect.signature(exercise.solution).parameters)
