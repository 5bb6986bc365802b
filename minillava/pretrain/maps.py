"""Maps: a picture written out in symbols, cell by cell, and then what the stages say of pictures.

    .    .    .          .          .      A model that is to read patches reads cells first. Each is a heap
    .    .    small      small      .      of all that is said of the thing in it, and of where that thing's
    .    .    red star   red star   .      edges are, in numbers; one cell down is GRID positions on, as it
    .    .    small      small      .      will be among patches. Cells of nothing hold the word "empty".
    .    .    red star   red star   .      Nothing in a map is a picture: its reader has still never seen one.

From maps tiny-Vicuna learns to look up what lies in a grid, to read in order, and to turn edges into digits,
in the very questions of the stages. What stage 1 is left to learn is to translate patches.
"""

import random

from transformers import PreTrainedTokenizerBase

from minillava.config import IGNORE_INDEX
from minillava.conversation import encode
from minillava.pretrain.drills import tallies
from minillava.pretrain.sample import Heap, Sample, replied
from minillava.toybox import domain, mix, records
from minillava.toybox.crowds import CROWDS
from minillava.toybox.domain import Domain, Thing
from minillava.toybox.elsewhere import ELSEWHERE
from minillava.toybox.mix import STAGE_2, Share, Table
from minillava.toybox.regions import written
from minillava.toybox.scene import SIZE
from minillava.toybox.scenes import SCENES
from minillava.toybox.sketch import SKETCH

GRID = 8
"""Rows and columns of a map: as many as tiny-CLIP has patches."""

EMPTY = "empty"
"""The word of a cell with nothing in it."""

COVERED = 0.08
"""A thing that covers a smaller share of a cell is not in it: a sign's character then still fills two."""

UNSAID = frozenset(
    "a an and at character characters faces has in is it looks magnet of on says sign so the to".split()
)
"""Words of facts that say nothing by themselves."""

LAID_OUT = tuple(row for row in STAGE_2 if row.kind != "text" and row.domain is not ELSEWHERE)
"""What conversations are about: what stage 2 will ask about pictures."""

NUMBERS: Table = (
    Share(SCENES, "region", 3),
    Share(SKETCH, "questions", 4),
    Share(CROWDS, "questions", 4),
)
"""Conversations in which what is there becomes numbers: they take more practice than their share."""

SKETCHES: Table = (Share(SKETCH, "detail", 1),)
"""Captions of sketches, the only ones with numbers: from them a projector learns to write edges."""


def words(one: Domain, made) -> list[tuple[str, ...]]:
    """What can be said about each thing of a picture in one word, or in one letter or digit.

    But for sketches' numbers: where they stood beside the edges that they follow from, 1,950 steps taught to
    choose among them, and without them no code came out right.
    """
    if one in (SCENES, CROWDS):
        return [(thing.size, thing.color, thing.shape) for thing in made.objects]
    if one is SKETCH:
        return [tuple(thing.name.split()) for thing in one.things(made)]
    said = domain.facts(one, made)[1:]
    names = [thing.name for thing in one.things(made)]
    texts = [f"{name} {' '.join(facts)}" for name, facts in zip(names, said, strict=True)]
    found = [{*text.replace(",", " ").split()} - UNSAID for text in texts]
    return [tuple(sorted(word for word in said if len(word) == 1 or word.islower())) for said in found]


def owners(things: tuple[Thing, ...]) -> list[int | None]:
    """For each cell, row by row, the thing of which it shows the largest share, or None."""
    found: list[int | None] = []
    side = SIZE / GRID
    for cell in range(GRID * GRID):
        left, top = cell % GRID * side, cell // GRID * side
        best: tuple[float, int | None] = (0.0, None)
        for number, thing in enumerate(things):
            x1, y1, x2, y2 = thing.box
            across = max(0, min(x2, left + side) - max(x1, left))
            common = across * max(0, min(y2, top + side) - max(y1, top))
            if common >= COVERED * side**2:
                best = max(best, (common / ((x2 - x1) * (y2 - y1)), number), key=lambda pair: pair[0])
        found.append(best[1])
    return found


def layout(one: Domain, made, tokenizer: PreTrainedTokenizerBase, first: int = 0) -> Sample:
    """The map of a picture: GRID * GRID positions, row by row; its heaps are numbered from `first` on.

    A thing's cells each say all that is said of it, the token one word and the heap the others.
    """

    def token(word: str) -> int:
        # A letter's or digit's space is a token of its own, and stays out.
        return tokenizer(word, add_special_tokens=False).input_ids[-1]

    things = one.things(made)
    said = [tuple(token(word) for word in found) for found in words(one, made)]
    ids, heaps = [], []
    for cell, owner in enumerate(owners(things)):
        word, *others = (said[owner] if owner is not None else ()) or (token(EMPTY),)
        ids.append(word)
        if owner is not None:
            x1, y1, x2, y2 = (edge / SIZE for edge in things[owner].box)
            heaps.append(Heap(first + cell, tuple(others), (x1, y1, x2, y2)))
    return Sample(ids, [IGNORE_INDEX] * len(ids), tuple(heaps))


def edge_drill(
    index: int, tokenizer: PreTrainedTokenizerBase, split: str = "train", seed: int = 808
) -> Sample:
    """The map of a scene, then the box of each object that has a name of its own, in shorthand.

    Looking up edges and writing them in digits is one habit, and conversations show it too seldom: in 100
    steps of conversations about boxes alone it was not begun; after 150 steps of these drills an edge was
    off by 5.5 pixels, after 300 by 2.6 (guessing: 17; with edges written in twice as many waves).
    """
    scene = domain.specimen(SCENES, split, index, seed)
    names = [" ".join(said) for said in words(SCENES, scene)]
    boxes = [written(thing.box) for thing in scene.objects]
    (stop,) = tokenizer(".", add_special_tokens=False).input_ids[-1:]
    return _drill(SCENES, scene, _named(names, boxes, f"edges/{seed}/{index}"), tokenizer, stop)


def code_drill(
    index: int, tokenizer: PreTrainedTokenizerBase, split: str = "train", seed: int = 808
) -> Sample:
    """The map of a sketch, then the line of SVG of each shape that has a name of its own."""
    sketch = domain.specimen(SKETCH, split, index, seed)
    names = [thing.name for thing in SKETCH.things(sketch)]
    lines = [shape.code() for shape in sketch.shapes]
    return _drill(SKETCH, sketch, _named(names, lines, f"codes/{seed}/{index}"), tokenizer)


def tally_drill(index: int, tokenizer: PreTrainedTokenizerBase, seed: int = 808) -> Sample:
    """The map of a crowd, and its tallies.

    A map says how many there are only to who tells its things apart by their edges, for most fill several
    cells. Where cells were single words, 500 steps of guessing unlearned even counts told in words.
    """
    crowd = domain.specimen(CROWDS, "train", index, seed)
    asked = tallies(crowd, random.Random(f"tallies/{seed}/{index}"))
    return _drill(CROWDS, crowd, [(f"\n{question}", number) for question, number in asked], tokenizer)


def _named(names: list[str], replies: list[str], seed: str) -> list[tuple[str, str]]:
    """In any order, each name that is there once, and the reply to it."""
    pairs = [(f"\nThe {name}:", reply) for name, reply in zip(names, replies, strict=True)]
    pairs = [pair for pair, name in zip(pairs, names, strict=True) if names.count(name) == 1]
    random.Random(seed).shuffle(pairs)
    return pairs


def _drill(
    one: Domain,
    made,
    pairs: list[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    stop: int | None = None,
) -> Sample:
    """The map of a picture, then questions and replies, as `sample.sheet` has them."""
    shown = layout(one, made, tokenizer, first=1)
    ids, labels = [tokenizer.bos_token_id, *shown.ids], [IGNORE_INDEX, *shown.labels]
    return Sample(*replied(ids, labels, pairs, tokenizer, stop), shown.heaps)


def map_sample(
    table: Table,
    template: str,
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    split: str = "train",
    seed: int = 606,
) -> Sample:
    """A stage's record `index`, with a map where its picture would be."""
    row = mix.share(table, "maps", index, seed)
    made = domain.specimen(row.domain, split, index, seed)
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    turns = records.conversation(row.domain, row.kind, split, index, seed)
    sample = encode(turns, tokenizer, template, True, GRID**2, max_length=512)
    first = sample.input_ids.index(placeholder)
    shown = layout(row.domain, made, tokenizer, first)
    ids = [*sample.input_ids[:first], *shown.ids, *sample.input_ids[first + GRID**2 :]]
    return Sample(ids, list(sample.labels), shown.heaps)
