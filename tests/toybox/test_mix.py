"""Mixes: a table with counts is what comes out, whoever the domains are and whatever was asked before."""

from collections import Counter
from dataclasses import dataclass

import pytest
from PIL import Image

from minillava.evaluation import evaluate
from minillava.images import open_image
from minillava.toybox import domain, mix, records, store
from minillava.toybox.domain import Domain, Question, Thing
from minillava.toybox.mix import STAGE_1, STAGE_2, Share
from minillava.toybox.scene import COLORS, SIZE
from minillava.toybox.scenes import SCENES


@pytest.mark.parametrize("table", [STAGE_1, STAGE_2], ids=["stage 1", "stage 2"])
def test_every_thousand_records_hold_the_counts_of_the_table(table):
    assert sum(row.records for row in table) == 1000
    for block in (0, 3):
        found = Counter(mix.share(table, "train", 1000 * block + i) for i in range(1000))
        assert found == {row: row.records for row in table}
    first, other = ([mix.share(table, "train", i, seed) for i in range(50)] for seed in (0, 1))
    assert first != other


def test_the_shares_are_those_of_the_recipe():
    by_domain, by_kind = Counter(), Counter()
    for row in STAGE_2:
        by_kind[row.kind] += row.records
        by_domain["text" if row.kind == "text" else row.domain.name] += row.records
    assert by_domain["scenes"] == 515 and by_domain["crowds"] == 80
    assert by_domain["text"] == 60 and by_domain["elsewhere"] == 20
    assert all(50 <= by_domain[name] <= 110 for name in ("signs", "creatures", "lessons", "sketch"))
    assert by_kind["description"] == 75


def test_records_of_every_row_are_llava_conversations():
    """One record of each domain and kind, the same when it is made again."""
    for row in {(row.domain, row.kind) for row in STAGE_1 + STAGE_2}:
        for index in (0, 11):
            made = records.record(*row, "train", index)
            turns = made["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert all(turn["value"].strip() for turn in turns) and len(turns) <= 2 * records.TURNS
            assert (made["image"] is None) == (row[1] == "text")
            shown = [turn["value"].count("<image>") for turn in turns]
            assert shown == [int(made["image"] is not None)] + [0] * (len(turns) - 1)
            assert records.record(*row, "train", index) == made


def test_an_unknown_kind_is_named_with_the_choice():
    with pytest.raises(ValueError, match="scenes has no conversations 'song'.*dialogue"):
        records.record(SCENES, "song", "train", 0)
    with pytest.raises(ValueError, match="no records"):
        mix.share((Share(SCENES, "detail", 0),), "train", 0)


# --- A domain from outside ---------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    left: str
    right: str


def _half(flag: Flag, name: str, x: int) -> Thing:
    return Thing(f"{name} half", (x, 0, x + SIZE // 2, SIZE))


def _draw(flag: Flag) -> Image.Image:
    picture = Image.new("RGB", (SIZE, SIZE), COLORS[flag.left])
    picture.paste(COLORS[flag.right], (SIZE // 2, 0, SIZE, SIZE))
    return picture


def _ask(flag: Flag, rng, held_out: bool) -> list[Question]:
    text = "The left half has which color?" if held_out else "What color is the left half?"
    return [Question("left_half", text, flag.left, (_half(flag, "left", 0),))]


FLAGS = Domain(
    name="flags",
    samplers={"train": lambda rng: Flag(*rng.sample(tuple(COLORS), 2))},
    key=lambda flag: domain.digest(f"{flag.left} {flag.right}"),
    draw=_draw,
    captions=lambda flag: [f"A flag, {flag.left} and {flag.right}."],
    things=lambda flag: (_half(flag, "left", 0), _half(flag, "right", SIZE // 2)),
    questions=_ask,
    types=("left_half",),
)


class Seeing:
    """Reads the color of a flag's left half off its pixels; blind, it says "red"."""

    def answer_batch(self, images, questions, **_):
        names = {rgb: name for name, rgb in COLORS.items()}
        return [names[open_image(i).getpixel((1, 1))] if i else "red" for i in images]


def test_a_fifth_domain_is_trained_on_and_evaluated_without_an_edit(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILLAVA_CACHE", str(tmp_path))
    table = (Share(FLAGS, "questions", 2), Share(FLAGS, "text", 1), Share(FLAGS, "detail", 1))
    made = store.instructions("train", 8, table=table)
    assert Counter(name.split("/")[2] for name in made["id"]) == {"questions": 4, "text": 2, "detail": 2}
    assert any("A flag, " in row["conversations"][0]["value"] for row in made if row["image"] is None)
    held_out = store.evaluation("val", 6, one=FLAGS)
    report = evaluate(Seeing(), held_out, baselines=("blind", "majority"))
    assert report.counts == {"all": 6, "flags": 6, "left_half": 6}
    assert report.accuracy["sighted"]["flags"] == 1 > report.accuracy["blind"]["flags"]
