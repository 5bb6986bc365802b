"""What the tiny recipe is worth: three seeds, and stage 2 without stage 1 at equal steps.

    python benchmarks/recipe.py            # an hour on two cores; goes on where it was
    python benchmarks/recipe.py --seeds 1  # one run of `minillava reproduce` and the ablation

Prints a table in percent: the mean over seeds with a 95 % bootstrap interval over questions, each seed's
own mean, the baselines, and seed 0 without feature alignment.
"""

import argparse
from pathlib import Path

from minillava import checkpoints
from minillava.config import PRESETS
from minillava.evaluation import Report, evaluate
from minillava.evaluation.metrics import bootstrap_interval, normalise_answer
from minillava.evaluation.toybox import held_out
from minillava.reproduce import reproduce
from minillava.toybox import store
from minillava.training import train_stage


def without_stage1(folder: Path) -> Report:
    """Stage 2 alone, from the fresh projector that seed 0's stage 1 started from."""
    preset = PRESETS["tiny"]
    model = checkpoints.from_bases(preset.vision_tower, preset.language_model, seed=0)
    stage = preset.stages["stage2"]
    train_stage(model, stage, store.instructions("train", stage.samples), folder)
    return evaluate(model, "test")


def right(report: Report) -> list[float]:
    """1.0 for each question answered right with its picture, else 0.0."""
    pairs = zip(report.predictions["sighted"], held_out(), strict=True)
    return [float(normalise_answer(said) == normalise_answer(row["answer"])) for said, row in pairs]


def table(runs: list[Report], alone: Report) -> str:
    kinds = [row["type"] for row in held_out()]
    means = [sum(values) / len(runs) for values in zip(*(right(run) for run in runs), strict=True)]
    names = ["type", "mean", "95 %", "each seed", "blind", "shuffled", "majority", "without stage 1"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name in runs[0].counts:
        values = [value for value, kind in zip(means, kinds, strict=True) if name in ("all", kind)]
        low, high = bootstrap_interval(values, seed=0)
        each = ", ".join(f"{100 * run.accuracy['sighted'][name]:.1f}" for run in runs)
        cells = [f"{100 * sum(values) / len(values):.1f}", f"{100 * low:.1f}-{100 * high:.1f}", each]
        for column in ("blind", "shuffled", "majority"):
            cells.append(f"{100 * sum(run.accuracy[column][name] for run in runs) / len(runs):.1f}")
        cells.append(f"{100 * alone.accuracy['sighted'][name]:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipe"))
    args = parser.parse_args()
    runs = [reproduce(args.folder / f"seed-{seed}", seed=seed) for seed in range(args.seeds)]
    alone = without_stage1(args.folder / "without-stage1")
    print(table([run.report for run in runs], alone))
    for seed, run in enumerate(runs):
        f1 = ", ".join(f"{when} {value:.2f}" for when, value in run.caption_f1.items())
        print(f"seed {seed}: caption F1 {f1}; {run.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
