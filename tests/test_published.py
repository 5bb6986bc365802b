"""published.py: folders as LLaVA's authors publish them, in small, and what is wrong with them."""

import json
from dataclasses import replace

import pytest
from helpers import png, record

from minillava import published
from minillava.published import PUBLISHED, check_layout

PLACES = {
    "coco": "coco/train2017/{}.jpg",
    "vg": "vg/VG_100K_2/{}.jpg",
    "ocr_vqa": "ocr_vqa/images/{}.jpg",
    "gqa": "gqa/images/{}.jpg",
    "textvqa": "textvqa/train_images/{}.jpg",
}


@pytest.fixture
def mix(tmp_path, monkeypatch):
    """playground/data with four records for each picture folder, two to a picture, and three texts."""
    small = replace(PUBLISHED["mix665k"], records=23, text_only=3, roots=dict.fromkeys(PLACES, 4))
    monkeypatch.setitem(published.PUBLISHED, "mix665k", small)
    records = [record(f"text{i}") for i in range(3)]
    for place in PLACES.values():
        for i in range(4):
            records.append(record(i, place.format(i // 2)))
            file = tmp_path / place.format(i // 2)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png())
    (tmp_path / "llava_v1_5_mix665k.json").write_text(json.dumps(records))
    return tmp_path


def change(folder, records):
    file = folder / "llava_v1_5_mix665k.json"
    file.write_text(json.dumps(records(json.loads(file.read_text()))))


def test_the_published_counts_add_up():
    mix = PUBLISHED["mix665k"]
    assert mix.records == 665_298 == sum(mix.roots.values()) + mix.text_only
    assert (
        PUBLISHED["pretrain"].records == 558_128 and mix.roots.keys() == mix.folders.keys() == PLACES.keys()
    )


def test_a_complete_folder(mix):
    found = check_layout(mix)
    assert not found.problems and (found.total, found.text_only) == (23, 3)
    assert found.records == dict.fromkeys(PLACES, 4) and found.pictures == dict.fromkeys(PLACES, 2)
    assert str(found).endswith("As published: everything is there.")
    assert json.loads(json.dumps(found.to_dict()))["records"]["vg"] == 4
    assert check_layout(mix / "llava_v1_5_mix665k.json").problems == []


def test_missing_pictures_are_counted_once_and_placed(mix):
    (mix / "vg/VG_100K_2/1.jpg").unlink()
    (mix / "gqa").rename(mix / "GQA")
    found = check_layout(mix)
    assert found.missing == {"vg": 1, "gqa": 2}
    one, two = found.problems
    assert one.startswith("1 picture is missing in vg: vg/VG_100K_2/1.jpg (wanted: vg/VG_100K and")
    assert two.startswith("2 pictures are missing in gqa: gqa/images/0.jpg, gqa/images/1.jpg (wanted: gqa/")


def test_pictures_under_another_ending_are_recognized(mix):
    (mix / "ocr_vqa/images/0.jpg").rename(mix / "ocr_vqa/images/0.gif")
    (problem,) = check_layout(mix).problems
    assert "1 picture is missing in ocr_vqa" in problem and "1 of them under another ending" in problem


def test_counts_and_folders_that_are_not_the_published_ones(mix):
    change(mix, lambda records: [*records[2:], record(9, "web/a.jpg"), *2 * records[-1:]])
    found = check_layout(mix).problems
    assert "records: 24, published are 23" in found and "text-only records: 1, published are 3" in found
    assert "records with a picture in textvqa: 6, published are 4" in found
    assert "pictures in folders that are not of this set: web" in found
    assert any("1 picture is missing in web" in problem for problem in found)


def test_records_that_cannot_be_used_are_named(mix):
    change(mix, lambda records: [record("bad", answer=""), *records[1:-1], 7])
    (problem, *_) = [p for p in check_layout(mix).problems if "cannot be used" in p]
    assert problem.startswith("2 records cannot be used: ")
    assert "record 0 (id 'bad')" in problem and "22: no record" in problem


@pytest.mark.parametrize("image", [".", 5, [["a.jpg"]]])
def test_a_picture_that_is_no_path_is_named(mix, image):
    change(mix, lambda records: [record("bad", image), *records])
    (problem, *_) = [p for p in check_layout(mix).problems if "cannot be used" in p]
    assert "1 records cannot be used: record 0 (id 'bad')" in problem and "not the path of a pic" in problem


def test_pretrain_has_its_pictures_in_numbered_folders(tmp_path, monkeypatch):
    monkeypatch.setitem(published.PUBLISHED, "pretrain", replace(PUBLISHED["pretrain"], records=2))
    for root in (tmp_path, tmp_path / "images"):
        (root / "00453").mkdir(parents=True)
    records = [record(0, "00453/004539375.jpg"), record(1, "00453/1.jpg")]
    (tmp_path / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(records))
    (tmp_path / "images/00453/004539375.jpg").write_bytes(png())
    found = check_layout(tmp_path)
    assert found.image_root == str(tmp_path / "images") and found.missing == {"all": 1}
    (problem,) = found.problems
    assert problem == f"1 picture is missing in {tmp_path / 'images'}: 00453/1.jpg"
    assert check_layout(tmp_path, image_root=tmp_path).missing == {"all": 2}


def test_which_file_is_meant(mix, tmp_path):
    (mix / "mine.json").write_text("[]")
    with pytest.raises(ValueError, match="mine.json is none of .*--set"):
        check_layout(mix / "mine.json")
    assert check_layout(mix / "mine.json", "mix665k").total == 0
    with pytest.raises(FileNotFoundError, match="none of blip"):
        check_layout(mix, "pretrain")
    (mix / "blip_laion_cc_sbu_558k.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="more than one of"):
        check_layout(mix)
    with pytest.raises(FileNotFoundError, match="no record file"):
        check_layout(mix / "nowhere")
    (mix / "llava_v1_5_mix665k.json").write_text('[{"id"')
    with pytest.raises(ValueError, match="Record 0 of .* is not JSON"):
        check_layout(mix, "mix665k")
