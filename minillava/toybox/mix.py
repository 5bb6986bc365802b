"""What the stages train on, as tables with counts, like LLaVA-1.5's (P2 table 7).

Every thousand records in a row of a split hold exactly the counts of the table, in an order drawn by the
seed, so record `index` is of the same row whatever was asked for before it, and however many are made.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

from minillava.toybox.creatures import CREATURES
from minillava.toybox.crowds import CROWDS
from minillava.toybox.domain import Domain
from minillava.toybox.elsewhere import ELSEWHERE
from minillava.toybox.lessons import LESSONS
from minillava.toybox.scenes import SCENES
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH


@dataclass(frozen=True)
class Share:
    """One row of a table: so many records of a kind about pictures of a domain.

    `kind` is "questions" (all that the domain asks, in one conversation), "detail" (the dense caption),
    "text" (the questions about a picture told in words) or one of the domain's `conversations`.
    """

    domain: Domain
    kind: str
    records: int


Table = tuple[Share, ...]

STAGE_1: Table = (
    Share(SCENES, "detail", 320),
    Share(SIGNS, "detail", 400),
    Share(CREATURES, "detail", 80),
    Share(LESSONS, "detail", 120),
    Share(SKETCH, "detail", 80),
)
"""Dense captions of all domains: LLaVA-Pretrain's counterpart."""

STAGE_2: Table = (
    Share(SCENES, "questions", 195),
    Share(SCENES, "description", 75),
    Share(SCENES, "dialogue", 25),
    Share(SCENES, "reasoning", 60),
    Share(SCENES, "region", 80),
    Share(CROWDS, "questions", 80),
    Share(SCENES, "choice", 60),
    Share(SCENES, "pope", 20),
    Share(SIGNS, "questions", 110),
    Share(CREATURES, "questions", 70),
    Share(LESSONS, "questions", 80),
    Share(SKETCH, "questions", 65),
    Share(ELSEWHERE, "questions", 20),
    Share(SCENES, "text", 30),
    Share(SIGNS, "text", 8),
    Share(CREATURES, "text", 6),
    Share(LESSONS, "text", 10),
    Share(SKETCH, "text", 6),
)
"""Scenes are the bulk, as COCO is of LLaVA-1.5's 665K. Text-only records have the share of ShareGPT's there
(40,688, 6 %); detailed descriptions have somewhat less than theirs in LLaVA-Instruct (23K of 158K)."""

HELD_OUT: tuple[tuple[Domain, int], ...] = (
    (SCENES, 124),
    (SIGNS, 94),
    (CREATURES, 88),
    (LESSONS, 66),
    (SKETCH, 88),
    (ELSEWHERE, 24),
)
"""How many held-out pictures of each domain are asked about."""


def share(table: Table, split: str, index: int, seed: int = 0) -> Share:
    """The row of the table to which record `index` of a split belongs. Raises ValueError for no rows."""
    total = sum(row.records for row in table)
    if not total:
        raise ValueError("The mix has no records: give at least one row with a positive count.")
    block, place = divmod(index, total)
    counts = tuple(row.records for row in table)
    return table[_order(counts, f"toybox/{seed}/{split}/mix/{block}")[place]]


@lru_cache(maxsize=256)
def _order(counts: tuple[int, ...], seed: str) -> list[int]:
    rows = [number for number, count in enumerate(counts) for _ in range(count)]
    random.Random(seed).shuffle(rows)
    return rows
