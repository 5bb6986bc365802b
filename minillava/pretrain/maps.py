"""Maps: a picture written out in words, cell by cell, and then what the stages say of pictures.

    empty  empty  empty  empty  empty    Much of what language models read is laid out: tables, columns,
    empty  empty  yellow first  U        drawings made of characters. So that tiny-Vicuna has met the like,
    empty  yellow 3      first  U        it reads the things of a picture as words in a grid, row by row,
    empty  empty  3      yellow second   each cell a word about what is there. One cell down is GRID words
    empty  empty  empty  empty  empty    on, as it will be among patches.

From a map it learns to collect what belongs together, to read in order, and to turn places into words and
numbers, in the very questions of the stages. What stage 1 is left to learn is to translate patches.
"""

import random

from transformers import PreTrainedTokenizerBase

from minillava.conversation import encode
from minillava.toybox import domain, mix, records
from minillava.toybox.domain import Domain, Thing
from minillava.toybox.elsewhere import ELSEWHERE
from minillava.toybox.mix import STAGE_2, Table
from minillava.toybox.scene import SIZE
from minillava.toybox.scenes import SCENES

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

LAID_OUT = tuple(
    row for row in STAGE_2 if row.kind not in ("text", "counting") and row.domain is not ELSEWHERE
)
"""What conversations are about: what stage 2 will ask about pictures. Counts are not among it: where things
touch, a map does not say how many there are, and 500 steps of guessing unlearned counts told in words."""


def words(one: Domain, made) -> list[tuple[str, ...]]:
    """What can be said about each thing of a picture in one word, or in one letter or digit."""
    if one is SCENES:
        return [(thing.size, thing.color, thing.shape) for thing in made.objects]
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


def layout(one: Domain, made, rng: random.Random) -> list[str]:
    """The map of a picture: GRID x GRID words, row by row; a thing repeats a word only after all others."""
    cells = [EMPTY] * GRID**2
    there = owners(one.things(made))
    for number, said in enumerate(words(one, made)):
        cut: list[str] = []
        for cell in (cell for cell, owner in enumerate(there) if owner == number and said):
            cut = cut or rng.sample(said, len(said))
            cells[cell] = cut.pop()
    return cells


def map_sample(
    table: Table,
    template: str,
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    split: str = "train",
    seed: int = 606,
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a stage's record `index`, with a map's words where its picture would be."""
    row = mix.share(table, "maps", index, seed)
    one = row.domain
    made = domain.specimen(one, split, index, seed)
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    turns = records.conversation(one, row.kind, split, index, seed)
    sample = encode(turns, tokenizer, template, True, GRID**2, max_length=512)
    cells = layout(one, made, random.Random(f"maps/{seed}/{index}"))
    # A letter's or digit's space is a token of its own, and stays out.
    tokens = (tokenizer(word, add_special_tokens=False).input_ids[-1] for word in cells)
    return [next(tokens) if i == placeholder else i for i in sample.input_ids], list(sample.labels)
