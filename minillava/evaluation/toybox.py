"""The table of Toybox accuracies: sighted, blind, shuffled, majority, and the text-only oracle.

    sighted    the question with its picture
    blind      the question alone
    shuffled   the question with another picture of its domain
    majority   always the commonest answer to that type of question
    oracle     the question with the picture's dense caption in words (LLaVA's text-only GPT-4); `reproduce`
               asks the language model for it before stage 2, so it says what the base alone can do
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from minillava.config import DATA
from minillava.evaluation.asking import answering, replies
from minillava.evaluation.metrics import bootstrap_interval
from minillava.evaluation.scoring import ERROR, F1, PRECISION, RECALL, score
from minillava.toybox import store

WHOLE = "{}: all turns right"
"""Name of a row: dialogues without a mistake."""

BRIEF = 0.99
"""The share hoped for of replies that obey the format prompt, where a word or phrase is asked for."""

FROZEN = DATA / "toybox-eval.parquet"
"""The shipped held-out questions: what `evaluate(model, "test")` asks."""

UNSAID = {"domain": "scenes", "kind": "questions", "measure": "exact"}
"""What rows are that do not say it: short questions about scenes."""

GOALS = {
    "scenes": 0.90,
    "count": 0.85,
    f"count: {ERROR}": 0.2,
    "description": 0.85,
    "description: not there": 0.05,
    "dialogue": 0.85,
    WHOLE.format("dialogue"): 0.65,
    "scenes, reasoning": 0.75,
    "multiple_choice": 0.85,
    f"pope_adversarial: {F1}": 0.85,
    "box": 0.70,
    "sign": 0.80,
    "sign: characters": 0.95,
    "breed": 0.80,
    "kind": 0.95,
    "sketch": 0.85,
    "sketch: parses": 0.99,
    "sketch: drawn alike (IoU)": 0.85,
}
"""What is hoped for of the tiny models on alike pictures that they never saw, by row of the table."""

LESS_IS_MORE = (f"count: {ERROR}", "description: not there")
"""Rows whose goal is the most that there should be; of the others it is the least."""

BASELINES = ("blind", "shuffled", "majority")
ASKED = ("sighted", "blind", "shuffled", "oracle")
"""The columns for which the model is asked; `majority` needs no model."""


@dataclass(frozen=True)
class Report:
    """Scores (0-1; errors in units of what is counted) by column and row of the table.

    Rows are "all", the mean over all questions; then for each domain its own name, the mean over its short
    questions, followed by its types, and, where a type has more than one score, these ("sketch: parses").
    A type that bears its domain's name stands for it. Questions of another kind of conversation make rows of
    their own ("scenes, reasoning"). Types of one name in several places say where they are from ("color
    (signs)").

    `predictions[column][i]` is the model's answer to question `ids[i]`; `scores[column][row]` are the single
    scores of which `accuracy` is the mean. `brief` is the share of its replies that are no more than a word
    or phrase where that was asked for; None where it never was.
    """

    split: str
    accuracy: dict[str, dict[str, float]]
    interval: dict[str, dict[str, tuple[float, float]]]
    counts: dict[str, int]
    ids: list[str]
    predictions: dict[str, list[str]] = field(repr=False)
    scores: dict[str, dict[str, list[float]]] = field(repr=False)
    brief: float | None = None

    def to_dict(self) -> dict:
        return {
            "split": self.split,
            "questions": self.counts,
            "accuracy": self.accuracy,
            "interval95": self.interval,
            "obeys_the_format": self.brief,
        }

    def to_markdown(self) -> str:
        """Percentages (errors as they are), one row a type; brackets: 95 % bootstrap interval of `sighted`.

        On the split "test" GOALS stand in the last column, and whether they are missed. Rows of precision
        count the replies "yes", of recall the questions of which yes is right, of F1 both.
        """
        columns = list(self.accuracy)
        goals = GOALS if self.split == "test" else {}
        titles = [self.split, "questions", *columns, *["goal"] * bool(goals)]
        lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
        for name, count in self.counts.items():
            shown = "{:.2f}".format if name.endswith(ERROR) else "{:.1%}".format
            cells = []
            for column in columns:
                if name not in self.accuracy[column]:  # the precision of one who never says yes
                    cells.append("")
                    continue
                cell = shown(self.accuracy[column][name]).rstrip("%")
                if column == "sighted":
                    low, high = (shown(end).rstrip("%") for end in self.interval[column][name])
                    cell += f" [{low}, {high}]"
                cells.append(cell)
            if name in goals:
                less, found = name in LESS_IS_MORE, self.accuracy["sighted"][name]
                missed = found > goals[name] if less else found < goals[name]
                cells.append(f"{'≤' if less else '≥'} {shown(goals[name]).rstrip('%')}{' missed' * missed}")
            elif goals:
                cells.append("")
            lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
        if self.brief is not None:
            goal = f" (goal: {BRIEF:.0%})" if goals else ""
            lines += ["", f"Of short answers, {self.brief:.1%} obey the format: a word or phrase{goal}."]
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
    given: Mapping[str, Sequence[str]] | None = None,
    processes: int = 1,
) -> Report:
    """Ask every held-out question of a Toybox split on its own and score the replies.

    `split` is a name of `toybox.records.SPLITS` ("test" is the shipped, frozen set) or a Dataset with
    its columns; `baselines` adds columns (see the top of this file); `limit` takes the first questions
    only. How replies are scored, each row's `measure` says: see `scoring`. Columns whose answers are
    `given`, from `ask`, come last: so the oracle can be the language model before stage 2 tuned it. Several
    `processes` share the questions and the CPU's threads, each with a copy of the model: the same replies,
    to rounding. (Each reads the script that asks for them again: it needs its `if __name__ == "__main__":`.)

    Raises ValueError for an unknown split, type or baseline, if no question is left, or if there are not as
    many given answers as questions.
    """
    name = split if isinstance(split, str) else "given"
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` takes the first questions, at least 1, not {limit}.")
    if wrong := set(baselines) - {*ASKED, "majority"}:
        names = ", ".join((*BASELINES, "oracle"))
        raise ValueError(f"Unknown baseline: {', '.join(sorted(wrong))}. Baselines are {names}.")
    asked = _rows(split)
    there = dict.fromkeys(row["type"] for row in asked)
    if wrong := set(types or ()) - set(there):
        raise ValueError(f"Unknown type: {', '.join(sorted(wrong))}. Types are {', '.join(there)}.")
    rows = [row for row in asked if types is None or row["type"] in types][:limit]
    if not rows:
        raise ValueError(f"No question of {name} is left after choosing the types {types}.")
    for column, answered in (given or {}).items():
        if len(answered) != len(rows):
            raise ValueError(
                f"{len(answered)} answers are given for {column}, but {len(rows)} questions are asked: "
                "give `ask` the same split and limit, and choose no types."
            )
    columns = ["sighted", *(b for b in baselines if b != "sighted")]
    with answering(model, processes) as answer:
        answers = {
            column: _majority(rows) if column == "majority" else replies(answer, column, rows, batch_size)
            for column in columns
        }
    answers |= {column: list(answered) for column, answered in (given or {}).items()}
    accuracy, interval = {}, {}
    tables = {column: scores(rows, answered) for column, answered in answers.items()}
    for column, table in tables.items():
        accuracy[column] = {title: sum(values) / len(values) for title, values in table.items()}
        interval[column] = {title: bootstrap_interval(values, seed=0) for title, values in table.items()}
    return Report(
        split=name,
        accuracy=accuracy,
        interval=interval,
        counts={title: len(values) for title, values in tables["sighted"].items()},
        ids=[row["id"] for row in rows],
        predictions=answers,
        scores=tables,
        brief=obedience(rows, answers["sighted"]),
    )


def ask(
    model,
    column: str,
    split: str | datasets.Dataset = "test",
    limit: int | None = None,
    batch_size: int = 64,
    processes: int = 1,
) -> list[str]:
    """The model's answers to a split's questions, shown what a column of the table shows: see `evaluate`."""
    with answering(model, processes) as answer:
        return replies(answer, column, _rows(split)[:limit], batch_size)


def _rows(split: str | datasets.Dataset) -> list[dict]:
    return [UNSAID | row for row in held_out(split)]


def scores(rows: Sequence[dict], given: Sequence[str]) -> dict[str, list[float]]:
    """All scores of one column by row of the table, in the order in which it is shown."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    everything, named = [], _named(rows)
    for row, reply in zip(rows, given, strict=True):
        measured = score(row["measure"], reply, row["answer"])
        everything.append(measured[""])
        group, name = found[row["domain"], row["kind"]], named[_place(row)]
        for title, value in measured.items():
            group[f"{name}: {title}" if title else name].append(value)
    table = {"all": everything}
    for (domain, kind), group in found.items():
        for title in [title for title in group if title.endswith(f": {RECALL}")]:
            # 2 TP / (TP + FP + TP + FN) is the mean of both lists as one: 0 for one who never says yes.
            stem = title.removesuffix(RECALL)
            group[stem + F1] = group.get(stem + PRECISION, []) + group[title]
        plain = [value for title, values in group.items() if ": " not in title for value in values]
        table[domain if kind == "questions" else f"{domain}, {kind}"] = plain
        order = list(dict.fromkeys(title.split(": ")[0] for title in group))
        table |= {t: group[t] for t in sorted(group, key=lambda t: (order.index(t.split(": ")[0]), t))}
        if kind == "dialogue":
            table[WHOLE.format(order[0])] = _whole(rows, given, domain)
    return table


def _place(row: dict) -> tuple[str, str, str]:
    """Which type of which conversations a question is of; types of one name may be in several."""
    return row["domain"], row["kind"], row["type"]


def _named(rows: Sequence[dict]) -> dict[tuple[str, str, str], str]:
    """What a type is called in the table: also where it is from, if several have its name."""
    places = dict.fromkeys(map(_place, rows))
    often = Counter(kind for *_, kind in places)
    where = {place: place[0] if place[1] == "questions" else f"{place[0]}, {place[1]}" for place in places}
    return {place: f"{place[2]} ({where[place]})" if often[place[2]] > 1 else place[2] for place in places}


def obedience(rows: Sequence[dict], given: Sequence[str]) -> float | None:
    """The share of replies to short questions that are as short as right answers to their type are, and no
    sentence; None if there are no such questions."""
    longest: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in rows:
        longest[_place(row)] = max(longest[_place(row)], len(row["answer"].split()))
    obeys = [
        len(reply.split()) <= longest[_place(row)] and not reply.endswith(".")
        for row, reply in zip(rows, given, strict=True)
        if row["kind"] == "questions" and row["measure"] in ("exact", "number") and row["answer"][-1] != "."
    ]
    return sum(obeys) / len(obeys) if obeys else None


def _whole(rows: Sequence[dict], given: Sequence[str], domain: str) -> list[float]:
    """For each dialogue of a domain, whether every turn was answered rightly."""
    right: dict[str, float] = defaultdict(lambda: 1.0)
    for row, reply in zip(rows, given, strict=True):
        if (row["domain"], row["kind"]) == (domain, "dialogue"):
            right[row["id"].rsplit("/", 2)[0]] *= score(row["measure"], reply, row["answer"])[""]
    return list(right.values())


def held_out(split: str | datasets.Dataset = "test") -> datasets.Dataset:
    """The questions of a split, one row each (columns: `toybox.store.EVALUATION_FEATURES`)."""
    if isinstance(split, datasets.Dataset):
        return split
    if split == "test" and FROZEN.is_file():
        from minillava.records import load_records  # brings torch, which `metrics` does without

        return load_records(FROZEN)  # in memory: no cache, and no progress bar in a notebook's output
    return store.held_out(split)


def _majority(rows: list[dict]) -> list[str]:
    given: dict[tuple[str, str, str], Counter] = defaultdict(Counter)
    for row in rows:
        given[_place(row)][row["answer"]] += 1
    return [given[_place(row)].most_common(1)[0][0] for row in rows]
