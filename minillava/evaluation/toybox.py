"""The table of Toybox accuracies: sighted, blind, shuffled, majority, and the text-only oracle.

    sighted    the question with its picture
    blind      the question alone
    shuffled   the question with the picture of another question
    majority   always the commonest answer to that type of question
    oracle     the question with the picture's dense caption in words (LLaVA's text-only GPT-4)
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from tqdm import tqdm

from minillava.config import DATA
from minillava.evaluation.metrics import bootstrap_interval, normalise_answer
from minillava.toybox import store
from minillava.toybox.language import TYPES

FROZEN = DATA / "toybox-eval.parquet"
"""The shipped held-out questions: what `evaluate(model, "test")` asks."""

BASELINES = ("blind", "shuffled", "majority")
ASKED = ("sighted", "blind", "shuffled", "oracle")
"""The columns for which the model is asked; `majority` needs no model."""


@dataclass(frozen=True)
class Report:
    """Accuracies (0-1) by column and question type; "all" is the mean over all questions.

    `predictions[column][i]` is the model's answer to question `ids[i]`.
    """

    split: str
    accuracy: dict[str, dict[str, float]]
    interval: dict[str, dict[str, tuple[float, float]]]
    counts: dict[str, int]
    ids: list[str]
    predictions: dict[str, list[str]] = field(repr=False)

    def to_dict(self) -> dict:
        return {
            "split": self.split,
            "questions": self.counts,
            "accuracy": self.accuracy,
            "interval95": self.interval,
        }

    def to_markdown(self) -> str:
        """Percentages, one row a type; brackets hold the 95 % bootstrap interval of `sighted`."""
        columns = list(self.accuracy)
        lines = [
            f"| {self.split} | questions | " + " | ".join(columns) + " |",
            "|---|---:|" + "---:|" * len(columns),
        ]
        for name, count in self.counts.items():
            cells = []
            for column in columns:
                cell = f"{100 * self.accuracy[column][name]:.1f}"
                if column == "sighted":
                    low, high = self.interval[column][name]
                    cell += f" [{100 * low:.1f}, {100 * high:.1f}]"
                cells.append(cell)
            lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `accuracy.json`, `accuracy.md` and `predictions.jsonl` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / n for n in ("accuracy.json", "accuracy.md", "predictions.jsonl")]
        files[0].write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        files[1].write_text(self.to_markdown() + "\n")
        with files[2].open("w") as out:
            for i, name in enumerate(self.ids):
                row = {"id": name} | {c: answers[i] for c, answers in self.predictions.items()}
                out.write(json.dumps(row) + "\n")
        return files


def evaluate(
    model,
    split: str | datasets.Dataset = "test",
    types: Sequence[str] | None = None,
    baselines: Sequence[str] = (),
    limit: int | None = None,
    batch_size: int = 64,
) -> Report:
    """Ask every held-out question of a Toybox split on its own and score exact matches.

    `split` is a name of `toybox.records.SPLITS` ("test" is the shipped, frozen set) or a Dataset with
    its columns; `baselines` adds columns (see the top of this file); `limit` takes the first questions
    only. Answers are compared after `metrics.normalise_answer`, as VQA does.

    Raises ValueError for an unknown split, type or baseline, or if no question is left.
    """
    unknown = set(types or ()) - set(TYPES) | set(baselines) - {*ASKED, "majority"}
    if unknown:
        raise ValueError(
            f"Unknown type or baseline: {', '.join(sorted(unknown))}. Types are {', '.join(TYPES)}; "
            f"baselines are {', '.join((*BASELINES, 'oracle'))}."
        )
    name = split if isinstance(split, str) else "given"
    rows = [row for row in held_out(split) if types is None or row["type"] in types][:limit]
    if not rows:
        raise ValueError(f"No question of {name} is left after choosing the types {types}.")
    columns = ["sighted", *(b for b in baselines if b != "sighted")]
    answers = {
        column: _majority(rows) if column == "majority" else _ask(model, column, rows, batch_size)
        for column in columns
    }
    kinds = ["all", *(t for t in TYPES if any(row["type"] == t for row in rows))]
    accuracy, interval = {}, {}
    for column, given in answers.items():
        right = [
            float(normalise_answer(a) == normalise_answer(row["answer"]))
            for a, row in zip(given, rows, strict=True)
        ]
        accuracy[column], interval[column] = {}, {}
        for kind in kinds:
            values = [r for r, row in zip(right, rows, strict=True) if kind in ("all", row["type"])]
            accuracy[column][kind] = sum(values) / len(values)
            interval[column][kind] = bootstrap_interval(values, seed=0)
    counts = Counter(row["type"] for row in rows)
    return Report(
        split=name,
        accuracy=accuracy,
        interval=interval,
        counts={kind: counts.get(kind, len(rows)) for kind in kinds},
        ids=[row["id"] for row in rows],
        predictions=answers,
    )


def held_out(split: str | datasets.Dataset = "test") -> datasets.Dataset:
    """The questions of a split, one row each (columns: `toybox.store.EVALUATION_FEATURES`)."""
    if isinstance(split, datasets.Dataset):
        return split
    if split == "test" and FROZEN.is_file():
        from minillava.records import load_records  # brings torch, which `metrics` does without

        return load_records(FROZEN)  # in memory: no cache, and no progress bar in a notebook's output
    return store.evaluation(split, pictures=200)


def _majority(rows: list[dict]) -> list[str]:
    common = {
        kind: Counter(r["answer"] for r in rows if r["type"] == kind).most_common(1)[0][0]
        for kind in {row["type"] for row in rows}
    }
    return [common[row["type"]] for row in rows]


def _ask(model, column: str, rows: list[dict], batch_size: int) -> list[str]:
    """The model's answers to every row, with the picture that `column` stands for."""
    other = len(rows) // 2
    answers = []
    for start in tqdm(range(0, len(rows), batch_size), desc=f"asking ({column})", unit=" batches"):
        batch = rows[start : start + batch_size]
        questions = [row["question"] for row in batch]
        images = [row["image"]["bytes"] for row in batch]
        if column == "oracle":
            questions = [f"{r['captions'][0]}\n{q}" for r, q in zip(batch, questions, strict=True)]
        if column in ("blind", "oracle"):
            images = [None] * len(batch)
        if column == "shuffled":
            # Rows of one picture stand together, so half the table away is another picture.
            images = [
                rows[(start + i + other) % len(rows)]["image"]["bytes"] for i in range(len(batch))
            ]
        answers += model.answer_batch(images, questions, max_new_tokens=8)
    return answers
