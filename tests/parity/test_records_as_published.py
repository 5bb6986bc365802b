"""Records in the forms LLaVA publishes them: the 558K of stage 1, the 665K mix of stage 2.

The texts are made up; the forms (ids of both types, paths, turns, ShareGPT's long text-only chats) are those
of blip_laion_cc_sbu_558k.json and llava_v1_5_mix665k.json, as the original reads them.
"""

import json

import pytest
from helpers import PATCHES, SIZE, dataset, png

from minillava.convert import convert
from minillava.data import audit, load_records

WORD = "Answer the question using a single word or phrase."


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


PRETRAIN = [
    {
        "id": "004539375",
        "image": "00453/004539375.jpg",
        "conversations": turns("Render a short summary of the photo.\n<image>", "a red chair by a window"),
    },
    {
        "id": "002239345",
        "image": "00223/002239345.jpg",
        "conversations": turns("<image>\nWhat is this?", "two boats on a lake"),
    },
]

REGION = "Please provide a short description for this region: [0.27, 0.1, 0.5, 0.4]."
MIX = [
    {
        "id": "000000033471",
        "image": "coco/train2017/000000033471.jpg",
        "conversations": turns(
            f"<image>\nWhat color is the bus?\n{WORD}", "White", f"Is it day?\n{WORD}", "Yes"
        ),
    },
    {
        "id": 2354786,
        "image": "vg/VG_100K/2354786.jpg",
        "conversations": turns(f"<image>\n{REGION}", "A man in blue."),
    },
    {
        "id": "wgByO4Y_0",
        "model": "",
        "conversations": turns("Write a poem.", "Roses. " * 700, "Another.", "Violets. " * 700),
    },
    {"id": "TmGxNSV_3", "conversations": turns("And now?", "Now this.")},
    {
        "id": "gpt_first",
        "conversations": [{"from": "gpt", "value": "Hello!"}, *turns("Hi.", "What can I do?")],
    },
    {"id": "VdvY5TX_0", "conversations": turns("q " * 2100, "Too late.")},
]


@pytest.fixture
def root(tmp_path):
    for record in PRETRAIN + MIX:
        if "image" in record:
            file = tmp_path / "images" / record["image"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png())
    return tmp_path / "images"


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize(("records", "template"), [(PRETRAIN, "plain"), (MIX, "v1")])
def test_every_form_in_every_kind_of_file(root, tokenizer, tmp_path, kind, records, template):
    source, file = tmp_path / "source.json", tmp_path / f"records.{kind}"
    source.write_text(json.dumps(records))
    convert(source, file, image_root=root)
    read = load_records(file)
    options = {"tokenizer": tokenizer, "template": template, "num_image_tokens": PATCHES}
    report = audit(read, root, **options)
    kept = report.without_problems(read)
    samples = dataset(kept, tokenizer, image_root=root, template=template)
    with_image = [r for r in records if "image" in r]
    assert (report.records, report.with_image) == (len(records), len(with_image))
    assert [len(sample["pixel_values"]) for sample in samples][: len(with_image)] == [1] * len(with_image)
    assert all(sample["pixel_values"].shape[1:] == (3, SIZE, SIZE) for sample in samples)
    assert [length > 0 for length in samples.lengths] == [
        "image" in r for r in records if r["id"] != "VdvY5TX_0"
    ]


def test_what_2048_positions_cut_is_listed_by_id(root, tokenizer):
    """576 of them are the picture's; a lost end is noted, a lost answer rules the record out."""
    report = audit(MIX, root, tokenizer, max_length=2048)
    found = {kind: [finding.id for finding in all_] for kind, all_ in report.by_kind().items()}
    assert found == {
        "answer cut away": ["VdvY5TX_0"],
        "cut": ["wgByO4Y_0"],
        "leading_answer": ["gpt_first"],
    }
    listed = report.to_dict()
    assert [row["id"] for row in listed["problems"] + listed["notes"]] == [
        "VdvY5TX_0",
        "wgByO4Y_0",
        "gpt_first",
    ]
    assert (listed["with_image"], listed["text_only"], listed["unit"]) == (2, 4, "tokens")
    assert sum(bin["records"] for bin in listed["lengths"]) == len(MIX)
    pictures = [length for length in report.lengths if length > 576]
    assert len(pictures) >= 2 and json.dumps(listed)


def test_nothing_is_left_out_without_a_choice(root, tokenizer):
    report = audit(MIX, root, tokenizer)
    with pytest.raises(ValueError, match="VdvY5TX_0"):
        report.raise_for_problems()
    with pytest.raises(ValueError, match=r"record 5 \(id 'VdvY5TX_0'\)"):
        dataset(MIX, tokenizer, image_root=root)[5]
    assert [r["id"] for r in report.without_problems(MIX)] == [r["id"] for r in MIX[:5]]
