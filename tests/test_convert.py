"""convert.py: the three kinds of file into one another, whole or not at all, always in the same memory."""

import json
import os
import tracemalloc

import datasets
import pyarrow.parquet
import pytest
from helpers import png, record

from minillava import convert as module
from minillava.convert import convert
from minillava.records import audit, load_records

KINDS = ["json", "jsonl", "parquet"]


@pytest.fixture
def source(tmp_path):
    """A JSON list as LLaVA publishes them: ids of both types, text-only, turns and letters of any kind."""
    (tmp_path / "images" / "coco").mkdir(parents=True)
    for name in ("coco/a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(png("red" if name == "b.png" else "blue"))
    texts = record("003", answer='He said: "ja" – 是的 \u2028\n{[,]}\\')
    records = [record(7, "coco/a.png"), texts, record("x", "b.png"), record(7, "coco/a.png", answer="")]
    (tmp_path / "mix.json").write_text(json.dumps(records, indent=2), encoding="utf-8")
    return tmp_path / "mix.json"


def texts(file):
    """Everything but the pictures, ids as text."""
    return [(str(r["id"]), [dict(t) for t in r["conversations"]]) for r in load_records(file)]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_any_kind_into_any_other(source, tmp_path, first, second):
    one, two = tmp_path / f"one.{first}", tmp_path / f"two.{second}"
    convert(source, one, image_root=tmp_path / "images")
    out = tmp_path / "out" if first == "parquet" != second else None
    done = convert(one, two, image_root=tmp_path / "images", picture_folder=out)
    assert done.records == 4 and not done.skipped
    assert texts(two) == texts(source)
    report = audit(two, image_root=out or tmp_path / "images")
    assert (report.with_image, report.text_only) == (3, 1)
    assert [f.kind for f in report.problems] == ["no answer"]


def test_text_to_text_keeps_every_field(source, tmp_path):
    records = json.loads(source.read_text())
    records[1] |= {"model": "gpt-4", "image": None, "number": 1.5}
    records[2]["conversations"][0]["markdown"] = True
    source.write_text(json.dumps(records))
    convert(source, tmp_path / "a.jsonl")
    convert(tmp_path / "a.jsonl", tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == records
    done = convert(source, tmp_path / "c.parquet", image_root=tmp_path / "images")
    assert done.fields_dropped == {"model": 1, "number": 1}
    assert "field 'model' not kept, of 1 records" in str(done)


def test_parquet_is_what_datasets_takes_for_pictures(source, tmp_path):
    done = convert(source, tmp_path / "mix.parquet", image_root=tmp_path / "images")
    assert done.pictures == 3
    table = datasets.Dataset.from_parquet(str(tmp_path / "mix.parquet"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(table.features["image"], datasets.Image)
    assert table[0]["image"].getpixel((0, 0)) == (0, 0, 255) and table[1]["image"] is None
    assert table["id"][:] == ["7", "003", "x", "7"]


def test_pictures_come_out_byte_for_byte_under_their_paths(source, tmp_path):
    convert(source, tmp_path / "mix.parquet", image_root=tmp_path / "images")
    out = tmp_path / "new" / "pictures"
    done = convert(tmp_path / "mix.parquet", tmp_path / "again.json", picture_folder=out)
    assert done.pictures == 2  # one of them is in two records
    assert {f.relative_to(out).as_posix() for f in out.rglob("*.png")} == {"coco/a.png", "b.png"}
    assert (out / "coco/a.png").read_bytes() == (tmp_path / "images/coco/a.png").read_bytes()
    again = json.loads((tmp_path / "again.json").read_text())
    assert [r.get("image") for r in again] == ["coco/a.png", None, "b.png", "coco/a.png"]


def test_pictures_without_a_name_get_one(tmp_path):
    rows = [record(i, {"bytes": png(color), "path": None}) for i, color in enumerate(("red", "red", "blue"))]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    convert(tmp_path / "a.parquet", tmp_path / "a.jsonl", picture_folder=tmp_path / "out")
    names = [r["image"] for r in load_records(tmp_path / "a.jsonl")]
    assert names[0] == names[1] != names[2] and names[0].endswith(".png")
    assert (tmp_path / "out" / names[2]).read_bytes() == png("blue")


def test_several_pictures(source, tmp_path):
    records = json.loads(source.read_text())
    turns = records[0]["conversations"] * 2
    records.append({"id": "two", "image": ["b.png", "coco/a.png"], "conversations": turns})
    source.write_text(json.dumps(records))
    convert(source, tmp_path / "mix.parquet", image_root=tmp_path / "images")
    assert audit(tmp_path / "mix.parquet").with_several == 1
    convert(tmp_path / "mix.parquet", tmp_path / "again.json", picture_folder=tmp_path / "out")
    again = json.loads((tmp_path / "again.json").read_text())
    assert [r.get("image") for r in again[::4]] == ["coco/a.png", ["b.png", "coco/a.png"]]


@pytest.mark.parametrize("chunk", [8, 64, 1 << 20])
def test_a_list_is_read_in_pieces_of_any_size(source, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert list(module.read(source)) == json.loads(source.read_text())


@pytest.mark.parametrize("target", KINDS)
def test_nothing_and_lists_of_nothing(tmp_path, target):
    for name, text in {"a.json": " []\n", "b.jsonl": "\n"}.items():
        (tmp_path / name).write_text(text)
        assert convert(tmp_path / name, tmp_path / f"out.{target}").records == 0
        assert len(load_records(tmp_path / f"out.{target}")) == 0


def grown(folder, records):
    """Peak of memory in bytes while a list of so many records passes through."""
    lines = ",\n".join(json.dumps(record(i, answer="word " * 40)) for i in range(records))
    (folder / "big.json").write_text(f"[{lines}]")
    tracemalloc.start()
    convert(folder / "big.json", folder / "big.parquet")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_stays_flat(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_RECORDS", 50)
    monkeypatch.setattr(module, "CHUNK", 1 << 12)
    small, large = grown(tmp_path, 500), grown(tmp_path, 4_000)
    assert large < 1.2 * small and large < (tmp_path / "big.json").stat().st_size / 2


# ── whole or not at all ───────────────────────────────────────────────────────────────────────


def left(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("target", KINDS)
def test_a_record_that_breaks_is_named_and_nothing_is_left(source, tmp_path, target):
    records = json.loads(source.read_text())
    records[2]["conversations"][1]["from"] = "robot"
    source.write_text(json.dumps(records))
    before = left(tmp_path)
    with pytest.raises(ValueError, match=r"record 2 \(id 'x'\) of .*mix.json.*'robot'.*Nothing was written"):
        convert(source, tmp_path / f"out.{target}", image_root=tmp_path / "images")
    assert left(tmp_path) == before
    done = convert(source, tmp_path / f"out.{target}", image_root=tmp_path / "images", skip_broken=True)
    assert done.records == 3 and len(done.skipped) == 1 and "left out: record 2 (id 'x')" in str(done)


@pytest.mark.parametrize("where", ["id", "image"])
def test_half_a_character_in_a_name_is_named_with_its_record(source, tmp_path, where):
    records = json.loads(source.read_text())
    records[2][where] = "caf\udce9.png"
    source.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"record 2 .*mix.json: (its id|the name of its picture,) .*half of"):
        convert(source, tmp_path / "out.parquet", image_root=tmp_path / "images")
    done = convert(source, tmp_path / "out.parquet", image_root=tmp_path / "images", skip_broken=True)
    assert done.records == 3 and len(done.skipped) == 1


def test_a_missing_picture_is_named_with_its_record(source, tmp_path):
    os.remove(tmp_path / "images" / "b.png")
    (tmp_path / "out.parquet").write_text("the last good one")
    with pytest.raises(FileNotFoundError, match=r"record 2 \(id 'x'\) .*no picture file .*b.png"):
        convert(source, tmp_path / "out.parquet", image_root=tmp_path / "images")
    assert (tmp_path / "out.parquet").read_text() == "the last good one"
    assert left(tmp_path) == ["images", "mix.json", "out.parquet"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (5, "A picture is a path"),
        ([["b.png"]], "A picture is a path"),
        ("../outside.png", "is not below --image-root"),
        ({"path": "/etc/hostname"}, "/etc/hostname is not below --image-root"),
    ],
)
def test_a_picture_that_is_none_or_from_elsewhere_is_refused(source, tmp_path, image, message):
    (tmp_path / "outside.png").write_bytes(png())
    source.write_text(json.dumps([record("x", image)]))
    with pytest.raises(ValueError, match=rf"record 0 \(id 'x'\) .*{message}"):
        convert(source, tmp_path / "out.parquet", image_root=tmp_path / "images")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"id": 1, "conversations": []}, {"id": 2', "Record 1 of .*a.json is not JSON"),
        ("a.json", '[{"id": 1, "conversations": []}', "ends after 1 records, without the list's `]`"),
        ("a.json", "[] []", "goes on after its list of 0 records"),
        ("a.json", "[1]", "entry 0 of .*no record"),
        ("a.jsonl", '{"id": 1, "conversations": []}\n{"id"', "Line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", '{"question_id": 1}', "record 0 .*no record"),
        ("a.parquet", "PAR1", "cut off or no parquet file"),
    ],
)
def test_damaged_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / name, tmp_path / "out.jsonl")
    assert left(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_text_in_another_encoding_is_named(tmp_path, name):
    text = json.dumps(record(1, answer="é"), ensure_ascii=False)
    (tmp_path / name).write_text(f"[{text}]" if name == "a.json" else text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{name} is not UTF-8 text .*: save it as UTF-8"):
        convert(tmp_path / name, tmp_path / "out.jsonl")


def test_a_file_that_ends_early_is_no_record_to_skip(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1, "conversations": []}, {"id": 2')
    with pytest.raises(ValueError, match="Record 1 of .*a.json is not JSON"):
        convert(tmp_path / "a.json", tmp_path / "out.jsonl", skip_broken=True)
    assert left(tmp_path) == ["a.json"]


def test_pictures_that_would_land_elsewhere_or_on_each_other(tmp_path):
    for path, other in (("../a.png", "b.png"), ("/a.png", "b.png"), ("c.png", "c.png")):
        rows = [record(0, {"bytes": png("red"), "path": other})]
        rows += [record(1, {"bytes": png("blue"), "path": path})]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="record 1 .*(leads out of|another one than)"):
            convert(tmp_path / "a.parquet", tmp_path / "a.json", picture_folder=tmp_path / "out")
        assert left(tmp_path) == ["a.parquet"]


def test_what_it_asks_for(source, tmp_path):
    convert(source, tmp_path / "mix.parquet", image_root=tmp_path / "images")
    with pytest.raises(ValueError, match=r"record 0 \(id '7'\).*--pictures"):
        convert(tmp_path / "mix.parquet", tmp_path / "a.json")
    with pytest.raises(ValueError, match="images is there already"):
        convert(tmp_path / "mix.parquet", tmp_path / "a.json", picture_folder=tmp_path / "images")
    with pytest.raises(ValueError, match="only on the way from parquet to JSON"):
        convert(source, tmp_path / "a.jsonl", picture_folder=tmp_path / "out")
    with pytest.raises(ValueError, match="a .json, .jsonl or .parquet file"):
        convert(source, tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="no record file at nowhere.json"):
        convert("nowhere.json", tmp_path / "a.json")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no column `conversations`"):
        convert(tmp_path / "b.parquet", tmp_path / "a.json")
