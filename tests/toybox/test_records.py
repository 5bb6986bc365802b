"""Records: LLaVA's format, with the picture inside, made once and kept."""

import pytest

from minillava.images import open_image
from minillava.toybox import domain, language, mix, records, store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILLAVA_CACHE", str(tmp_path))
    return tmp_path


def test_instruction_records_are_llava_conversations():
    table = store.instructions("train", 60)
    assert table.column_names == ["id", "image", "conversations"]
    assert len(set(table["id"])) == 60
    with_picture = 0
    for row in table:
        turns = row["conversations"]
        assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[0]["value"].startswith("<image>\n") == (row["image"] is not None)
        assert all("<image>" not in t["value"] for t in turns[1:])
        if row["image"]:
            with_picture += 1
            assert open_image(row["image"]["bytes"]).size == (96, 96)
    assert with_picture >= 50


def test_the_format_prompt_stands_after_the_first_question_only():
    asked = records.questions("train", 3)
    pairs = records.short_answers(asked)
    assert pairs[0][0] == f"{asked[0].text}\n{language.SHORT_ANSWER}"
    assert all(language.SHORT_ANSWER not in q for q, _ in pairs[1:])


def test_caption_records_hold_the_dense_caption():
    for index, row in enumerate(store.captions("train", 5)):
        one = mix.share(mix.STAGE_1, "train", index).domain
        assert row["conversations"][1]["value"] == one.captions(domain.specimen(one, "train", index))[0]


def test_tables_are_made_once(cache):
    store.captions("train", 4)
    (file,) = cache.glob("captions-*.parquet")
    stamp = file.stat().st_mtime_ns
    store.captions("train", 4)
    assert file.stat().st_mtime_ns == stamp
    assert not list(cache.glob("*.partial"))


def test_evaluation_rows_say_what_the_answer_rests_on():
    rows = list(records.evaluation_records("test", 3))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        *before, human, gpt = (turn["value"] for turn in row["conversations"])
        assert f"<image>\n{row['question']}".endswith(human) and gpt == row["answer"]
        assert all(text.removeprefix("<image>\n") in row["question"] for text in before)
        assert bool(before) <= (row["kind"] == "dialogue")
        for x1, y1, x2, y2 in row["boxes"]:
            assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96
        assert all(0 <= v <= 1 for i in row["instances"] for v in i["bbox"])
