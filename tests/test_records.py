import json

import datasets
import pytest
from helpers import PATCHES, SIZE, dataset, png, record

from minillava import records
from minillava.convert import convert
from minillava.data import audit, load_records

# Records


def test_json_list_with_mixed_ids_and_records_without_picture(tmp_path):
    records = [record(1, "a.png"), record("two"), record("003", ["a.png"])]
    (tmp_path / "list.json").write_text(json.dumps(records))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    assert load_records(tmp_path / "list.json") == records
    assert load_records(tmp_path / "lines.jsonl") == records
    assert load_records(records) is records


def test_parquet_keeps_embedded_bytes(tmp_path, tokenizer):
    table = datasets.Dataset.from_list(
        [record("a", {"bytes": png(), "path": None}), record("b", {"bytes": None, "path": None})]
    )
    for name, written in {
        "plain": table,
        "typed": table.cast_column("image", datasets.Image()),
    }.items():
        written.to_parquet(tmp_path / f"{name}.parquet")
        records = load_records(tmp_path / f"{name}.parquet")
        assert records[0]["image"]["bytes"] == png()
    records[1]["conversations"][0]["value"] = "What color?"
    assert dataset(records, tokenizer)[0]["pixel_values"].shape == (1, 3, SIZE, SIZE)


def test_a_large_parquet_file_stays_on_the_disk(tmp_path, tokenizer, monkeypatch):
    rows = [record(str(i), {"bytes": png(), "path": None}) for i in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    small = load_records(tmp_path / "a.parquet")
    monkeypatch.setattr(records, "IN_MEMORY", 0)
    large = load_records(tmp_path / "a.parquet")
    assert not small.cache_files and large.cache_files
    assert list(small) == list(large)
    assert dataset(large, tokenizer)[2]["pixel_values"].shape == (1, 3, SIZE, SIZE)


def test_a_dataset_of_pictures_is_taken_as_is(tokenizer):
    table = datasets.Dataset.from_list([record("a", {"bytes": png(), "path": None})])
    table = table.cast_column("image", datasets.Image())
    assert dataset(table, tokenizer)[0]["pixel_values"].shape == (1, 3, SIZE, SIZE)
    assert audit(table).with_image == 1 and not audit(table).problems


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1, 2]", "Entry 0 of .*bad.json is not a record"),
        ('{"id": 3}', "Entry 0 of .*bad.json is not a record"),
        ('[{"id": 3},', "bad.json is neither a JSON list"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_records(tmp_path / "bad.json")


def test_a_broken_line_is_named_by_its_number(tmp_path):
    lines = [json.dumps(record(1)), "", '{"id": 2, "conversations" []}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="a.jsonl, line 3 is neither"):
        load_records(tmp_path / "a.jsonl")


def test_a_record_without_conversations_is_for_the_audit(tmp_path, tokenizer):
    rows = [record(0), {"id": "x", "image": "a.png"}, record(2)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = load_records(tmp_path / "a.json")
    report = audit(found, tokenizer=tokenizer)
    assert "malformed conversation" in {problem.kind for problem in report.problems if problem.id == "x"}
    assert [kept["id"] for kept in report.without_problems(found)] == [0, 2]
    assert len(dataset(found, tokenizer).lengths) == 3


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_text_in_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "a.json").write_text('[{"conversations": [], "id": "é"}]', encoding=encoding)
    with pytest.raises(ValueError, match="a.json is not UTF-8 text .*: save it as UTF-8"):
        load_records(tmp_path / "a.json")


def test_no_file():
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        load_records("nowhere.json")


# Audit


def test_audit_finds_each_defect_once_and_names_it(tmp_path, tokenizer):
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "torn.png").write_bytes(png(size=(64, 64))[:-30])
    (tmp_path / "words.png").write_text("not a picture")
    blank = {"id": 9, "conversations": []}
    records = [
        record(0, "good.png"),
        record("one", "gone.png"),
        record(2, "torn.png"),
        record(3, "words.png"),
        record(4) | {"image": "good.png"},  # a picture, but no placeholder
        record(5, question="<image>\nWhat color?"),  # a placeholder, but no picture
        record(6, "good.png", answer=" "),
        blank,
        record(8, "good.png", question="Why? " * 200),
        record(10, answer="Because. " * 200),
        record(11, ["good.png", "good.png"]),
        record(12, "good.png", question="Or <image>?"),
    ]
    report = audit(records, tmp_path, tokenizer, num_image_tokens=PATCHES, max_length=600)
    kinds = {kind: [found.id for found in all_] for kind, all_ in report.by_kind().items()}
    assert kinds == {
        "missing picture": ["one"],
        "broken picture": [2, 3],
        "pictures and placeholders differ": [4, 5, 11, 12],
        "no answer": [6],
        "malformed conversation": [9],
        "answer cut away": [8],
        "cut": [10],
    }
    assert (report.records, report.with_image, report.with_several, report.text_only) == (
        12,
        9,
        1,
        3,
    )
    assert "1 <image> too many" in str(report)
    for words in ("'one'", "gone.png", "record 8 (id 8)", "length in tokens", "limit is 600"):
        assert words in str(report)
    with pytest.raises(ValueError, match="gone.png"):
        report.raise_for_problems()
    kept = report.without_problems(records)
    assert [r["id"] for r in kept] == [0, 10]
    again = audit(kept, tmp_path, tokenizer, num_image_tokens=PATCHES, max_length=600)
    again.raise_for_problems()
    assert len(dataset(kept, tokenizer, image_root=tmp_path, max_length=600, eager=True)) == 2


def test_audit_without_tokenizer_counts_words():
    report = audit([record("a", answer="one two three"), record("b", answer="one")])
    assert report.unit == "words" and report.lengths == [5, 3]
    assert sum(count for _, _, count in report.histogram()) == 2
    assert "every record can be trained on" in str(report)


def test_audit_of_nothing():
    assert "0 records" in str(audit([]))
    assert "there is nothing to train on" in str(audit([])) and "every record" not in str(audit([]))


@pytest.mark.parametrize("turns", [None, 5, "Hello", ["Hello"], [{"from": "gpt"}]])
def test_turns_that_are_none_are_named_by_the_audit_and_where_they_are_read(tokenizer, turns):
    rows = [record("a"), {"id": "x", "conversations": turns}]
    assert [str(found) for found in audit(rows).problems if "(id 'x')" in str(found)]
    data = dataset(rows, tokenizer)
    assert data.lengths[1] < 0  # the order of the samples can be made
    with pytest.raises(ValueError, match=r"record 1 \(id 'x'\).*`minillava inspect`"):
        data[1]
    assert dataset(rows, tokenizer, skip_broken=True)[1]["id"] == "a"


def test_a_picture_that_is_none_is_named_where_it_is_read(tokenizer):
    with pytest.raises(ValueError, match=r"record 0 \(id 'x'\): A picture is a path.*not 5"):
        dataset([record("x", 5)], tokenizer)[0]


def test_a_cut_picture_rules_a_record_out(tmp_path, tokenizer):
    (tmp_path / "a.png").write_bytes(png())
    turns = record(0, answer="No.")["conversations"] + record(0, "a.png")["conversations"]
    late = {"id": "late", "image": "a.png", "conversations": turns}
    ids = dataset([late], tokenizer, image_root=tmp_path)[0]["input_ids"].tolist()
    limit = ids.index(tokenizer.convert_tokens_to_ids("<image>")) + 1  # the first answer stays whole
    report = audit([late], tmp_path, tokenizer, num_image_tokens=PATCHES, max_length=limit)
    assert list(report.by_kind()) == ["picture cut"]
    with pytest.raises(ValueError, match="record 0 .*'late'.*picture is cut"):
        dataset([late], tokenizer, image_root=tmp_path, max_length=limit)[0]


def test_image_in_a_text_is_a_word_but_not_where_a_picture_stands(tmp_path, tokenizer):
    """A record without a picture: the original reads `<image>` there as text."""
    feed = record("feed", question="Write a feed with an <image> tag.", answer="<rss>\n<image>\n</rss>")
    assert not audit([feed], tokenizer=tokenizer).problems
    sample = dataset([feed], tokenizer)[0]
    assert tokenizer.convert_tokens_to_ids("<image>") not in sample["input_ids"].tolist()
    assert "<image> </rss>" in " ".join(tokenizer.decode(sample["input_ids"]).split())
    for lost in ("<image>\nWhat color?", "What color?\n<image>", "<image> What color?"):
        (problem,) = audit([record("lost", question=lost)], tokenizer=tokenizer).problems
        assert problem.kind == "pictures and placeholders differ"


def test_half_a_character_is_named(tmp_path, tokenizer):
    rows = [record("half", question="Hi \ud83d there"), record("whole", question="Hi \ud83d\ude00 there")]
    rows = json.loads(json.dumps(rows))
    for problems in (audit(rows).problems, audit(rows, tokenizer=tokenizer).problems):
        assert [(found.id, found.kind) for found in problems] == [("half", "malformed conversation")]
    with pytest.raises(ValueError, match="'half'.*half of a character"):
        dataset(rows, tokenizer)[0]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    done = convert(tmp_path / "a.json", tmp_path / "b.parquet", skip_broken=True)
    assert (done.records, len(done.skipped)) == (1, 1)
    with pytest.raises(ValueError, match="'half'.*half of a character"):
        convert(tmp_path / "a.json", tmp_path / "c.parquet")
