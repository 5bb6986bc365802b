"""Toybox pictures in which it is known what each word is about, and where a model looked at those words.

Three kinds of rows are looked at, because evidence need not flow where one expects it: a word of the question
that names an object (the row of the word itself), a word of the dense caption (the row that predicts it), and
the answer (the row that predicts its first token). R candidate rows, L layers, H heads.
"""

import io
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from minillava.attention import AnswerMaps, answer_maps
from minillava.evaluation.metrics import normalise_answer
from minillava.images import PatchGeometry
from minillava.model import MiniLlava
from minillava.passage import passage
from minillava.toybox import records
from minillava.toybox.records import DESCRIBE


@dataclass(frozen=True)
class Sight:
    """One picture, a question about one of its objects, and one about another.

    Attributes:
        asked: a row of `toybox.store.EVALUATION_FEATURES` whose one reference names its one box.
        also: a second such row with another box; None if there is none.
        seed: for what is drawn by lot about this picture.
    """

    asked: dict
    also: dict | None
    seed: int

    @property
    def image(self) -> bytes:
        return self.asked["image"]["bytes"]

    @property
    def things(self) -> list[tuple[str, list[float]]]:
        """What is in the picture: ("red star", box in pixels), in the order of the caption."""
        sides = Image.open(io.BytesIO(self.image)).size * 2
        return [
            (thing["category"], [share * side for share, side in zip(thing["bbox"], sides, strict=True)])
            for thing in self.asked["instances"]
        ]

    def others(self, box: list[float]) -> list[list[float]]:
        """Boxes of all objects but the one in `box`; instances are rounded to a thousandth of the edge."""
        return [there for _, there in self.things if np.abs(np.subtract(there, box)).max() > 1]


def sights(rows: Iterable[dict]) -> Iterator[Sight]:
    """Every picture of evaluation rows that has a question about one object, named by words."""
    pictures = groupby(rows, key=lambda row: row["image"]["bytes"])
    for index, (_, questions) in enumerate(pictures):
        clear = [row for row in questions if len(row["references"]) == len(row["boxes"]) == 1]
        if clear:
            also = next((row for row in clear if row["boxes"] != clear[0]["boxes"]), None)
            yield Sight(clear[0], also, index)


def toybox_sights(split: str, pictures: int, seed: int) -> list[Sight]:
    """`pictures` sights of a Toybox split, drawn anew."""
    found = sights(records.evaluation_records(split, 2 * pictures, seed))
    return [sight for _, sight in zip(range(pictures), found, strict=False)]


@dataclass(frozen=True)
class Look:
    """Where the candidate rows of one word looked.

    Attributes:
        maps: [R, L, H, grid, grid].
        cover, others: the shares of each patch inside the word's object, and inside each other object.
        right: whether the answer, or the predicted word, was right.
        by_place: whether the words name the object by where it is ("object at the left"), not by its looks.
    """

    maps: np.ndarray
    cover: np.ndarray
    others: list[np.ndarray]
    right: bool
    by_place: bool = False


REFERRING = ("first token", "last token", "the one after")
"""Candidate rows of a referring word. A later row has read all of the words, and may look only then."""

PREDICTING = ("the row before", "the word itself")
"""Candidate rows of a word of a caption."""


@dataclass(frozen=True)
class Looks:
    """A model's looks at the same sights, one look each; `also` only where a sight has a second question."""

    word: list[Look]
    answer: list[Look]
    also: list[Look | None]
    color: list[Look]
    shape: list[Look]


def look(model: MiniLlava, seen: list[Sight]) -> Looks:
    """Ask the questions of all sights, say the true captions, and keep where the words looked."""
    found = Looks([], [], [], [], [])
    for sight in tqdm(seen, desc="looking", unit=" pictures"):
        maps = answer_maps(model, sight.image, sight.asked["question"], max_new_tokens=8)
        right = normalise_answer(maps.answer) == normalise_answer(sight.asked["answer"])
        found.word.append(_look(sight, sight.asked, maps, _referring(maps, sight.asked), right))
        found.answer.append(_look(sight, sight.asked, maps, maps.prompt.maps[-1:], right))
        found.also.append(None)
        if sight.also:
            again = answer_maps(model, sight.image, sight.also["question"], max_new_tokens=1)
            found.also[-1] = _look(sight, sight.also, again, _referring(again, sight.also), right=False)
        color, shape = _caption(model, sight)
        found.color.append(color)
        found.shape.append(shape)
    return found


def _look(sight: Sight, row: dict, maps: AnswerMaps, rows: np.ndarray, right: bool) -> Look:
    (box,) = row["boxes"]
    others = [maps.geometry.cells(other) for other in sight.others(box)]
    return Look(rows, maps.geometry.cells(box), others, right, by_place=" at the " in row["references"][0])


def _referring(maps: AnswerMaps, row: dict) -> np.ndarray:
    """The maps of the candidate rows of REFERRING."""
    at = maps.prompt.find(row["references"][0])
    return maps.prompt.maps[[at[0], at[-1], at[-1] + 1]]


def _caption(model: MiniLlava, sight: Sight) -> tuple[Look, Look]:
    """Looks of the color's and the shape's word of an object drawn by lot, while the true caption is said."""
    said = passage(model, sight.image, DESCRIBE, answer=sight.asked["captions"][0])
    chosen = random.Random(sight.seed).randrange(len(sight.things))
    after = said.start
    for name, _ in sight.things[: chosen + 1]:
        where = said.find(name, after)
        after = where[-1] + 1
    name, box = sight.things[chosen]
    color, shape = name.split()
    words = [said.find(color, where[0])[0], said.find(shape, where[0])[0]]
    rows = [row for word in words for row in (word - 1, word)]
    weights, logits = said.run(rows)
    maps = said.on_patches(weights).transpose(2, 0, 1, 3, 4)  # [4, L, H, grid, grid]
    predicted = logits.argmax(-1).tolist()
    cover = said.geometry.cells(box)
    others = [said.geometry.cells(other) for other in sight.others(box)]
    return tuple(
        Look(maps[2 * i : 2 * i + 2], cover, others, predicted[2 * i] == said.ids[word])
        for i, word in enumerate(words)
    )


def geometry(model: MiniLlava, sight: Sight) -> PatchGeometry:
    """Between the model's patches and the pixels of a sight's picture."""
    vision = model.config.vision_config
    size = Image.open(io.BytesIO(sight.image)).size
    return PatchGeometry(*size, vision.image_size, vision.patch_size, model.aspect)


def untrained(model: MiniLlava, seed: int = 0) -> MiniLlava:
    """The same architecture with fresh random weights, tower and all; the caller's random state is kept.

    Parameter randomization, Adebayo et al. 2018, arXiv 1810.03292: a map that looks the same without training
    says nothing about what was learned.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = MiniLlava(model.config).to(model.device)
    fresh.tokenizer, fresh.image_processor = model.tokenizer, model.image_processor
    fresh.language_model.generation_config = model.language_model.generation_config
    return fresh.eval()
