"""Cards: today's boxes are lit, their words fit, and the minutes are those that were measured."""

import json

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch

from minillava.course import cards
from minillava.course.cards import BLOCKS, LIT, lit, map_figure, minutes

LESSONS = [*(f"{number:02d}" for number in range(11)), "07b", "07c"]


def test_lessons_light_what_they_are_about():
    assert lit("03") == ["projector", "splice"]
    assert lit("09") == ["stage 1", "stage 2"]
    assert lit("00") == lit("10") == list(BLOCKS)
    assert all(lit(lesson) for lesson in LESSONS)
    with pytest.raises(ValueError, match="'3'"):
        lit("3")


@pytest.mark.parametrize("lesson", ["02", "03"])
def test_the_map_shows_the_lit_boxes_and_no_other(lesson):
    patches = [p for p in map_figure(lesson).axes[0].patches if isinstance(p, FancyBboxPatch)]
    bright = [name for name, p in zip(BLOCKS, patches, strict=True) if p.get_facecolor() == to_rgba(LIT)]
    assert bright == lit(lesson)


def test_words_stay_inside_their_boxes_even_when_bold():
    figure = map_figure("00")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    for block, text in zip(BLOCKS.values(), axes.texts, strict=True):
        box = text.get_window_extent(canvas.get_renderer()).transformed(axes.transData.inverted())
        assert block.x <= box.x0 and box.x1 <= block.x + block.width, block.words
        assert block.y <= box.y0 and box.y1 <= block.y + block.height, block.words


def test_minutes_are_those_that_were_measured(tmp_path):
    file = tmp_path / "timings.json"
    assert "build.py --time" in minutes("03", file)
    file.write_text(json.dumps({"2 CPU cores": {"03": 61, "04": 20}, "a GPU": {"04": 5}}))
    assert minutes("03", file) == "**Run All takes** 2 min on 2 CPU cores."
    assert minutes("04", file) == "**Run All takes** 1 min on 2 CPU cores, 1 min on a GPU."
    assert "build.py --time" in minutes("05", file)


def test_a_card_shows_the_map_and_the_minutes(monkeypatch):
    shown = []
    monkeypatch.setattr(cards, "display", lambda *things: shown.extend(things))
    cards.card("02")
    figure, text = shown
    assert len(figure.png()) < 20_000 and "Run All takes" in text.data
