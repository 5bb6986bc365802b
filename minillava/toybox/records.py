"""Toybox as records: LLaVA's own format, with splits that share no scene.

Whether a scene may be trained on is a matter of its hash: `Scene.key()` modulo 10. Buckets 0-7 train, 8
validates, 9 tests. `compositional` and `more` pictures cannot be in another split by what they show.
"""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from minillava.toybox import language
from minillava.toybox.draw import draw
from minillava.toybox.language import Question
from minillava.toybox.scene import (
    COLORS,
    MAX_OBJECTS,
    WITHHELD,
    Plan,
    Scene,
    sample_plan,
    sample_scene,
    trained_kinds,
)
from minillava.toybox.shapes import SHAPES

DESCRIBE = "Describe the picture in detail."
"""Asks for the dense caption: the counterpart of LLaVA's detailed descriptions."""

TURNS = 12
"""Questions about one picture in one training conversation; LLaVA-1.5 merges them too (P2 A.2)."""

ASKED = 8
"""Questions about one held-out picture, each asked on its own."""


@dataclass(frozen=True)
class Split:
    """Which scenes a split holds: hash `buckets`, withheld pairs or not, and how many objects."""

    buckets: tuple[int, ...] = tuple(range(10))
    withheld: bool = False
    total: int | None = None
    templates: tuple[str, ...] = ("trained",)


SPLITS = {
    "train": Split(buckets=tuple(range(8))),
    "val": Split(buckets=(8,)),
    "test": Split(buckets=(9,)),
    "paraphrase": Split(buckets=(9,), templates=("held out",)),
    "compositional": Split(withheld=True),
    "more": Split(total=MAX_OBJECTS + 1),
}
"""`test` is i.i.d.; the last three each change one thing: wording, color-shape pairs, object count."""


def _split(name: str) -> Split:
    if name not in SPLITS:
        raise ValueError(f"Toybox has no split {name!r}. Choose one of {', '.join(SPLITS)}.")
    return SPLITS[name]


def scene(split: str, index: int, seed: int = 0, most: int = MAX_OBJECTS) -> Scene:
    """Scene `index` of a split. `most` caps the number of objects (curricula start small)."""
    rules = _split(split)
    rng = random.Random(f"toybox/{seed}/{split}/{index}")
    kinds = tuple((c, s) for c in COLORS for s in SHAPES) if rules.withheld else trained_kinds()
    while True:
        plan = sample_plan(rng, most)
        if rules.total:
            plan = Plan(plan.value, plan.count, rules.total)
        made = sample_scene(rng, plan, kinds)
        novel = any((o.color, o.shape) in WITHHELD for o in made.objects)
        if int(made.key(), 16) % 10 in rules.buckets and novel == rules.withheld:
            return made


def questions(split: str, index: int, seed: int = 0, number: int = TURNS) -> list[Question]:
    """The questions about scene `index` of a split, in the split's wording."""
    templates = (
        language.PARAPHRASES if _split(split).templates == ("held out",) else language.TEMPLATES
    )
    rng = random.Random(f"toybox/{seed}/{split}/{index}/questions")
    return language.questions(scene(split, index, seed), rng, number, templates)


def _png(picture: Image.Image) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def turns(pairs: list[tuple[str, str]], image: bool) -> list[dict]:
    """LLaVA's `conversations`: human and gpt in turn, `<image>` in front of the first question."""
    conversation = []
    for human, gpt in pairs:
        conversation += [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    if image:
        conversation[0]["value"] = "<image>\n" + conversation[0]["value"]
    return conversation


def short_answers(asked: list[Question]) -> list[tuple[str, str]]:
    """Question-answer pairs of one conversation; the format prompt stands after the first question."""
    pairs = [(question.text, question.answer) for question in asked]
    first, answer = pairs[0]
    return [(f"{first}\n{language.SHORT_ANSWER}", answer), *pairs[1:]]


def caption_record(split: str, index: int, seed: int = 0) -> dict:
    """A stage-1 record: a picture and its dense caption (LLaVA-Pretrain's counterpart)."""
    made = scene(split, index, seed)
    pair = DESCRIBE, language.caption(made)
    return _record(f"caption/{split}/{seed}/{index}", turns([pair], image=True), made)


TEXT_SHARE, DETAIL_SHARE = 0.06, 0.10
"""The stage-2 mix: text-only conversations have ShareGPT's share of LLaVA-1.5's 665K (40,688 records,
6 %), detailed descriptions about LLaVA-Instruct's (23K of 158K); all others are short answers."""


def instruction_record(split: str, index: int, seed: int = 0) -> dict:
    """A stage-2 record: short answers (84 %), a detailed description (10 %), or text only (6 %)."""
    rng = random.Random(f"toybox/{seed}/{split}/{index}/kind")
    made, kind = scene(split, index, seed), rng.random()
    name = f"instruct/{split}/{seed}/{index}"
    if kind < DETAIL_SHARE:
        return _record(name, turns([(DESCRIBE, language.caption(made))], image=True), made)
    pairs = short_answers(questions(split, index, seed))
    if kind < DETAIL_SHARE + TEXT_SHARE:
        first, answer = pairs[0]
        pairs[0] = (f"{language.telling(made, rng)}\n{first}", answer)
        return _record(name, turns(pairs, image=False), None)
    return _record(name, turns(pairs, image=True), made)


def _record(name: str, conversations: list[dict], made: Scene | None) -> dict:
    return {
        "id": f"toybox/{name}",
        "image": _png(draw(made)) if made else None,
        "conversations": conversations,
    }


def evaluation_records(split: str, pictures: int, seed: int = 0) -> Iterator[dict]:
    """One record per question about `pictures` pictures, each asked on its own, in LLaVA's format.

    Beside LLaVA's fields stand `type`, `question`, `answer`, the `boxes` (pixels) that the answer rests
    on with the words that refer to them, and what LLaVA gave GPT-4: `captions` and `instances`.
    """
    for index in range(pictures):
        made = scene(split, index, seed)
        image = _png(draw(made))
        for number, asked in enumerate(questions(split, index, seed, ASKED)):
            yield {
                "id": f"toybox/{split}/{seed}/{index}/{number}",
                "image": image,
                "conversations": turns(short_answers([asked]), image=True),
                "type": asked.type,
                "question": f"{asked.text}\n{language.SHORT_ANSWER}",
                "answer": asked.answer,
                "boxes": [list(thing.box) for thing in asked.objects],
                "references": list(asked.references),
                "captions": language.captions(made),
                "instances": made.instances(),
            }
