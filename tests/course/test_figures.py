"""The lessons' own figures: what is plotted is what was given."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from minillava.course import figures

PICTURE = np.arange(96 * 96 * 3, dtype=np.uint32).reshape(96, 96, 3).astype(np.uint8)


def test_patches_come_row_by_row_from_the_top_left():
    patches = figures.patches_of(PICTURE, 12)
    assert len(patches) == 64
    assert (patches[1] == PICTURE[:12, 12:24]).all() and (patches[8] == PICTURE[12:24, :12]).all()


def test_cutting_apart_leaves_white_between_the_patches():
    apart = figures.cut_apart(PICTURE, 12, gap=2)
    assert apart.shape == (96 + 7 * 2, 96 + 7 * 2, 3)
    assert (apart[12:14] == 255).all() and (apart[:, 12:14] == 255).all()
    assert (apart[14:26, 14:26] == PICTURE[12:24, 12:24]).all()


def test_a_strip_shows_every_token_and_marks_the_learned_ones():
    pieces = [("<s>", "prompt"), *((p, "image") for p in figures.patches_of(PICTURE, 12)), (" red", "answer")]
    axes = figures.token_strip(pieces).axes[0]
    words = {text.get_text(): text.get_fontweight() for text in axes.texts}
    assert words == {"<s>": "normal", " red": "bold"}
    assert len(axes.images) == 64 and len(axes.lines) == 1  # one word is underlined
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(frames) == 66
    assert max(frame.get_x() + frame.get_width() for frame in frames) <= 6.6


def test_words_of_a_strip_fit_their_boxes():
    pieces = [(f" intelligence{i}", "prompt") for i in range(20)]
    figure = figures.token_strip(pieces)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    for text, frame in zip(axes.texts, axes.patches, strict=True):
        word, box = (thing.get_window_extent(canvas.get_renderer()) for thing in (text, frame))
        assert box.x0 <= word.x0 and word.x1 <= box.x1


def test_a_strip_of_nothing_or_of_another_kind_is_refused():
    for pieces in ([], [("a", "question")]):
        with pytest.raises(ValueError, match="image, prompt, answer"):
            figures.token_strip(pieces)


def test_maps_each_have_their_own_scale():
    heats = {"one": np.eye(8), "two": 5 * np.eye(8)}
    figure = figures.maps_row(PICTURE, heats, {"two": [(0, 0, 12, 12)]})
    _, one, two = figure.axes
    assert (one.images[0].get_array() == np.eye(8)).all()
    assert (one.images[0].norm.vmax, two.images[0].norm.vmax) == (1, 5)
    assert len(two.patches) > len(one.patches)  # its box


def test_words_stand_in_their_patches():
    words = [str(i) for i in range(64)]
    axes = figures.words_on_patches(PICTURE, words, [i == 9 for i in range(64)]).axes[0]
    place = {text.get_text(): text for text in axes.texts}
    assert place["9"].get_position() == (17.5, 17.5)
    assert [word for word, text in place.items() if text.get_fontweight() == "bold"] == ["9"]
    with pytest.raises(ValueError, match="no square grid"):
        figures.words_on_patches(PICTURE, words[:-1], [False] * 63)


def test_shares_are_as_wide_as_they_say():
    axes = figures.shares({"a": {"yes": 3, "no": 1}, "b": {"no": 5, "rare": 0}}).axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 0.75), (0.75, 0.25), (0, 1)]
    assert [text.get_text() for text in axes.texts] == ["yes 75%", "no 25%", "no 100%"]


def test_a_part_too_small_for_its_name_is_in_the_legend():
    figure = figures.shares({"a": {"most": 97, "a few of them": 3}})
    assert [text.get_text() for text in figure.legends[0].texts] == ["a few of them"]


def test_an_arrow_goes_from_before_to_after_past_the_baselines():
    table = {
        "color": {"before": 0.1, "after": 0.7, "blind": 0.2, "shuffled": 0.3},
        "count": {"before": 0.4, "after": 0.25, "blind": 0.3, "shuffled": 0.2},
    }
    axes = figures.before_after(table).axes[0]
    arrows = [text for text in axes.texts if text.get_text() == ""]
    ends = [(arrow.xyann, arrow.xy) for arrow in arrows]
    assert ends == [((0.1, 0), (0.7, 0)), ((0.4, 1), (0.25, 1))]
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["70%", "25%"]
    plotted = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert plotted["blind"] == [0.2, 0.3] and plotted["shuffled"] == [0.3, 0.2]


def test_memory_adds_up_beside_the_room_there_is():
    table = {"one": {"weights": 10, "logits": 5}, "two": {"weights": 90, "logits": 1}}
    axes = figures.memory_bars(table, rooms=(40, 80)).axes[0]
    bars = {(bar.get_y() > 0.5, bar.get_x()): bar.get_width() for bar in axes.patches}
    assert bars == {(False, 0): 10, (False, 10): 5, (True, 0): 90, (True, 90): 1}
    assert [text.get_text() for text in axes.texts] == ["15 GB", "91 GB", "40 GB", "80 GB"]
    assert [line.get_xdata()[0] for line in axes.lines] == [40, 80]


def test_layers_are_plotted_as_measured():
    scores = {0: {"color": 0.5, "shape": 0.2}, 1: {"color": 0.9, "shape": 0.8}}
    lines = figures.accuracy_by_layer(scores, marked=0).axes[0].lines
    assert {line.get_label(): list(line.get_ydata()) for line in lines} == {
        "color": [0.5, 0.9],
        "shape": [0.2, 0.8],
    }


def test_a_line_too_many_is_an_error_and_not_left_out():
    with pytest.raises(ValueError, match="6 attributes, but 5 markers"):
        figures.accuracy_by_layer({0: dict.fromkeys("abcdef", 0.5)}, marked=0)


def test_a_text_stands_whole_beside_its_picture():
    text = "a " * 60 + "\n\nlast"
    figure = figures.beside(PICTURE, text, [(0, 0, 9, 9)])
    shown = figure.texts[0].get_text()
    assert shown.split() == text.split() and "\n\nlast" in shown
    assert max(map(len, shown.split("\n"))) <= 66
