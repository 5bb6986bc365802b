"""Signs: what is written can be read, and nothing but reading tells it."""

import random
import re
from itertools import combinations

import pytest
from PIL import ImageChops

from minillava.toybox import canvas, domain
from minillava.toybox.glyphs import STROKES, glyph
from minillava.toybox.signs import CHARACTERS, LENGTHS, SIGNS, WITHHELD, layers


def test_characters_can_be_told_apart_at_the_size_they_have():
    def stencil(character):
        drawn = glyph(character, 8, 16, 2.9, 0, canvas.INK)
        sheet = canvas.Image.new("L", (24, 24))
        sheet.paste(drawn.image.getchannel("A"), (drawn.left, drawn.top))
        return sheet

    def ink(picture):
        return sum(v * n for v, n in enumerate(picture.histogram()))

    drawn = {character: stencil(character) for character in CHARACTERS}
    for a, b in combinations(CHARACTERS, 2):
        apart = ink(ImageChops.difference(drawn[a], drawn[b]))
        assert apart > 0.35 * max(ink(drawn[a]), ink(drawn[b])), (a, b)


def test_the_characters_leave_out_what_looks_alike():
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 20
    assert set(CHARACTERS) <= set(STROKES)
    for group in ("0OQ", "1I", "5S", "8B", "VY", "FE", "RP", "Z2", "HMNW", "A"):
        assert len(set(group) & set(CHARACTERS)) <= (0 if group == "A" else 1)


def test_a_character_without_strokes_is_named():
    with pytest.raises(ValueError, match="'&'"):
        glyph("&", 8, 16, 2.9, 0, canvas.INK)


@pytest.mark.parametrize("split", domain.splits(SIGNS))
def test_characters_stand_on_the_board_in_order_and_do_not_touch(split):
    for index in range(100):
        sign = domain.specimen(SIGNS, split, index)
        board, *characters = SIGNS.things(sign)
        assert [thing.name[-1] for thing in characters] == list(sign.text)
        x1, y1, x2, y2 = board.box
        edge = x1
        for thing in characters:
            a1, b1, a2, b2 = thing.box
            assert edge <= a1 and x1 + 2 < a1 and a2 < x2 - 2 and y1 + 2 < b1 and b2 < y2 - 2
            assert b2 - b1 >= 12
            edge = a2


def test_withheld_places_are_in_the_compositional_split_alone():
    def withheld(sign):
        return any((c, place) in WITHHELD for place, c in enumerate(sign.text))

    assert {c for c, _ in WITHHELD} == set(CHARACTERS)
    for index in range(300):
        assert not withheld(domain.specimen(SIGNS, "train", index))
        assert withheld(domain.specimen(SIGNS, "compositional", index))
    shown = {(c, p) for i in range(800) for p, c in enumerate(domain.specimen(SIGNS, "train", i).text)}
    assert shown == {(c, p) for c in CHARACTERS for p in range(max(LENGTHS))} - WITHHELD


def test_the_more_split_has_one_character_more():
    assert {len(domain.specimen(SIGNS, "more", i).text) for i in range(30)} == {max(LENGTHS) + 1}
    assert {len(domain.specimen(SIGNS, "train", i).text) for i in range(60)} == set(LENGTHS)


def test_no_text_is_both_trained_and_tested():
    texts = {
        split: {domain.specimen(SIGNS, split, i).text for i in range(1000)} for split in ("train", "test")
    }
    assert not texts["train"] & texts["test"]


def test_answers_are_true():
    places = {"first": 0, "second": 1, "third": 2, "last": -1}
    for split in ("train", "paraphrase"):
        for index in range(300):
            sign = domain.specimen(SIGNS, split, index)
            board, *characters = SIGNS.things(sign)
            for q in domain.questions(SIGNS, split, index):
                match q.type:
                    case "sign":
                        assert q.answer == sign.text and q.objects == tuple(characters)
                    case "sign_character":
                        (place,) = (p for word, p in places.items() if f" {word} " in q.text)
                        assert q.answer == sign.text[place] and q.objects == (characters[place],)
                    case "sign_exist":
                        (sought,) = (w for w in q.text.rstrip("?").split() if w in set(CHARACTERS))
                        assert (q.answer == "yes") == (sought in sign.text) == bool(q.objects)
                        assert {thing.name[-1] for thing in q.objects} <= {sought}
                    case "sign_count":
                        assert int(q.answer) == len(sign.text) == len(q.objects)
                    case "sign_color":
                        assert q.answer == sign.color and q.objects == (board,)


def test_the_first_caption_says_what_is_written():
    sign = domain.specimen(SIGNS, "train", 3)
    assert sign.text in SIGNS.captions(sign)[0] and sign.color in SIGNS.captions(sign)[0]
    assert len(SIGNS.captions(sign)) == 5


def test_a_telling_names_each_characters_place_in_any_order():
    places = ("first", "second", "third", "fourth", "fifth", "sixth")
    for split in ("train", "more"):
        sign = domain.specimen(SIGNS, split, 3)
        told = {SIGNS.telling(sign, random.Random(i)) for i in range(9)}
        assert len(told) > 3
        for text in told:
            said = dict(re.findall(r"The (\w+)(?: and last)? character is (\w)\.", text))
            assert "".join(said[place] for place in places[: len(said)]) == sign.text
            assert f"and last character is {sign.text[-1]}." in text
            assert f"The sign is {sign.color}." in text


def test_speckles_differ_from_board_to_board():
    boards = {
        layer.image.tobytes()
        for i in range(40)
        for layer in layers(domain.specimen(SIGNS, "train", i))
        if layer.thing == 0
    }
    assert len(boards) > 35
