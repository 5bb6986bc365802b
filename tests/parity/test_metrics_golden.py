"""The metrics against LLaVA's own, number by number."""

import json
import os
from pathlib import Path

import pytest

from minillava.evaluation import judge
from minillava.evaluation.metrics import (
    choice_index,
    choice_letter,
    judge_table,
    normalise_answer,
    parse_review,
    pope_scores,
    says_yes,
    vqa_accuracy,
)

KEPT = Path(__file__).parent / "golden" / "order_and_metrics"
ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = Path(os.environ.get("MINILLAVA_GOLDEN", ROOT.parent / "shared" / "golden"))


def rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def elsewhere(name):
    """Vectors that repeat other people's text, and so are not part of this repository."""
    if not (ELSEWHERE / name).is_file():
        pytest.skip(f"{name} is not here; set MINILLAVA_GOLDEN to its folder")
    return ELSEWHERE / name


def test_normalised_answers():
    for row in rows(KEPT / "vqa_normalise.jsonl"):
        assert normalise_answer(row["raw"]) == row["normalised"], row["id"]


def test_soft_accuracy():
    for row in rows(KEPT / "vqa_soft_accuracy.jsonl"):
        if row["raises"]:
            with pytest.raises(ValueError, match="ten answers"):
                vqa_accuracy(row["prediction"], row["answers"])
        else:
            assert vqa_accuracy(row["prediction"], row["answers"]) == row["score"], row["id"]


def test_pope():
    for row in rows(KEPT / "pope.jsonl"):
        parsed = ["yes" if says_yes(answer) else "no" for answer in row["answers"]]
        assert parsed == row["parsed"], row["id"]
        scores = pope_scores(row["answers"], row["labels"])
        counts = scores.true_positives, scores.false_positives
        counts += scores.true_negatives, scores.false_negatives
        assert counts == tuple(row[name] for name in ("TP", "FP", "TN", "FN")), row["id"]
        if row["raises"]:  # the original divides by zero
            assert scores.f1 == 0
            continue
        for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert getattr(scores, name) == row[name], (row["id"], name)
        assert str(scores) == row["summary_line"]


def test_scienceqa_choices():
    for row in rows(elsewhere("scienceqa_parse.jsonl")):
        assert (choice_letter(row["text"]) or "FAILED") == row["parsed_letter"], row["id"]
        assert choice_index(row["text"], row["n_choices"]) == row["parsed_index"], row["id"]


def test_judge_reviews():
    for row in rows(elsewhere("judge_reviews.jsonl")):
        expected = None if row["parse_error"] else tuple(row["scores"])
        assert parse_review(row["text"]) == expected, row["id"]


def test_judge_summary():
    for case in json.loads(elsewhere("judge_summary.json").read_text())["cases"]:
        table = judge_table(
            (row.get("category"), row.get("tuple") or row["score"])
            for row in case["reviews"]
            if row["question_id"] not in case["ignore"]
        )
        found = {
            name: {key: getattr(score, key) for key in ("relative", "reference_x10", "model_x10")}
            for name, score in table.items()
        }
        assert found == case["expected"], case["id"]


def test_judge_prompts():
    """Both scripts' messages, whatever the answers contain, with the rule and the request of the row."""
    found = rows(elsewhere("judge_prompts.jsonl"))
    assert {row["category"] for row in found} > set(judge.CATEGORIES)
    for row in found:
        context, rule = row["context"], row["rule"]
        words = judge.describe(context.get("captions") or context["caption"], context.get("instances"))
        answers = row["answer1"], row["answer2"]
        prompt = judge.judge_prompt(words, row["question"]["text"], *answers, rule=rule["prompt"])
        assert prompt == row["prompt"], row["id"]
        sent = row["request"]
        assert (judge.SYSTEM, judge.TEMPERATURE, judge.MAX_TOKENS) == (
            sent["system"],
            sent["temperature"],
            sent["max_tokens"],
        )
        assert rule["role"] == "Assistant"
