"""Prompt, ids and labels against the recorded outputs of the original (see golden/README.md)."""

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from minillava.config import IGNORE_INDEX
from minillava.conversation import encode

GOLDEN = Path(__file__).parent / "golden"
SENTINEL = -200  # the original's image position

# Kept by the original with template tokens in the loss; conversation.py's docstring lists both.
WRONG_LABELS = {"p-v1-113", "p-v1-114"}


def rows(name: str) -> list[dict]:
    with gzip.open(GOLDEN / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


CASES = {r["id"]: r for name in ("v1", "plain") for r in rows(f"conversations_{name}")}
BATCHES = [b for b in rows("after_splice") if not b["raises"]]


@cache
def tokenizer(name: str):
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer" / name)
    tokenizer.add_tokens("<image>", special_tokens=True)
    return tokenizer


def encode_case(case: dict, num_image_tokens: int = 1, max_length: int | None = None):
    template = case["id"].split("-")[1]
    return encode(
        case["conversations"],
        tokenizer(case["tokenizer"]),
        template,
        case["has_image"],
        num_image_tokens,
        max_length,
    )


def expected(ids: list[int], image_id: int) -> list[int]:
    return [image_id if token == SENTINEL else token for token in ids]


def test_the_set_is_whole():
    kept = [c for c in CASES.values() if c["reference_drops_sample"] is False]
    assert len(CASES) == 150 and len(kept) >= 120
    assert {"vicuna_like", "vicuna_like_legacy"} <= {case["tokenizer"] for case in kept}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_same_as_the_original(case):
    if case["reference_raises"]:
        with pytest.raises(ValueError, match="expected|takes|needs"):
            encode_case(case)
        return
    # the original cuts text-only samples here, samples with an image only after the splice
    encoded = encode_case(case, max_length=None if case["has_image"] else case["model_max_length"])
    if "ends_with_question" in case["tags"]:
        assert encoded.prompt == case["prompt"] + "ASSISTANT:"
        assert encoded.n_supervised == len([" A", " dog", ".", "</s>"])
        return
    recorded = case["fast_tokenizer"] or case
    image_id = tokenizer(case["tokenizer"]).convert_tokens_to_ids("<image>")
    assert encoded.prompt == case["prompt"]
    assert encoded.input_ids == expected(recorded["input_ids"], image_id)
    if case["reference_drops_sample"]:  # ours keeps what is learnable, or says that nothing is
        says_why = any(problem.startswith("no_answer") for problem in encoded.problems)
        assert (encoded.n_supervised > 0) != says_why
    elif case["id"] not in WRONG_LABELS:
        assert encoded.labels == expected(recorded["labels"], IGNORE_INDEX)
        assert not any(problem.startswith("no_answer") for problem in encoded.problems)


@pytest.mark.parametrize("case_id", ["p-v1-005", "p-v1-110", "p-v1-112"])
def test_a_one_token_user_keeps_all_its_answers(case_id):
    """The tokenizer with which the original discards every chat of more than one round."""
    case = CASES[case_id]
    encoded = encode_case(case)
    learned = tokenizer(case["tokenizer"]).decode([t for t in encoded.labels if t != IGNORE_INDEX])
    answers = [turn["value"] for turn in case["conversations"] if turn["from"] == "gpt"]
    assert learned.strip() == "</s> ".join(answers) + "</s>"


def test_a_question_that_ends_like_the_template_is_not_learned():
    encoded = encode_case(CASES["p-v1-114"])
    learned = [token for token in encoded.labels if token != IGNORE_INDEX]
    assert tokenizer("vicuna_like").convert_ids_to_tokens(learned) == ["▁Yes", "</s>"]


@pytest.mark.parametrize("batch", BATCHES, ids=[b["id"] for b in BATCHES])
def test_expanded_and_cut_as_after_the_original_splice(batch):
    """One sample of the batch at a time, without its padding (-1)."""
    for source, layout, labels in zip(
        batch["source_ids"], batch["layout"], batch["labels"], strict=True
    ):
        case = CASES[source]
        if "literal_unk_in_answer" in case["tags"]:
            continue  # the original loses the token, because its mask is `id != pad`
        encoded = encode_case(case, batch["n_image_positions"], batch["model_max_length"])
        real = [i for i, token in enumerate(layout) if token != -1]
        image_id = tokenizer(case["tokenizer"]).convert_tokens_to_ids("<image>")
        assert encoded.input_ids == expected([layout[i] for i in real], image_id)
        assert encoded.labels == [labels[i] for i in real]
        if case["has_image"] and "cut inside the image positions" == batch["note"]:
            assert any(problem.startswith("image_truncated") for problem in encoded.problems)
