"""The table of `evaluation.attention`: lines, goals, and how they are printed and saved."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minillava.evaluation import damage
from minillava.evaluation.damage import PATCHES, QUESTION, RANDOM, TARGET, Cost
from minillava.evaluation.metrics import bootstrap_interval
from minillava.grounding import MEASURES, mean_known

GOALS = {
    ("referring word", "pointing"): 0.90,
    ("caption: color", "pointing"): 0.85,
    ("caption: shape", "pointing"): 0.85,
    ("referring word", "mass/area"): 5.0,
    ("referring word", "rank"): 0.60,
    ("referring word", "specificity"): 0.80,
}
"""Least values hoped for on the shipped tiny-LLaVA, by row and measure. The answer's row has none."""


@dataclass(frozen=True)
class Line:
    """One measure of one kind of row, picture by picture.

    Attributes:
        row, measure: what was measured of what.
        scores: [n], of the head (and row) chosen on the other half of the pictures.
        baselines: name -> [m], in the same units; NaN where there is none.
        right: which answers, or predicted words, were right, bool [n].
    """

    row: str
    measure: str
    scores: np.ndarray
    baselines: dict[str, np.ndarray]
    right: np.ndarray

    def join(self, other: "Line") -> "Line":
        """The same measure of more pictures."""
        return Line(
            self.row,
            self.measure,
            np.concatenate([self.scores, other.scores]),
            {k: np.concatenate([v, other.baselines[k]]) for k, v in self.baselines.items()},
            np.concatenate([self.right, other.right]),
        )

    def cells(self) -> list[str]:
        """The line as a row of a table: value with its interval, when right, when wrong, baselines."""
        value = ""
        if self.scores.size:  # no picture of a seed may have such words
            low, high = bootstrap_interval(self.scores.tolist())
            value = f"{_number(self.scores)} [{low:.2f}, {high:.2f}]"
        beside = (self.scores[self.right], self.scores[~self.right], *self.baselines.values())
        return [self.row, self.measure, value, *map(_number, beside)]

    def to_dict(self) -> dict:
        """Means as numbers, None where there is nothing to average."""
        means = {"best head": self.scores}
        means |= {"when right": self.scores[self.right], "when wrong": self.scores[~self.right]}
        means |= self.baselines
        found = {"row": self.row, "measure": self.measure, "pictures": len(self.scores)}
        if self.scores.size:
            found["interval95"] = bootstrap_interval(self.scores.tolist())
        return found | {name: _known(mean_known(values)) for name, values in means.items()}


@dataclass(frozen=True)
class AttentionReport:
    """What `evaluate_attention` found.

    Attributes:
        accuracy: share of the questions about one object answered rightly.
        models: "model", "untrained" and controls -> their lines, all seeds together.
        seeds: seed -> the lines of "model" on that seed's pictures.
        heads: "chosen with boxes" and "found without boxes" -> (layer, head) pairs, of the first seed.
        methods: method of relevance -> measure -> (value, baseline), for the answer's first token; the
            baseline is another object, or a random order for deletion and insertion.
        costs: what each removal costs (`evaluation.damage`); empty if not asked for.
        grids: kind of row -> how often each head points, [L, H], for `plots.head_grid`; the best is inflated.
    """

    accuracy: float
    models: dict[str, list[Line]]
    seeds: dict[int, list[Line]]
    heads: dict[str, list[tuple[int, int]]]
    methods: dict[str, dict[str, tuple[float, float]]]
    costs: list[Cost] = field(repr=False)
    grids: dict[str, np.ndarray] = field(repr=False)

    def goals(self) -> list[tuple[str, float, str, bool]]:
        """(what, value, goal, whether it is met), in the order of the table."""
        found = []
        for line in self.models["model"]:
            goal = GOALS.get((line.row, line.measure))
            if goal:
                value = mean_known(line.scores)
                found.append((f"{line.row}: {line.measure}", value, f"≥ {goal:g}", value >= goal))
            if (line.row, line.measure) == ("referring word", "pointing"):
                untrained = mean_known(line.baselines["untrained"])
                ratio = mean_known(line.scores) / untrained if untrained else np.inf
                found.append(("the same, by untrained", ratio, "≥ 2.5", ratio >= 2.5))
        for cost in self.costs:
            if cost.rows == PATCHES or (cost.rows, cost.layers) == (QUESTION, "all"):
                name = f"points lost: {cost.removed} hidden from {cost.rows}"
                if cost.removed == TARGET:
                    found.append((name, cost.damage, "≥ 0.3", cost.damage >= 0.3))
                if cost.removed == RANDOM:
                    found.append((name, cost.damage, "≤ 0.05", cost.damage <= 0.05))
        for name in self.models:
            for line in self.models[name]:
                if name != "model" and line.measure in (*MEASURES, "specificity"):
                    chance = mean_known(line.baselines["any head, other"])
                    if line.measure == "specificity":
                        chance = 0.25  # noise: see `grounding.specificity`
                    gap = abs(mean_known(line.baselines["any head"]) - chance)
                    what = f"{name}, {line.row}: {line.measure} of any head off its baseline"
                    found.append((what, gap, "≤ 0.1", gap <= 0.1))
        return found

    def to_dict(self) -> dict:
        return {
            "accuracy": self.accuracy,
            "goals": [
                {"what": what, "value": _known(value), "goal": goal, "met": met}
                for what, value, goal, met in self.goals()
            ],
            "models": {name: [line.to_dict() for line in lines] for name, lines in self.models.items()},
            "seeds": {
                seed: {f"{line.row}: {line.measure}": _known(mean_known(line.scores)) for line in lines}
                for seed, lines in self.seeds.items()
            },
            "heads": self.heads,
            "methods": {
                name: {kind: [_known(value) for value in pair] for kind, pair in scores.items()}
                for name, scores in self.methods.items()
            },
            "costs": [vars(cost) | {"damage": cost.damage} for cost in self.costs],
            "pointing_by_head": {row: grid.round(4).tolist() for row, grid in self.grids.items()},
        }

    def to_markdown(self) -> str:
        yes = {True: "yes", False: "no"}
        parts = [
            f"Right answers to questions about one object: {self.accuracy:.1%}.",
            _table(
                ("goal", "found", "wanted", "met"),
                [(what, f"{value:.2f}", goal, yes[met]) for what, value, goal, met in self.goals()],
            ),
        ]
        for name, lines in self.models.items():
            parts.append(f"**{name}**")
            columns = ["best head [95 %]", "right", "wrong", *lines[0].baselines]
            parts.append(_table(("row", "measure", *columns), [line.cells() for line in lines]))
        parts.append("**model, the pictures of each seed alone**")
        columns = [f"seed {seed}" for seed in self.seeds]
        rows = zip(*self.seeds.values(), strict=True)
        parts.append(
            _table(
                ("row", "measure", *columns),
                [(r[0].row, r[0].measure, *(_number(line.scores) for line in r)) for r in rows],
            )
        )
        parts += [f"Heads (layer, head) {how}: {found}." for how, found in self.heads.items()]
        parts.append("**Methods of relevance, for the answer's first token** (in brackets: baseline)")
        columns = list(next(iter(self.methods.values()), {}))
        parts.append(
            _table(
                ("method", *columns),
                [
                    (name, *(f"{value:.2f} ({base:.2f})" for value, base in scores.values()))
                    for name, scores in self.methods.items()
                ],
            )
        )
        if self.costs:
            parts += ["**What each removal costs**", damage.to_markdown(self.costs)]
        return "\n\n".join(parts)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `attention.json` and `attention.md` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "attention.json", folder / "attention.md"]
        files[0].write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        files[1].write_text(self.to_markdown() + "\n")
        return files


def _known(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _number(values: np.ndarray) -> str:
    mean = mean_known(values)
    return "" if np.isnan(mean) else f"{mean:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
