"""Scores of SVG code: worked out by hand on small cases."""

import itertools

import pytest

from minillava.evaluation.sketch import box_iou, primitive_f1, rendered_iou, sketch_score
from minillava.toybox import domain, svg
from minillava.toybox.sketch import SKETCH
from minillava.toybox.svg import Primitive, SvgError

SQUARE = Primitive("rect", (2, 2, 4, 4), "red")
CIRCLE = Primitive("circle", (9, 9, 2), "blue")


def test_the_true_code_scores_one_and_no_code_zero():
    for index in range(20):
        code = svg.write(domain.specimen(SKETCH, "train", index).shapes)
        score = sketch_score(code, code)
        assert (score.parses, score.f1, score.iou) == (True, 1.0, 1.0)
    score = sketch_score("<svg>", svg.write((SQUARE,)))
    assert (score.parses, score.f1, score.iou) == (False, 0.0, 0.0)
    with pytest.raises(SvgError):
        sketch_score(svg.write((SQUARE,)), "")


def test_box_iou():
    assert box_iou((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert box_iou((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 4, 4), (4, 0, 6, 4)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_a_shape_counts_if_it_has_the_kind_the_color_and_about_the_box():
    both = (SQUARE, CIRCLE)
    assert primitive_f1(both, both) == 1
    assert primitive_f1((CIRCLE, SQUARE), both) == 1
    assert primitive_f1((SQUARE,), both) == pytest.approx(2 / 3)
    assert primitive_f1((SQUARE, SQUARE), (SQUARE,)) == pytest.approx(2 / 3)
    assert primitive_f1((), both) == 0 and primitive_f1((), ()) == 1
    assert primitive_f1((SQUARE.moved(1, 0),), (SQUARE,)) == 1  # IoU 12 / 20
    assert primitive_f1((SQUARE.moved(2, 0),), (SQUARE,)) == 0  # IoU 8 / 24
    assert primitive_f1((Primitive("rect", (2, 2, 4, 4), "blue"),), (SQUARE,)) == 0
    assert primitive_f1((Primitive("circle", (4, 4, 2), "red"),), (SQUARE,)) == 0


def test_each_shape_is_matched_once_and_with_the_nearest():
    near, far = SQUARE, SQUARE.moved(1, 0)
    assert primitive_f1((near, far), (near, far)) == 1
    assert primitive_f1((near, near), (near, far)) == 1
    assert primitive_f1((near,), (near, far)) == pytest.approx(2 / 3)


def test_pixels_count_if_they_have_the_color():
    assert rendered_iou((SQUARE,), (SQUARE,)) == 1
    assert rendered_iou((SQUARE.moved(2, 0),), (SQUARE,)) == pytest.approx(1 / 3)
    assert rendered_iou((Primitive("rect", (2, 2, 4, 4), "blue"),), (SQUARE,)) == 0
    assert rendered_iou((), (SQUARE,)) == 0 and rendered_iou((), ()) == 1
    assert rendered_iou((SQUARE,), (SQUARE, SQUARE.moved(5, 5))) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "element",
    [
        '<polygon points="2,2 12,10 2,2" fill="green"/>',  # a corner twice
        '<polygon points="3,2 6,8 8,12" fill="green"/>',  # on one line
        f'<circle cx="{"9" * 5000}" cy="2" r="1" fill="green"/>',
    ],
)
def test_a_reply_that_draws_nothing_or_beyond_all_bounds_does_not_parse(element):
    code = f"{svg.OPEN}\n{element}\n{svg.CLOSE}"
    with pytest.raises(SvgError):
        svg.parse(code)
    assert not sketch_score(code, svg.write((SQUARE,))).parses


def test_whatever_parses_can_be_drawn():
    corners = [(x, y) for x in range(0, 13, 3) for y in range(0, 13, 4)]
    for three in itertools.combinations(corners, 3):
        points = " ".join(f"{x},{y}" for x, y in three)
        try:
            made = svg.parse(f'{svg.OPEN}\n<polygon points="{points}" fill="red"/>\n{svg.CLOSE}')
        except SvgError as error:
            assert "no area" in str(error)
        else:
            assert svg.render(made).size == (96, 96)
