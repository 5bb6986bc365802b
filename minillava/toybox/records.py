"""Toybox as records in LLaVA's own format, with splits that share no picture.

Whether a picture may be trained on is a matter of its hash: see `domain.HASHED`. Pictures of the splits
`compositional` and `more` cannot be in another split by what they show.
"""

import io
import random
from collections.abc import Iterator, Sequence

from PIL import Image

from minillava.toybox import domain, mix
from minillava.toybox.domain import DESCRIBE, Domain, Question
from minillava.toybox.mix import STAGE_1, STAGE_2, Table
from minillava.toybox.scene import MAX_OBJECTS, Scene
from minillava.toybox.scenes import SCENES, scenes

TURNS = 12
"""The most questions about one picture in one training conversation."""

ASKED = {"questions": 8, "dialogue": 4, "reasoning": 4, "region": 2, "choice": 1}
"""The most questions of a kind about one held-out picture; of other kinds, all that there are."""

SPLITS = domain.splits(SCENES)
"""Splits of scenes: `test` is i.i.d.; the last three each change one thing: the wording, the color-shape
pairs, the number of objects."""


def scene(split: str, index: int, seed: int = 0, most: int = MAX_OBJECTS) -> Scene:
    """Scene `index` of a split. `most` caps the number of objects (curricula start small)."""
    return domain.specimen(scenes(most), split, index, seed)


def questions(split: str, index: int, seed: int = 0) -> list[Question]:
    """The questions about scene `index` of a split, in the split's wording."""
    return domain.questions(SCENES, split, index, seed)


def turns(pairs: Sequence[tuple[str, str]], image: bool) -> list[dict]:
    """LLaVA's `conversations`: human and gpt in turn, `<image>` in front of the first question."""
    conversation = []
    for human, gpt in pairs:
        conversation += [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    if image:
        conversation[0]["value"] = "<image>\n" + conversation[0]["value"]
    return conversation


short_answers = domain.pairs
"""Question-answer pairs of one conversation; the format prompt stands after the first question."""


def record(one: Domain, kind: str, split: str, index: int, seed: int = 0) -> dict:
    """One training record about specimen `index` of a domain's split; for kinds see `mix.Share`.

    Raises ValueError for a split or kind that the domain does not have.
    """
    return {
        "id": f"toybox/{one.name}/{kind}/{split}/{seed}/{index}",
        "image": None if kind == "text" else _png(one.draw(domain.specimen(one, split, index, seed))),
        "conversations": conversation(one, kind, split, index, seed),
    }


def conversation(one: Domain, kind: str, split: str, index: int, seed: int = 0) -> list[dict]:
    """The `conversations` of `record`, without drawing what they are about.

    A picture that gives no conversation of the kind is asked the domain's own questions.
    """
    made, shown = domain.specimen(one, split, index, seed), kind != "text"
    if kind == "detail":
        pairs = [(DESCRIBE, one.captions(made)[0])]
    else:
        asked = domain.conversation(one, kind, split, index, seed) if kind != "text" else []
        pairs = domain.pairs((asked or domain.questions(one, split, index, seed))[:TURNS])
    if not shown:
        rng = random.Random(f"toybox/{seed}/{split}/{index}/told")
        told = one.telling(made, rng) if one.telling else one.captions(made)[0]
        pairs[0] = (f"{told}\n{pairs[0][0]}", pairs[0][1])
    return turns(pairs, image=shown)


def mixed_record(table: Table, split: str, index: int, seed: int = 0) -> dict:
    """Record `index` of a mix."""
    row = mix.share(table, split, index, seed)
    return record(row.domain, row.kind, split, index, seed)


def caption_record(split: str, index: int, seed: int = 0, table: Table = STAGE_1) -> dict:
    """A stage-1 record: a picture and its dense caption (LLaVA-Pretrain's counterpart)."""
    return mixed_record(table, split, index, seed)


def instruction_record(split: str, index: int, seed: int = 0, table: Table = STAGE_2) -> dict:
    """A stage-2 record: of what kind and domain, the table says."""
    return mixed_record(table, split, index, seed)


def evaluation_records(split: str, pictures: int, seed: int = 0, one: Domain = SCENES) -> Iterator[dict]:
    """One record per question about `pictures` pictures of a domain, each asked on its own.

    Multiple choice is asked under every rotation of its options, and a turn of a dialogue after the turns
    before it, rightly answered, which then stand in `question` as the v1 template writes them. Beside
    LLaVA's fields stand `domain`, `kind` (of conversation), `type`, `measure`, `question`, `answer`, the
    `boxes` (pixels) that the answer rests on with the words that refer to them, and what LLaVA gave GPT-4:
    `captions` and `instances`.
    """
    for index in range(pictures):
        made = domain.specimen(one, split, index, seed)
        image = _png(one.draw(made))
        for kind, before, number, turn, question in _asked(one, split, index, seed):
            pairs = domain.pairs([*before, question])
            told = [f"{human} ASSISTANT: {gpt}</s>USER: " for human, gpt in pairs[:-1]]
            yield {
                "id": f"toybox/{one.name}/{split}/{seed}/{index}/{kind}/{number}/{turn}",
                "image": image,
                "conversations": turns(pairs, image=True),
                "domain": one.name,
                "kind": kind,
                "type": question.type,
                "measure": "letter" if question.options else question.measure,
                "question": "".join(told) + pairs[-1][0],
                "answer": question.gpt(),
                "boxes": [list(thing.box) for thing in question.objects],
                "references": list(question.references),
                "captions": one.captions(made),
                "instances": domain.instances(one, made),
            }


def _asked(one: Domain, split: str, index: int, seed: int) -> Iterator[tuple]:
    """Kind, the turns before it, number, rotation and question of all that is asked about a picture."""
    for kind in ("questions", *one.conversations):
        asked = domain.conversation(one, kind, split, index, seed)[: ASKED.get(kind)]
        for number, question in enumerate(asked):
            before = asked[:number] if kind == "dialogue" else []
            for turn, rotated in enumerate(question.rotations()):
                yield kind, before, number, turn, rotated


def _png(picture: Image.Image) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}
