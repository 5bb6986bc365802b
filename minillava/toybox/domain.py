"""What a domain of Toybox is: a few functions that turn symbols into a picture, words and questions.

A domain is a value of type `Domain`, passed to whoever wants its pictures. Nothing here or elsewhere keeps
a list of them, so another domain is another file, in the package or outside it, and no edit.
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from PIL import Image

from minillava.toybox.scene import SIZE

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""LLaVA-1.5's format prompt for short answers (P2 table 7), appended to a question after a newline."""

CHOICE = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's format prompt for multiple choice (P2 table 7), appended to a question after a newline."""

DESCRIBE = "Describe the picture in detail."
"""Asks for the dense caption: the counterpart of LLaVA's detailed descriptions."""

LETTERS = "ABCDE"
"""Names of the options, as in ScienceQA (llava/eval/eval_science_qa.py)."""

HASHED = {"train": tuple(range(8)), "val": (8,), "test": (9,), "paraphrase": (9,)}
"""Splits of alike specimens: which tenths of all hashes belong to each. `paraphrase` is `test` in wordings
that no training question uses."""

_TRIES = 10_000
"""A tenth of all hashes is found in ten tries; a domain that needs this many has too few pictures."""

Box = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in pixels; x2 and y2 are exclusive."""

S = TypeVar("S")


@dataclass(frozen=True)
class Thing:
    """One thing in a picture: what it is called, and its tight box (or anything else that has both)."""

    name: str
    box: Box


@dataclass(frozen=True)
class Question:
    """A question, its one right answer, and the things one has to look at to know it.

    `text` is the question alone and `answer` its content. With `options`, one of which is the answer, it is
    multiple choice and the reply is a letter; with `because` (a lecture and an explanation) it takes
    ScienceQA's form. `references` are the words of the text that stand for each of `objects`, where it
    names them one by one. `measure` says how a reply is compared with `gpt()`: see `evaluation.scoring`.
    """

    type: str
    text: str
    answer: str
    objects: tuple[Thing, ...]
    references: tuple[str, ...] = ()
    prompt: str = SHORT_ANSWER
    options: tuple[str, ...] = ()
    because: str = ""
    measure: str = "exact"

    def human(self, prompt: bool = True) -> str:
        """What the user writes; without the format prompt where an earlier turn has set the format.

        Options stand as LLaVA-1.5 has them in A-OKVQA, or, where an explanation is wanted, in the QCM
        order of scripts/convert_sqa_to_llava_base_prompt.py.
        """
        named = list(zip(LETTERS, self.options, strict=False)) if self.options else []
        if self.because:
            options = " ".join(f"({letter}) {option}" for letter, option in named)
            return f"{self.text}\nContext: N/A\nOptions: {options}"
        lines = [self.text, *(f"{letter}. {option}" for letter, option in named)]
        return "\n".join([*lines, self.prompt] if prompt and self.prompt else lines)

    def gpt(self) -> str:
        """What the model is to say: the answer, its letter, or ScienceQA's LEA order ending in it."""
        if not self.options:
            return self.answer
        letter = LETTERS[self.options.index(self.answer)]
        return f"{self.because} The answer is {letter}." if self.because else letter

    def rotations(self) -> tuple["Question", ...]:
        """The same question with its options turned by one, two, ...: the right letter visits them all."""
        turns = range(len(self.options) or 1)
        return tuple(replace(self, options=self.options[i:] + self.options[:i]) for i in turns)


@dataclass(frozen=True, eq=False)
class Domain(Generic[S]):
    """The functions of one domain. A specimen (S) is a picture's symbols, hashable and immutable.

    Attributes:
        name: lower case.
        samplers: how specimens are made, by split. "train" is always there and serves the other splits in
            HASHED; any further one ("compositional", "more") shows what no training picture shows.
        key: a hash (hex) of what no two splits may both show, blind to jitter and background.
        draw: the picture, RGB, SIZE x SIZE pixels; the same specimen, the same pixels.
        captions: the first names everything that can be asked about; others leave things out.
        things: what there is, with exact boxes.
        questions: all questions that this specimen gives, in random order; held-out wordings if true.
        types: the types of its questions, in the order in which tables show them.
        telling: the picture told in words, as text-only conversations begin; the first caption if None.
        conversations: conversations of other kinds, by name: what is asked in them, turn by turn.
        facts: short true statements, first those about the whole picture, then those about each of its
            things (which may be none); see `facts`.
    """

    name: str
    samplers: Mapping[str, Callable[[random.Random], S]]
    key: Callable[[S], str]
    draw: Callable[[S], Image.Image]
    captions: Callable[[S], list[str]]
    things: Callable[[S], tuple[Thing, ...]]
    questions: Callable[[S, random.Random, bool], list[Question]]
    types: tuple[str, ...]
    telling: Callable[[S, random.Random], str] | None = None
    conversations: Mapping[str, Callable[[S, random.Random, bool], list[Question]]] = field(
        default_factory=dict
    )
    facts: Callable[[S], list[list[str]]] | None = None


def splits(domain: Domain) -> tuple[str, ...]:
    """The splits that a domain has."""
    return tuple(dict.fromkeys((*HASHED, *domain.samplers)))


def belongs(domain: Domain[S], made: S, split: str) -> bool:
    """Whether a split may show what a specimen shows: its hash decides (HASHED)."""
    return int(domain.key(made), 16) % 10 in HASHED.get(split, range(10))


def specimen(domain: Domain[S], split: str, index: int, seed: int = 0) -> S:
    """Specimen `index` of a split, the same whatever was asked for before it.

    Raises ValueError for a split that the domain does not have, or has no specimen for.
    """
    if split not in splits(domain):
        raise ValueError(
            f"The domain {domain.name} has no split {split!r}. Choose one of {', '.join(splits(domain))}."
        )
    rng = random.Random(f"toybox/{seed}/{split}/{index}")
    sample = domain.samplers.get(split, domain.samplers["train"])
    for _ in range(_TRIES):
        made = sample(rng)
        if belongs(domain, made, split):
            return made
    raise ValueError(
        f"The domain {domain.name} gave nothing for the split {split!r} in {_TRIES} tries: let its pictures "
        "show more that differs."
    )


def questions(domain: Domain, split: str, index: int, seed: int = 0) -> list[Question]:
    """All questions about specimen `index` of a split, in the split's wording."""
    return conversation(domain, "questions", split, index, seed)


def conversation(domain: Domain, kind: str, split: str, index: int, seed: int = 0) -> list[Question]:
    """What a conversation of a kind asks about specimen `index`: "questions", or one of its `conversations`.

    Raises ValueError for a kind that the domain does not have.
    """
    kinds = {"questions": domain.questions, **domain.conversations}
    if kind not in kinds:
        raise ValueError(
            f"The domain {domain.name} has no conversations {kind!r}. Choose one of {', '.join(kinds)}."
        )
    rng = random.Random(f"toybox/{seed}/{split}/{index}/{kind}")
    return kinds[kind](specimen(domain, split, index, seed), rng, split == "paraphrase")


def instances(domain: Domain[S], made: S) -> list[dict]:
    """Things with boxes in 0-1, in the schema of LLaVA's caps_boxes_coco2014_val_80.jsonl."""
    return [
        {"category": thing.name, "bbox": [round(value / SIZE, 3) for value in thing.box]}
        for thing in domain.things(made)
    ]


def facts(domain: Domain[S], made: S) -> list[frozenset[str]]:
    """Short statements that are true of the picture, then those true of each of its things.

    Whatever is true of a thing is true of the picture. A statement that some picture of the domain has and
    this one has not is false here, so every specimen says all that can be said in its domain's few forms.
    A domain without `facts` of its own has the names of its things.
    """
    whole, *things = (
        domain.facts(made) if domain.facts else [[], *([thing.name] for thing in domain.things(made))]
    )
    return [frozenset(whole).union(*things), *map(frozenset, things)]


def pairs(asked: Sequence[Question]) -> list[tuple[str, str]]:
    """(human, gpt) turns of one conversation; a format prompt stands where the format changes."""
    formats = ["", *(question.prompt for question in asked)]
    return [
        (question.human(prompt=question.prompt != before), question.gpt())
        for question, before in zip(asked, formats[:-1], strict=True)
    ]


def digest(text: str) -> str:
    """A hash of symbols written out as text: what `Domain.key` returns."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plural(number: int, word: str) -> str:
    """ "1 shape", "2 shapes"."""
    return f"{number} {word}" + ("" if number == 1 else "s")
