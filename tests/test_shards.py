"""shards.py: many parquet files as one set of records, and what is said of one that is missing or damaged."""

import json
import os

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from helpers import dataset, png, record

from minillava import convert as module
from minillava.convert import convert
from minillava.records import audit, load_records, modality_length, modality_lengths
from minillava.shards import shard_files


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def source(tmp_path):
    """Eleven records, every third without a picture, ids of both types."""
    (tmp_path / "images").mkdir()
    records = []
    for i in range(11):
        (tmp_path / "images" / f"{i}.png").write_bytes(png((20 * i, 0, 0)))
        records.append(record(i if i % 2 else str(i), None if i % 3 == 2 else f"{i}.png", f"Answer {i}."))
    (tmp_path / "mix.json").write_text(json.dumps(records))
    return tmp_path / "mix.json"


@pytest.fixture
def folder(source, tmp_path):
    done = convert(source, tmp_path / "mix", image_root=tmp_path / "images", shard_records=4)
    assert (done.records, done.pictures) == (11, 8)
    return tmp_path / "mix"


def answers(records):
    return [r["conversations"][1]["value"] for r in records]


def test_a_folder_of_shards_is_one_set_of_records(source, folder, tmp_path, tokenizer):
    names = [f"0000{i}-of-00003.parquet" for i in range(3)]
    assert [file.name for file in shard_files(folder)] == names == sorted(os.listdir(folder))
    found, whole = load_records(folder), load_records(source)
    assert [len(datasets.Dataset.from_parquet(str(folder / name))) for name in names] == [4, 4, 3]
    assert answers(found) == answers(whole) and found["id"][:] == [str(r["id"]) for r in whole]
    ours, theirs = dataset(found, tokenizer), dataset(whole, tokenizer, image_root=tmp_path / "images")
    for one, other in zip(ours, theirs, strict=True):
        assert one["pixel_values"].equal(other["pixel_values"]) and one["labels"].equal(other["labels"])
    assert ours.lengths == theirs.lengths
    assert audit(folder).with_image == 8


def test_shards_come_back_as_json_and_as_one_file(source, folder, tmp_path):
    convert(folder, tmp_path / "again.json", picture_folder=tmp_path / "out")
    again = json.loads((tmp_path / "again.json").read_text())
    assert answers(again) == answers(load_records(source))
    assert (tmp_path / "out" / "4.png").read_bytes() == (tmp_path / "images" / "4.png").read_bytes()
    assert convert(folder, tmp_path / "one.parquet").records == 11
    assert answers(load_records(tmp_path / "one.parquet")) == answers(load_records(source))


def test_a_conversion_to_shards_is_whole_or_not_there(source, folder, tmp_path):
    with pytest.raises(ValueError, match="mix is there already"):
        convert(source, folder, image_root=tmp_path / "images", shard_records=4)
    os.remove(tmp_path / "images" / "9.png")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"record 9 .*9.png.*Nothing was written"):
        convert(source, tmp_path / "new", image_root=tmp_path / "images", shard_records=4)
    assert sorted(os.listdir(tmp_path)) == before
    done = convert(source, tmp_path / "new", tmp_path / "images", shard_records=5, skip_broken=True)
    assert done.records == 10 and len(shard_files(tmp_path / "new")) == 2
    for options in ({"shard_records": 0}, {"shard_records": 4, "target": tmp_path / "a.parquet"}):
        with pytest.raises(ValueError, match="Shards of at least one record go to a folder"):
            convert(source, **({"target": tmp_path / "a"} | options))
    with pytest.raises(ValueError, match="or needs --shard-records"):
        convert(source, tmp_path / "a")


def test_a_missing_shard_is_named(folder):
    os.remove(folder / "00001-of-00003.parquet")
    with pytest.raises(ValueError, match="has no 00001-of-00003.parquet: copy what is missing"):
        load_records(folder)
    told = []
    assert answers(load_records(folder, skip=told.append)) == [f"Answer {i}." for i in (0, 1, 2, 3, 8, 9, 10)]
    assert len(told) == 1 and "00001-of-00003.parquet" in told[0]


@pytest.mark.parametrize("damage", ["cut off", "damaged"])
def test_a_broken_shard_is_named_or_left_out(folder, damage):
    file = folder / "00002-of-00003.parquet"
    content = file.read_bytes()
    if damage == "cut off":
        file.write_bytes(content[:-50])
    else:  # its end, where parquet has its contents listed, is whole
        file.write_bytes(content[:4] + bytes(byte ^ 0xFF for byte in content[4:600]) + content[600:])
    with pytest.raises(ValueError, match=rf"00002-of-00003.parquet is {damage}.*Copy or convert it again"):
        load_records(folder)
    told = []
    assert len(load_records(folder, skip=told.append)) == 8
    assert len(told) == 1 and told[0].startswith("left out: ") and file.name in told[0]


def test_nothing_to_read(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no .parquet files"):
        load_records(tmp_path / "empty")
    for file in folder.iterdir():
        file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="None of the shards of .*mix can be read"):
        load_records(folder, skip=print)
    with pytest.raises(ValueError, match="00000-of-00003.parquet is cut off"):
        list(module.read(folder))


@pytest.mark.parametrize(
    "images",
    [
        [
            {"bytes": png(), "path": None},
            None,
            {"bytes": None, "path": "a.png"},
            {"bytes": None, "path": None},
        ],
        [[{"bytes": png(), "path": None}] * 2, None, [{"bytes": None, "path": "a.png"}], []],
        ["a.png", None, "b.png", ""],
    ],
    ids=["one", "several", "paths"],
)
def test_lengths_of_a_table_are_those_of_its_records(images):
    rows = [record(i, None, "word " * i) | {"image": image} for i, image in enumerate(images, 1)]
    table = datasets.Dataset.from_list(rows)
    assert modality_lengths(load_records(table)) == [modality_length(row) for row in load_records(table)]
    signs = [length > 0 for length in modality_lengths(load_records(table))]
    assert signs == [True, False, True, False]
    some = load_records(table).select([3, 0])
    assert modality_lengths(some) == [modality_length(row) for row in some]
    texts = table.remove_columns("image")
    assert all(length < 0 for length in modality_lengths(texts))


def test_the_hubs_names_are_counted_too(folder):
    first, *_ = files = shard_files(folder)
    for file in files:
        file.rename(folder / f"train-{file.name}")
    assert len(load_records(folder)) == 11
    (folder / f"train-{first.name}").unlink()
    with pytest.raises(ValueError, match="has no train-00000-of-00003.parquet"):
        load_records(folder)


@pytest.mark.parametrize("lists", [pyarrow.large_list, lambda of: pyarrow.list_(of, 2)])
def test_lists_of_pictures_are_kept_however_they_are_stored(tmp_path, tokenizer, lists):
    picture = pyarrow.struct([("bytes", pyarrow.binary())])  # and no path
    turns = pyarrow.list_(pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())]))
    asked = [{"from": "human", "value": "<image>\nOne?"}, {"from": "gpt", "value": "Red."}] * 2
    shown = [{"bytes": png("red")}, {"bytes": png("blue")}]
    columns = {"id": ["a"], "image": [shown], "conversations": [asked]}
    schema = pyarrow.schema([("id", pyarrow.string()), ("image", lists(picture)), ("conversations", turns)])
    pyarrow.parquet.write_table(pyarrow.table(columns, schema), tmp_path / "a.parquet")
    done = convert(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert (done.records, done.pictures) == (1, 2)
    for name in ("a", "b"):
        found = load_records(tmp_path / f"{name}.parquet")
        assert modality_lengths(found) == [6] and not audit(found).problems
        assert dataset(found, tokenizer)[0]["pixel_values"].shape[0] == 2
