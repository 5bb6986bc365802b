"""Figures show the numbers they are given, leave nothing behind, and stay small."""

import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from minillava import plots

WIDE = Image.new("RGB", (40, 20), "white")
TALL = Image.new("RGB", (20, 40), "white")


def texts(figure):
    return [text.get_text() for text in figure.texts]


def example(**changes):
    given = dict(
        image=WIDE, question="What is red?", answer="a star", heat=np.eye(4) / 40,
        boxes=[(5, 0, 15, 10)], expected="a star", word=" red", mass=0.25,
    )
    return plots.AttentionExample(**{**given, **changes})


FIGURES = {
    "loss_curves": lambda: plots.loss_curves({"with picture": ([0, 1], [2.0, 1.0])}),
    "accuracy_bars": lambda: plots.accuracy_bars({"color": {"sighted": 0.9, "blind": 0.1}}),
    "contact_sheet": lambda: plots.contact_sheet([WIDE, TALL], ["wide", "tall"]),
    "answered_pictures": lambda: plots.answered_pictures([WIDE], ["?"], ["a"], ["b"]),
    "attention_overlay": lambda: plots.attention_overlay(WIDE, np.eye(4), [(0, 0, 5, 5)], "red"),
    "attention_page": lambda: plots.attention_page([example(), example(image=TALL)]),
    "head_grid": lambda: plots.head_grid(np.eye(3), "heads", baseline=0.3),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_small_png_and_changes_no_settings(name):
    before = {key: value for key, value in dict.items(mpl.rcParams) if key != "backend"}
    figure = FIGURES[name]()
    assert {key: dict.__getitem__(mpl.rcParams, key) for key in before} == before
    data = figure._repr_png_()
    drawn = Image.open(io.BytesIO(data))
    assert drawn.format == "PNG" and len(data) < 40_000
    pixels = np.asarray(drawn.convert("RGB"))
    assert pixels[[0, -1]].min() > 200 and pixels[:, [0, -1]].min() > 200  # nothing runs off it
    assert pixels.std() > 5


def test_pyplot_is_not_needed():
    code = (
        "import sys; from minillava import plots; plots.head_grid([[0.5]]).png(); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_rare_color_survives_the_palette():
    noise = np.random.default_rng(0).integers(228, 244, (96, 96, 3), dtype=np.uint8)
    noise[40:50, 40:50] = (240, 120, 180)
    drawn = Image.open(io.BytesIO(plots.contact_sheet([noise] * 6).png())).convert("RGB")
    distance = np.abs(np.asarray(drawn, int) - (240, 120, 180)).max(-1)
    assert (distance <= 12).sum() > 6 * 100


def test_loss_curves_hold_their_values_and_name_their_ends():
    values = np.array([4.0, 2.0, 3.0, 1.0])
    figure = plots.loss_curves({"seen": (range(4), values), "blind": ([0, 3], [4, 3.9])}, "Loss")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "Loss"
    assert [line.get_label() for line in axes.lines] == ["seen", "blind"]
    assert axes.lines[0].get_ydata().tolist() == values.tolist()
    assert [text.get_text() for text in axes.texts] == ["seen  1", "blind  3.9"]
    smooth = plots.loss_curves({"seen": (range(4), values)}, smooth=2).axes[0].lines
    assert smooth[0].get_ydata().tolist() == values.tolist()
    assert smooth[1].get_ydata().tolist() == [4, 3, 2.5, 2]


def test_names_of_equal_ends_do_not_overlap():
    figure = plots.loss_curves({name: ([0, 1], [1, 0.5]) for name in "abc"})
    heights = [text.xy[1] for text in figure.axes[0].texts]
    low, high = figure.axes[0].get_ylim()
    assert np.diff(heights) == pytest.approx([0.065 * (high - low)] * 2)


def test_a_curve_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="'blind' has 2 steps and 1 values"):
        plots.loss_curves({"blind": ([0, 1], [1])})


def test_accuracy_bars_show_each_baseline_on_its_bar():
    table = {
        "color": {"sighted": 0.95, "blind": 0.2, "shuffled": 0.25, "majority": 0.2},
        "count": {"sighted": 0.8, "blind": 0.3, "majority": 0.3},
    }
    figure = plots.accuracy_bars(table)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.95, 0.8]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["color", "count"]
    assert [text.get_text() for text in axes.texts] == ["95%", "80%"]
    points = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert points == {"blind": [0.2, 0.3], "shuffled": [0.25], "majority": [0.2, 0.3]}
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.texts]
    assert names == ["sighted", "blind", "shuffled", "majority"]


def test_right_and_wrong_answers_are_told_apart_without_color():
    figure = plots.answered_pictures(
        [WIDE] * 3, ["q1", "costs $1 or $2?", "q3"], ["Red. ", "two", ""], ["red", "three", "no"]
    )
    assert texts(figure) == [
        "q1", "✓ Red.", "costs $1 or $2?", "✗ two", "expected: three", "q3", "✗", "expected: no",
    ]
    figure.png()


def test_pages_keep_the_pictures_shapes_and_order():
    images = [WIDE, TALL, np.zeros((30, 30, 3), np.uint8)]
    figure = plots.contact_sheet(images, columns=2)
    shown = [axes.images[0].get_array().shape[:2] for axes in figure.axes]
    assert shown == [(20, 40), (40, 20), (30, 30)]
    figure.png()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert [box.width / box.height for box in boxes] == pytest.approx([2, 0.5, 1], rel=1e-3)
    assert boxes[0].x1 < boxes[1].x0 and boxes[2].y1 < boxes[0].y0


def test_long_questions_wrap_within_their_column():
    question = "Is there a large red square to the left of the small blue circle? " * 2
    figure = plots.answered_pictures([WIDE] * 2, [question] * 2, ["WWWWWW " * 9] * 2, ["no"] * 2)
    figure.png()
    left, right = (axes.get_window_extent() for axes in figure.axes)
    for text in figure.texts:
        start = text.get_window_extent().x0
        assert text.get_window_extent().x1 < (right.x0 if start < right.x0 - 1 else figure.bbox.x1)


def test_heat_lies_over_the_picture_on_a_scale_from_zero():
    heat = np.full((4, 4), 0.01)
    heat[1, 2] = 0.05
    figure = plots.attention_overlay(WIDE, heat, [(5, 0, 15, 10)], "“red”", mass=0.3)
    plain, map_axes = figure.axes[:2]
    shown = map_axes.images[0]
    assert shown.get_array().tolist() == heat.tolist()
    assert shown.get_clim() == (0, 0.05) and shown.get_alpha() is None
    assert shown.get_extent() == [-0.5, 39.5, 19.5, -0.5]
    assert map_axes.get_xlabel() == "30.0% on the picture, peak 5.0% on a patch"
    for axes in (plain, map_axes):
        assert {patch.get_bbox().bounds for patch in axes.patches} == {(4.5, -0.5, 10, 10)}
    assert plots.attention_overlay(WIDE, heat, top=0.2).axes[1].images[0].get_clim() == (0, 0.2)


def test_outlines_are_the_pictures_and_noise_is_none():
    picture = np.full((8, 8, 3), 230, np.uint8) + np.arange(8, dtype=np.uint8)[:, None]
    picture[2:6, 2:6] = (240, 210, 30)
    outline = plots.attention_overlay(picture, np.eye(4)).axes[1].images[1].get_alpha()
    assert outline[0, 0] == outline[3, 3] == 0
    assert outline[1, 3] > 0.5 and outline[3, 5] > 0.5


def test_attention_page_shows_example_by_example():
    heat = np.linspace(0, 0.02, 800).reshape(20, 40)
    heat[0, 0] = np.nan
    figure = plots.attention_page([example(), example(heat=heat, expected="a dot", word="")])
    assert texts(figure) == [
        "What is red?", "✓ a star", "“red” looks: 25.0% on the picture, peak 2.5% on a patch",
        "What is red?", "✗ a star", "expected: a dot",
        "25.0% on the picture, peak 2.0% on a patch",
    ]
    assert [len(axes.patches) for axes in figure.axes] == [2] * 4  # each box in black and white
    assert figure.axes[3].images[0].get_clim() == (0, 0.02)
    assert "→ a star" in texts(plots.attention_page([example(expected=None)]))


def test_head_grid_frames_the_best_and_marks_chance():
    scores = np.array([[0.1, 0.2, 0.3], [0.9, 0.05, 0.4]])
    figure = plots.head_grid(scores, baseline=0.31)
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == scores.tolist()
    assert axes.images[0].get_clim() == (0, 1)
    assert [text.get_text() for text in axes.texts] == [".10", ".20", ".30", ".90", ".05", ".40"]
    assert axes.patches[0].get_xy() == (-0.5, 0.5)
    assert axes.child_axes[0].lines[0].get_ydata() == [0.31, 0.31]
    assert not plots.head_grid(np.zeros((32, 32))).axes[0].texts


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="'captions': 1"):
        plots.contact_sheet([WIDE, TALL], ["one"])
    with pytest.raises(ValueError, match="at least one"):
        plots.attention_page([])
