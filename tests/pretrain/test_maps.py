"""maps.py: pictures written out in words, cell by cell."""

import random

import pytest
from transformers import AutoTokenizer

from minillava.config import PRESETS
from minillava.conversation import encode
from minillava.pretrain.maps import EMPTY, GRID, LAID_OUT, layout, map_sample, owners, words
from minillava.toybox import domain, mix, records
from minillava.toybox.domain import Thing
from minillava.toybox.mix import STAGE_1
from minillava.toybox.scene import SIZE

SIDE = SIZE // GRID
DOMAINS = (mix.SCENES, mix.SIGNS, mix.CREATURES, mix.LESSONS, mix.SKETCH)


def test_a_cell_belongs_to_the_thing_of_which_it_shows_most():
    board, letter = Thing("red sign", (0, 0, SIZE, 2 * SIDE)), Thing("character K", (SIDE, 0, 2 * SIDE, SIDE))
    sliver = Thing("star", (0, 4 * SIDE, SIDE // 2, 4 * SIDE + 1))
    found = owners((board, letter, sliver))
    assert found[: 2 * GRID] == [0, 1, *[0] * (2 * GRID - 2)] and set(found[2 * GRID :]) == {None}


@pytest.mark.parametrize("one", DOMAINS, ids=lambda one: one.name)
def test_a_map_says_what_is_where(one):
    for index in range(20):
        made = domain.specimen(one, "train", index)
        said, there = words(one, made), owners(one.things(made))
        shown = layout(one, made, random.Random(index))
        assert len(shown) == len(there) == GRID**2
        for word, owner in zip(shown, there, strict=True):
            assert word in (said[owner] if owner is not None and said[owner] else (EMPTY,))
        for number, known in enumerate(said):  # nothing is said twice before all is said once
            cells = [w for w, owner in zip(shown, there, strict=True) if owner == number]
            assert len(set(cells)) == min(len(cells), len(known))


def test_signs_are_read_from_left_to_right():
    for index in range(20):
        made = domain.specimen(mix.SIGNS, "train", index)
        there = owners(mix.SIGNS.things(made))
        numbers = range(1, len(made.text) + 1)
        columns = [[i % GRID for i, owner in enumerate(there) if owner == n] for n in numbers]
        assert all(columns) and columns == sorted(columns, key=lambda c: sum(c) / len(c))


@pytest.mark.parametrize("table, template", [(STAGE_1, "plain"), (LAID_OUT, "v1")])
def test_a_map_stands_where_the_patches_of_the_stages_will(tokenizer, table, template):
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    for index in range(12):
        row = mix.share(table, "maps", index, 606)
        turns = records.record(row.domain, row.kind, "train", index, 606)["conversations"]
        wanted = encode(turns, tokenizer, template, True, GRID**2, max_length=512)
        ids, labels = map_sample(table, template, index, tokenizer)
        assert labels == list(wanted.labels) and placeholder not in ids
        assert [i for i, w in zip(ids, wanted.input_ids, strict=True) if w != placeholder] == [
            w for w in wanted.input_ids if w != placeholder
        ]
        assert ids == map_sample(table, template, index, tokenizer)[0]


def test_told_texts_blurs_and_counts_have_no_map():
    assert {row.kind for row in LAID_OUT}.isdisjoint({"text", "counting"}) and len(LAID_OUT) == 11


@pytest.mark.parametrize("one", DOMAINS, ids=lambda one: one.name)
def test_every_word_of_a_map_is_one_token(one):
    tokenizer = AutoTokenizer.from_pretrained(PRESETS["tiny"].language_model)
    for index in range(20):
        for word in {word for said in words(one, domain.specimen(one, "train", index)) for word in said}:
            pieces = tokenizer.tokenize(word)
            assert len([piece for piece in pieces if piece != "▁"]) == 1, word
