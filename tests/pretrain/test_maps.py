"""maps.py: pictures written out in symbols, cell by cell."""

import re

import pytest
from transformers import AutoTokenizer

from minillava.config import IGNORE_INDEX, PRESETS
from minillava.conversation import encode
from minillava.pretrain.maps import (
    EMPTY,
    GRID,
    LAID_OUT,
    NUMBERS,
    SKETCHES,
    code_drill,
    edge_drill,
    layout,
    map_sample,
    owners,
    tally_drill,
    words,
)
from minillava.toybox import domain, mix, records
from minillava.toybox.domain import Thing
from minillava.toybox.mix import STAGE_1
from minillava.toybox.regions import written
from minillava.toybox.scene import SIZE

SIDE = SIZE // GRID
DOMAINS = (mix.SCENES, mix.SIGNS, mix.CREATURES, mix.LESSONS, mix.SKETCH)


@pytest.fixture(scope="module")
def toy_tokenizer():
    return AutoTokenizer.from_pretrained(PRESETS["tiny"].language_model)


def test_a_cell_belongs_to_the_thing_of_which_it_shows_most():
    board, letter = Thing("red sign", (0, 0, SIZE, 2 * SIDE)), Thing("character K", (SIDE, 0, 2 * SIDE, SIDE))
    sliver = Thing("star", (0, 4 * SIDE, SIDE // 2, 4 * SIDE + 1))
    found = owners((board, letter, sliver))
    assert found[: 2 * GRID] == [0, 1, *[0] * (2 * GRID - 2)] and set(found[2 * GRID :]) == {None}


@pytest.mark.parametrize("one", DOMAINS, ids=lambda one: one.name)
def test_a_map_says_what_is_where(one, toy_tokenizer):
    for index in range(20):
        made = domain.specimen(one, "train", index)
        things, said, there = one.things(made), words(one, made), owners(one.things(made))
        shown = layout(one, made, toy_tokenizer, first=7)
        assert len(shown.ids) == len(there) == GRID**2 and set(shown.labels) == {IGNORE_INDEX}
        heaps = {heap.position - 7: heap for heap in shown.heaps}
        for cell, (token, owner) in enumerate(zip(shown.ids, there, strict=True)):
            if owner is None:
                assert cell not in heaps and toy_tokenizer.decode(token) == EMPTY
                continue
            held = [token, *heaps[cell].words]
            assert {toy_tokenizer.decode(word) for word in held} == set(said[owner] or (EMPTY,))
            assert len(held) == max(1, len(said[owner]))
            assert [edge * SIZE for edge in heaps[cell].edges] == pytest.approx(things[owner].box)


def test_a_drill_asks_for_the_box_of_what_has_a_name_of_its_own(toy_tokenizer):
    for index in range(20):
        scene = domain.specimen(mix.SCENES, "train", index, 808)
        told = [(f"{thing.size} {thing.color} {thing.shape}", thing) for thing in scene.objects]
        names = [name for name, _ in told]
        sample = edge_drill(index, toy_tokenizer)
        text = toy_tokenizer.decode(sample.ids[1 + GRID**2 :])
        asked = dict(line.strip(" .\n").split(": ") for line in text.split("The ")[1:])
        assert asked == {name: written(thing.box) for name, thing in told if names.count(name) == 1}
        learned = toy_tokenizer.decode([label for label in sample.labels if label != IGNORE_INDEX])
        assert learned.split() == " ".join(asked.values()).split()


def test_a_drill_asks_for_the_code_of_what_has_a_name_of_its_own(toy_tokenizer):
    for index in range(20):
        sketch = domain.specimen(mix.SKETCH, "train", index, 808)
        names = [thing.name for thing in mix.SKETCH.things(sketch)]
        sample = code_drill(index, toy_tokenizer)
        text = toy_tokenizer.decode(sample.ids[1 + GRID**2 :])
        asked = dict(line.strip(" </s>\n").split(": <") for line in text.split("The ")[1:])
        told = zip(names, sketch.shapes, strict=True)
        assert asked == {name: shape.code().strip("</>") for name, shape in told if names.count(name) == 1}
        learned = [label for label in sample.labels if label != IGNORE_INDEX]
        assert learned.count(toy_tokenizer.eos_token_id) == len(asked)


def test_a_tally_asks_how_many_a_map_shows(toy_tokenizer):
    asked = 0
    for index in range(40):
        sample = tally_drill(index, toy_tokenizer)
        shown = [({sample.ids[heap.position], *heap.words}, heap.edges) for heap in sample.heaps]
        told = toy_tokenizer.decode(sample.ids[1 + GRID**2 :])
        for question, color, number in re.findall(r"\n(.* (red|blue|green) objects.*?\?) ?(\d)", told):
            (word,) = toy_tokenizer(color, add_special_tokens=False).input_ids[-1:]
            assert number == str(len({edges for words, edges in shown if word in words})), question
            asked += 1
        learned = [label for label in sample.labels if label != IGNORE_INDEX]
        assert {*toy_tokenizer.decode(learned).replace("</s>", " ").split()} <= {*"012345"}
    assert asked > 20


def test_a_sketchs_map_has_no_number_but_its_edges(toy_tokenizer):
    for index in range(20):
        made = domain.specimen(mix.SKETCH, "train", index)
        assert not {*"0123456789"} & {word for said in words(mix.SKETCH, made) for word in said}
        assert layout(mix.SKETCH, made, toy_tokenizer).heaps


def test_signs_are_read_from_left_to_right():
    for index in range(20):
        made = domain.specimen(mix.SIGNS, "train", index)
        there = owners(mix.SIGNS.things(made))
        numbers = range(1, len(made.text) + 1)
        columns = [[i % GRID for i, owner in enumerate(there) if owner == n] for n in numbers]
        assert all(columns) and columns == sorted(columns, key=lambda c: sum(c) / len(c))


@pytest.mark.parametrize(
    "table, template", [(STAGE_1, "plain"), (SKETCHES, "plain"), (LAID_OUT, "v1"), (NUMBERS, "v1")]
)
def test_a_map_stands_where_the_patches_of_the_stages_will(tokenizer, table, template):
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    for index in range(12):
        row = mix.share(table, "maps", index, 606)
        turns = records.record(row.domain, row.kind, "train", index, 606)["conversations"]
        wanted = encode(turns, tokenizer, template, True, GRID**2, max_length=512)
        ids, labels, heaps = map_sample(table, template, index, tokenizer)
        assert labels == list(wanted.labels) and placeholder not in ids
        positions = [i for i, w in enumerate(wanted.input_ids) if w == placeholder]
        assert heaps and {heap.position for heap in heaps} <= set(positions)
        assert [i for i, w in zip(ids, wanted.input_ids, strict=True) if w != placeholder] == [
            w for w in wanted.input_ids if w != placeholder
        ]
        assert ids == map_sample(table, template, index, tokenizer)[0]


def test_told_texts_and_blurs_have_no_map():
    assert len(LAID_OUT) == 12 and "text" not in {row.kind for row in LAID_OUT}
    assert "elsewhere" not in {row.domain.name for row in LAID_OUT}


@pytest.mark.parametrize("one", DOMAINS, ids=lambda one: one.name)
def test_every_word_of_a_map_is_one_token(one, toy_tokenizer):
    for index in range(20):
        for word in {word for said in words(one, domain.specimen(one, "train", index)) for word in said}:
            pieces = toy_tokenizer.tokenize(word)
            assert len([piece for piece in pieces if piece != "▁"]) == 1, word
