"""Sketches: the code says exactly what is drawn, and only what is in the subset is read."""

import pytest

from minillava.toybox import domain, svg
from minillava.toybox.scene import COLORS, SIZE
from minillava.toybox.sketch import NAMES, NUMBERS, SKETCH, WITHHELD
from minillava.toybox.svg import GRID, UNIT, Primitive, SvgError

CODE = """<svg viewBox="0 0 12 12">
<circle cx="3" cy="4" r="2" fill="red"/>
<rect x="6" y="1" width="4" height="3" fill="blue"/>
<polygon points="1,11 5,11 3,7" fill="green"/>
</svg>"""

SHAPES = (
    Primitive("circle", (3, 4, 2), "red"),
    Primitive("rect", (6, 1, 4, 3), "blue"),
    Primitive("polygon", (1, 11, 5, 11, 3, 7), "green"),
)


def test_code_is_read_as_it_is_written():
    assert svg.parse(CODE) == SHAPES
    assert svg.write(SHAPES) == CODE
    assert svg.parse(CODE.replace("\n", "  \n ")) == SHAPES
    assert svg.parse(CODE.replace("\n", "")) == SHAPES
    assert svg.parse(CODE.replace('cx="3" cy="4"', 'cy="4" cx="3"')) == SHAPES
    for split in domain.splits(SKETCH):
        for index in range(50):
            made = domain.specimen(SKETCH, split, index)
            assert svg.parse(svg.write(made.shapes)) == made.shapes


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("</svg>", "", "ends with"),
        ('viewBox="0 0 12 12"', "", "begins with"),
        ("<circle", "<ellipse", "is no element"),
        ('r="2" ', "", "needs the attributes cx, cy, r, fill"),
        ('r="2"', 'r="2" r="2"', "each once"),
        ('r="2"', 'r="2" onclick="run()"', "no other"),
        ('"red"', '"crimson"', "another fill"),
        ('cx="3"', 'cx="three"', "whole numbers"),
        ('cx="3"', 'cx="-3"', "whole numbers"),
        ('cx="3"', 'cx="³"', "whole numbers"),
        ('cx="3"', 'cx="13"', "beyond the edge"),
        ('r="2"', 'r="0"', "no area"),
        ("1,11 5,11 3,7", "1,11 5,11", "three or more corners"),
        ("1,11 5,11 3,7", "1,11 5,11 3,11", "no area"),
        ("<rect", "text <rect", "is no element"),
    ],
)
def test_code_outside_the_subset_is_named(old, new, problem):
    with pytest.raises(SvgError, match=problem):
        svg.parse(CODE.replace(old, new, 1))


def test_render_draws_each_color_where_the_code_says():
    labels = {color: 1 + i for i, color in enumerate(COLORS)}
    picture = svg.render(SHAPES)
    assert (picture.mode, picture.size) == ("L", (SIZE, SIZE))
    assert picture.getpixel((3 * UNIT, 4 * UNIT)) == labels["red"]
    assert picture.getpixel((3 * UNIT, UNIT)) == 0
    assert picture.getpixel((3 * UNIT, 10 * UNIT)) == labels["green"]
    assert picture.getpixel((UNIT + 2, 7 * UNIT + 2)) == 0
    corners = [(6 * UNIT, UNIT), (10 * UNIT - 1, 4 * UNIT - 1)]
    assert [picture.getpixel(corner) for corner in corners] == [labels["blue"]] * 2
    assert picture.getpixel((10 * UNIT, 4 * UNIT)) == 0


def test_what_comes_later_lies_on_top_and_the_edge_cuts():
    below, above = Primitive("rect", (0, 0, 6, 6), "red"), Primitive("circle", (0, 0, 3), "blue")
    picture = svg.render((below, above))
    assert picture.getpixel((2, 2)) == 1 + tuple(COLORS).index("blue")
    assert picture.getpixel((5 * UNIT, 5 * UNIT)) == 1 + tuple(COLORS).index("red")


def test_the_picture_shows_what_the_code_draws():
    """Well inside a shape the picture has its color; well outside, none of the colors."""
    for index in range(30):
        made = domain.specimen(SKETCH, "train", index)
        labels, picture = svg.render(made.shapes), SKETCH.draw(made)
        for y in range(2, SIZE, 5):
            for x in range(2, SIZE, 5):
                around = {labels.getpixel((x + dx, y + dy)) for dx in (-2, 0, 1) for dy in (-2, 0, 1)}
                if len(around) == 1:
                    (label,) = around
                    pixel = picture.getpixel((x, y))
                    assert (pixel in COLORS.values()) == (label > 0)
                    assert not label or pixel == tuple(COLORS.values())[label - 1]


def test_shapes_stand_apart_and_off_the_edge_in_reading_order():
    for split in domain.splits(SKETCH):
        for index in range(100):
            made = domain.specimen(SKETCH, split, index)
            for i, shape in enumerate(made.shapes):
                x1, y1, x2, y2 = shape.extent
                assert 1 <= x1 < x2 <= GRID - 1 and 1 <= y1 < y2 <= GRID - 1
                for other in made.shapes[:i]:
                    a1, b1, a2, b2 = other.extent
                    assert x2 < a1 or a2 < x1 or y2 < b1 or b2 < y1
            rows = [min((s.extent[1] + s.extent[3]) // 8, 2) for s in made.shapes]
            assert rows == sorted(rows)


def test_withheld_pairs_are_in_the_compositional_split_alone():
    assert {tag for _, tag in WITHHELD} == set(NAMES) and {color for color, _ in WITHHELD} == set(COLORS)
    for index in range(200):
        kinds = {(s.fill, s.tag) for s in domain.specimen(SKETCH, "train", index).shapes}
        assert not kinds & WITHHELD
        kinds = {(s.fill, s.tag) for s in domain.specimen(SKETCH, "compositional", index).shapes}
        assert kinds & WITHHELD


def test_the_more_split_has_one_shape_more():
    assert {len(domain.specimen(SKETCH, "more", i).shapes) for i in range(20)} == {max(NUMBERS) + 1}
    assert {len(domain.specimen(SKETCH, "train", i).shapes) for i in range(60)} == set(NUMBERS)


def test_answers_are_true():
    colors = 0
    for split in ("train", "paraphrase"):
        for index in range(200):
            made = domain.specimen(SKETCH, split, index)
            things = SKETCH.things(made)
            for q in domain.questions(SKETCH, split, index):
                match q.type:
                    case "sketch":
                        assert svg.parse(q.gpt()) == made.shapes and q.objects == things
                        assert q.human() == q.text
                    case "sketch_count":
                        assert int(q.answer) == len(made.shapes)
                    case "sketch_color":
                        colors += 1
                        (shape,) = (s for s in made.shapes if f" {NAMES[s.tag]} " in q.text)
                        assert (
                            q.answer == shape.fill and q.objects[0].name == f"{shape.fill} {NAMES[shape.tag]}"
                        )
    assert colors > 200


def test_the_first_caption_has_every_number_of_the_code_in_its_order():
    for index in range(50):
        made = domain.specimen(SKETCH, "train", index)
        told = [
            int(w)
            for w in SKETCH.captions(made)[0].replace(",", " ").replace(".", " ").split()
            if w.isdigit()
        ]
        assert told == [number for shape in made.shapes for number in shape.numbers]
