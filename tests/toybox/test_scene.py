"""Scenes: deterministic, exact boxes, splits that share nothing."""

import random
from dataclasses import replace

import pytest
from PIL import ImageChops

from minillava.toybox import records
from minillava.toybox.draw import draw
from minillava.toybox.scene import MAX_OBJECTS, SIZES, WITHHELD, trained_kinds
from minillava.toybox.shapes import SHAPES, sprite


def test_an_item_is_the_same_whatever_was_asked_for_before():
    alone = records.scene("train", 7, seed=3)
    for i in (0, 9, 7):
        again = records.scene("train", i, seed=3)
    again = records.scene("train", 7, seed=3)
    assert again == alone
    assert draw(again).tobytes() == draw(alone).tobytes()
    assert records.questions("train", 7, seed=3) == records.questions("train", 7, seed=3)
    assert records.scene("train", 7, seed=4) != alone


def test_boxes_hold_exactly_the_pixels_of_their_object():
    for index in range(60):
        scene = records.scene("train", index)
        for thing in scene.objects:
            others = tuple(o for o in scene.objects if o is not thing)
            without = draw(replace(scene, objects=others))
            changed = ImageChops.difference(draw(scene), without).getbbox()
            assert changed == thing.box, f"scene {index}: {thing}"


def test_objects_stand_inside_the_picture_and_do_not_touch():
    for index in range(200):
        boxes = [o.box for o in records.scene("train", index).objects]
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96
            for a1, b1, a2, b2 in boxes[:i]:
                assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1


def test_sizes_can_be_told_apart():
    assert min(SIZES["large"]) >= 1.4 * max(SIZES["small"])


def test_no_scene_is_in_two_splits():
    keys = {
        split: {records.scene(split, i).key() for i in range(400)}
        for split in ("train", "val", "test", "compositional", "more")
    }
    names = list(keys)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not keys[a] & keys[b], (a, b)


def test_withheld_pairs_are_in_the_compositional_split_alone():
    assert {shape for _, shape in WITHHELD} == set(SHAPES)
    for index in range(200):
        kinds = {(o.color, o.shape) for o in records.scene("train", index).objects}
        assert not kinds & WITHHELD
        kinds = {(o.color, o.shape) for o in records.scene("compositional", index).objects}
        assert kinds & WITHHELD
    assert len(trained_kinds()) == 40


def test_the_more_split_shows_one_object_more():
    assert all(len(records.scene("more", i).objects) == MAX_OBJECTS + 1 for i in range(20))
    assert max(len(records.scene("train", i).objects) for i in range(200)) == MAX_OBJECTS


def test_a_shape_or_split_that_is_not_there_is_named_with_the_choice():
    with pytest.raises(ValueError, match="'hexagon'.*circle"):
        sprite("hexagon", 20, 0)
    with pytest.raises(ValueError, match="'dev'.*train"):
        records.scene("dev", 0)


def test_a_thousand_pictures_do_not_collide():
    rng = random.Random(0)
    seen = {draw(records.scene("train", rng.randrange(10**9))).tobytes() for _ in range(300)}
    assert len(seen) == 300
