"""The figures of an answer hold the numbers they are given, and fit pictures that are not square."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from minillava import attention_plots as plots
from minillava.images import PatchGeometry
from minillava.plots import attention_overlay

WIDE = Image.new("RGB", (40, 20), "white")


def texts(figure):
    return [text.get_text() for text in figure.texts]


def words(count=3):
    heats = [np.full((4, 4), 0.01 * (i + 1)) for i in range(count)]
    return ["a", " red", " bar"][:count], heats, [0.16 * (i + 1) for i in range(count)]


FIGURES = {
    "word_by_word": lambda: plots.word_by_word(WIDE, *words()),
    "attention_by_word": lambda: plots.attention_by_word(["a", "b"], {"image": [0.2, 0.1]}, "Mass", even=0.5),
    "token_strip": lambda: plots.token_strip(["<s>", "", "", " a"], ["system", "image", "image", "answer"]),
    "damage_by_layer": lambda: plots.damage_by_layer(["0"], {"a": [(0.3, 0.2, 0.4)]}, {"a": [(0, 0, 0)]}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_small_png(name):
    data = FIGURES[name]()._repr_png_()
    drawn = Image.open(io.BytesIO(data))
    assert drawn.format == "PNG" and len(data) < 40_000
    pixels = np.asarray(drawn.convert("RGB"))
    assert pixels[[0, -1]].min() > 200 and pixels[:, [0, -1]].min() > 200  # nothing runs off it
    assert pixels.std() > 5


def test_words_share_one_scale_and_print_their_masses():
    figure = plots.word_by_word(WIDE, *words(), boxes=[[], [(0, 0, 10, 10)], [(5, 0, 15, 10)]], columns=2)
    plain, *maps = figure.axes
    assert [axes.images[0].get_clim() for axes in maps] == [(0, 0.03)] * 3
    assert [axes.images[0].get_array()[0, 0] for axes in maps] == [0.01, 0.02, 0.03]
    assert [len(axes.patches) for axes in figure.axes] == [0, 0, 2, 2]  # each box in black and white
    assert texts(figure) == [
        "the picture", "bright: 3.0% on a patch", "a", "16.0% here, peak 1.0%",
        "red", "32.0% here, peak 2.0%", "bar", "48.0% here, peak 3.0%",
    ]  # fmt: skip
    assert plots.word_by_word(WIDE, *words(1), top=0.5).axes[1].images[0].get_clim() == (0, 0.5)


def test_a_photographs_padding_is_left_out_of_every_words_map():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    geometry = PatchGeometry(*photo.size, 96, 12)
    heat = np.zeros((8, 8))
    heat[0], heat[4, 7] = 0.5, 0.1  # the top row of patches is padding
    figure = plots.word_by_word(photo, ["word"], [geometry.heatmap(heat)], [heat.sum()])
    shown = figure.axes[1].images[0].get_array()
    assert shown.shape == (60, 90)
    assert shown.max() == 0.1 and shown[:, :75].max() == 0
    figure.png()
    box = figure.axes[1].get_window_extent()
    assert box.width / box.height == pytest.approx(90 / 60, rel=1e-2)


def test_words_are_drawn_as_they_are_typed():
    word, heat = r"$\foo$", np.ones((4, 4))
    attention_overlay(WIDE, heat, title=word).png()
    plots.word_by_word(WIDE, [word], [heat], [0.5]).png()
    plots.attention_by_word([word], {"image": [0.2]}).png()
    plots.token_strip([word], ["question"]).png()
    with pytest.raises(ValueError, match="no kind 'speech'"):
        plots.token_strip([word], ["speech"])


def test_a_word_without_its_map_is_refused():
    with pytest.raises(ValueError, match="2 words, 1 maps"):
        plots.word_by_word(WIDE, ["a", "b"], [np.ones((2, 2))], [1, 1])
    with pytest.raises(ValueError, match="at least one"):
        plots.word_by_word(WIDE, [], [], [])


def test_where_the_attention_of_each_word_goes_is_stacked():
    shares = {"image": [0.4, 0.05], "system": [0.3, 0.4], "question": [0.3, 0.55]}
    figure = plots.attention_by_word(["a", " red"], shares, "Where", even=0.25)
    (axes,) = figure.axes
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(3, 2)
    assert heights == pytest.approx(np.array(list(shares.values())))
    bottoms = np.array([bar.get_y() for bar in axes.patches]).reshape(3, 2)
    assert bottoms[1] == pytest.approx([0.4, 0.05]) and bottoms[2] == pytest.approx([0.7, 0.45])
    assert [text.get_text() for text in axes.texts] == ["40%", "5%"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "red"]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.25, 0.25]] * 2
    each = plots.attention_by_word(["a", " red"], shares, even=[0.5, 0.25]).axes[0].lines
    assert [list(line.get_ydata()) for line in each] == [[0.5, 0.5], [0.25, 0.25]]
    colors = [axes.patches[2 * i].get_facecolor() for i in range(3)]
    assert colors[0] == to_rgba(plots.KINDS["image"]) and len(set(colors)) == 3


def test_the_strip_shows_every_token_once_and_a_picture_as_one_block():
    tokens = ["<s>", " A", "\n", *["<image>"] * 64, "\n", " What", "$x$", " red"]
    kinds = [*["system"] * 3, *["image"] * 64, *["question"] * 3, "answer"]
    figure = plots.token_strip(tokens, kinds, width=3)
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    assert shown == [
        "<s>", "A", "⏎", "picture: 64 patches", "⏎", "What", "$x$", "red",
        "system: 3", "image: 64", "question: 3", "answer: 1",
    ]  # fmt: skip
    assert len(axes.patches) == 8
    blocks = [patch.get_extents() for patch in axes.patches]
    assert all(0 <= axes.transData.inverted().transform(b.min)[0] < 3 for b in blocks)
    figure.png()
    for one, other in zip(blocks, blocks[1:], strict=False):  # in reading order, side by side or below
        assert other.x0 >= one.x1 - 1 or other.y1 <= one.y0 + 1
    with pytest.raises(ValueError, match="1 tokens but 2 kinds"):
        plots.token_strip(["a"], ["answer", "answer"])


def test_damage_stands_beside_its_control_layer_by_layer():
    lost = {"word": [(0.4, 0.3, 0.5), (0.2, 0.1, 0.35)], "answer": [(0.1, 0, 0.2), (0, -0.1, 0.1)]}
    control = {"word": [(0.0, 0, 0), (0.02, 0, 0.1)]}
    figure = plots.damage_by_layer(["all", "0"], lost, control, "Damage")
    (axes,) = figure.axes
    points = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_ydata())]
    filled = [line.get_ydata().tolist() for line in points if line.get_markerfacecolor() != "none"]
    assert filled == [[40, 20], [10, 0]]
    bars = axes.collections[0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [[30, 50], [10, 35]]
    hollow = [line.get_ydata().tolist() for line in points if line.get_markerfacecolor() == "none"]
    assert hollow == [[0, 2]]
    through = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_label()[0] != "_"]
    assert [line.get_ydata().tolist() for line in through] == [[20], [0]]  # none through "all"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "0"]
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.texts}
    assert names == {"from word", "from answer", "to as many others"}
