"""The table of several models that differ by their seed: what of a result is the recipe's, and what luck."""

from collections.abc import Mapping, Sequence

from minillava.evaluation.metrics import bootstrap_interval
from minillava.evaluation.scoring import ERROR, F1, PRECISION
from minillava.evaluation.toybox import ASKED, GOALS, LESS_IS_MORE, Report


def over_seeds(runs: Sequence[Report]) -> dict[str, list[float]]:
    """Scores by row of the table: of each question the mean over seeds, all of which were asked the same.

    POPE's precision and F1 are of those questions to which a seed said yes: there, all seeds' as one list.
    Raises ValueError for runs that were asked different questions.
    """
    if any(run.ids != runs[0].ids for run in runs):
        raise ValueError("The seeds were asked different questions: give them all the same split and types.")
    tables = [run.scores["sighted"] for run in runs]
    joined = {}
    for title in dict.fromkeys(title for table in tables for title in table):
        lists = [table[title] for table in tables if title in table]
        if title.endswith((PRECISION, F1)):
            joined[title] = sum(lists, [])
        else:
            joined[title] = [sum(values) / len(values) for values in zip(*lists, strict=True)]
    return joined


def to_markdown(runs: Sequence[Report], others: Mapping[str, Report] | None = None) -> str:
    """In percent (errors as they are): the mean over seeds with its 95 % bootstrap interval over questions,
    each seed's own, the mean of each baseline, the goals of the split "test", and what `others` get."""
    others = others or {}
    columns = [column for column in (*ASKED[1:], "majority") if all(column in run.accuracy for run in runs)]
    goals = GOALS if runs[0].split == "test" else {}
    names = ["type", "mean", "95 %", "each seed", *columns, *["goal"] * bool(goals), *others]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, values in over_seeds(runs).items():
        scale, digits = (1, 2) if name.endswith(ERROR) else (100, 1)

        def shown(value: float | None, scale=scale, digits=digits) -> str:
            return "" if value is None else f"{scale * value:.{digits}f}"

        low, high = bootstrap_interval(values, seed=0)
        each = ", ".join(shown(run.accuracy["sighted"].get(name)) for run in runs)
        cells = [shown(sum(values) / len(values)), f"{shown(low)}-{shown(high)}", each]
        for column in columns:
            known = [run.accuracy[column][name] for run in runs if name in run.accuracy[column]]
            cells.append(shown(sum(known) / len(known)) if known else "")
        if goals:
            sign = "≤" if name in LESS_IS_MORE else "≥"
            cells.append(f"{sign} {shown(goals[name])}" if name in goals else "")
        cells += [shown(report.accuracy["sighted"].get(name)) for report in others.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
