"""What tiny-CLIP's last four phases learn from: short facts about pictures and about the things in them.

A row is a picture, or one thing in it, with all that is true of it; a column is a fact of some row. The
label of a pair is whether the fact is true of the row, as with claims, and again every true fact is weighed
against one that differs in a single word and is false ("the second character on the sign is K", "... is J").
A picture is its CLS vector; a thing is the mean of the patches under its box, at the layer that LLaVA
reads (regions matched with words, as in RegionCLIP, arXiv 2112.09106). Facts about things say where the
tower is to put what it saw, so each of them is learned from few pictures.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from minillava.pretrain.clip_model import GEOMETRY, embed_regions, embed_texts
from minillava.toybox import domain as domains
from minillava.toybox.claims import claims_of
from minillava.toybox.domain import Box, Domain
from minillava.toybox.language import PLURAL, article
from minillava.toybox.scene import Object, Scene

THINGS, OBJECTS, FACTS = 6, 2, 3
"""Things drawn of each picture, beside the whole of it, and objects of each scene; facts of each of them."""

APART = 0.3
"""Cosine up to which a fact and its twin may be alike. Without this limit the texts of words that are new to
the text model all but coincide ("character J" and "character K" at 0.99 after 400 steps), and as long as
they do, nothing tells the tower to see the difference, nor the text model to say it."""


@dataclass(frozen=True)
class Row:
    """A picture of the batch by its number, or the thing under `box` in it, with all that is true of it.

    Rows of one `domain` are compared with each other's facts.
    """

    domain: str
    picture: int
    box: Box | None
    true: frozenset[str]


def domain_rows(domain: Domain, made, picture: int, rng: random.Random, number: int = THINGS) -> list[Row]:
    """The whole picture and up to `number` of its things of which something is said."""
    whole, *about = domains.facts(domain, made)
    things = [pair for pair in zip(domain.things(made), about, strict=True) if pair[1]]
    chosen = rng.sample(things, min(number, len(things)))
    rows = [Row(domain.name, picture, thing.box, true) for thing, true in chosen]
    return [Row(domain.name, picture, None, whole), *rows]


def scene_rows(scene: Scene, picture: int, rng: random.Random, number: int = OBJECTS) -> list[Row]:
    """Up to `number` objects of a scene with every claim about each (the whole scene has its own claims)."""
    chosen = rng.sample(scene.objects, min(number, len(scene.objects)))
    return [Row("scenes", picture, thing.box, frozenset(claims_of(thing))) for thing in chosen]


def count_rows(scene: Scene, picture: int) -> list[Row]:
    """Every object of a scene as one of so many of its color, of its shape and of all; and how many in all.

    Captions with numbers teach CLIP to count (arXiv 2302.12066). Said of each object, they ask the tower to
    count where it looks at the whole picture anyway, and to write the number where the language model looks
    up the object. The color and the shape are said twice, so that what differs in one word, the twin, is
    another number.
    """
    many = Counter(many for thing in scene.objects for _, many in _groups(thing))
    own = [
        frozenset(f"{one} one of {many[alike]} {alike}" for one, alike in _groups(thing))
        for thing in scene.objects
    ]
    whole = frozenset(f"{number} {alike}" for alike, number in many.items()).union(*own)
    rows = [Row("counts", picture, thing.box, true) for thing, true in zip(scene.objects, own, strict=True)]
    return [Row("counts", picture, None, whole), *rows]


def _groups(thing: Object) -> tuple[tuple[str, str], ...]:
    """What an object is called alone and together with those like it: by color, by shape, as any object."""
    return (
        (article(f"{thing.color} object"), f"{thing.color} objects"),
        (article(thing.shape), PLURAL[thing.shape]),
        ("an object", "objects"),
    )


def neighbors(texts: Iterable[str]) -> dict[str, list[str]]:
    """Of each text those among the others that differ from it in exactly one word."""
    alike: dict[tuple, list[str]] = defaultdict(list)
    words = {text: tuple(text.split()) for text in texts}
    for text, found in words.items():
        for i in range(len(found)):
            alike[found[:i], found[i + 1 :]].append(text)
    return {
        text: [
            other for i in range(len(found)) for other in alike[found[:i], found[i + 1 :]] if other != text
        ]
        for text, found in words.items()
    }


def draw_facts(rows: list[Row], rng: random.Random, number: int = FACTS) -> list[tuple[int, str, str | None]]:
    """Of every row (by its index) up to `number` true facts, each with a false neighbor or None.

    Neighbors come from the other rows of the domain: no fact is made up, so none shows what is withheld.
    """
    own = [(i, fact) for i, row in enumerate(rows) for fact in _some(row.true, rng, number)]
    said: dict[str, set[str]] = defaultdict(set)
    for i, fact in own:
        said[rows[i].domain].add(fact)
    near = {name: neighbors(sorted(texts)) for name, texts in said.items()}
    drawn = []
    for i, fact in own:
        false = [other for other in near[rows[i].domain][fact] if other not in rows[i].true]
        drawn.append((i, fact, rng.choice(false) if false else None))
    return drawn


def _some(true: frozenset[str], rng: random.Random, number: int) -> list[str]:
    return rng.sample(sorted(true), min(number, len(true)))


def facts_loss(
    model: CLIPModel,
    bias: Tensor,
    tokenizer,
    rows: list[Row],
    pictures: Tensor,
    patches: Tensor,
    rng: random.Random,
) -> Tensor:
    """Sigmoid loss of rows and facts: all pairs inside each domain, and each row's own beside its twins.

    `pictures` are the unit vectors [B, 128] and `patches` what LLaVA reads [B, P, 128] of the batch that the
    rows' numbers count.
    """
    drawn = draw_facts(rows, rng)
    columns: dict[tuple[str, str], int] = {}
    own: list[tuple[int, int]] = []
    twins: list[tuple[int, int]] = []
    for i, *texts in drawn:
        found = [columns.setdefault((rows[i].domain, text), len(columns)) for text in texts if text]
        own += [(i, column) for column in found]
        twins += [(found[0], column) for column in found[1:]]
    truth = torch.tensor([[float(text in row.true) for _, text in columns] for row in rows])
    alike = torch.tensor([[row.domain == name for name, _ in columns] for row in rows])

    boxed = [i for i, row in enumerate(rows) if row.box]
    covers = np.stack([np.asarray(GEOMETRY.cells(rows[i].box), np.float32).flatten() for i in boxed])
    regions = embed_regions(model, patches[[rows[i].picture for i in boxed]], torch.from_numpy(covers))
    seen = pictures[[row.picture for row in rows]].index_copy(0, torch.tensor(boxed), regions)
    said = embed_texts(model, tokenizer, [text for _, text in columns])
    logits = model.logit_scale.exp().clamp(max=100.0) * seen @ said.T + bias
    i, j = torch.tensor(own).T
    pairs = F.binary_cross_entropy_with_logits
    loss = pairs(logits[alike], truth[alike]) + pairs(logits[i, j], truth[i, j])
    if twins:
        one, other = torch.tensor(twins).T
        loss = loss + F.relu((said[one] * said[other]).sum(-1) - APART).mean()
    return loss
