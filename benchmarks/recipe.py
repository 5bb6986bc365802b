"""What the tiny recipe is worth: three seeds; stage 2 without stage 1; both stages with wrong pictures.

    python benchmarks/recipe.py            # an hour on two cores; goes on where it was
    python benchmarks/recipe.py --seeds 1  # one run of `minillava reproduce` and the two ablations

Prints a table in percent: the mean over seeds with a 95 % bootstrap interval over questions, each seed's
own mean, the baselines, seed 0 without feature alignment, and seed 0 taught with other records' pictures.
That last model is the label-shuffled control of `benchmarks/attention.py`; its folder is printed too.
"""

import argparse
from pathlib import Path

from minillava import checkpoints
from minillava.config import PRESETS
from minillava.evaluation import Report, evaluate
from minillava.evaluation.seeds import to_markdown
from minillava.reproduce import reproduce
from minillava.toybox import store
from minillava.training import train_stage


def without_stage1(folder: Path) -> Report:
    """Stage 2 alone, from the fresh projector that seed 0's stage 1 started from."""
    preset = PRESETS["tiny"]
    model = checkpoints.from_bases(preset.vision_tower, preset.language_model, seed=0)
    stage = preset.stages["stage2"]
    train_stage(model, stage, store.instructions("train", stage.samples), folder, seed=0)
    return evaluate(model, "test")


def other_pictures(records: list[dict]) -> list[dict]:
    """The records with their pictures moved on by half of all: of two or more, none keeps its own."""
    shown = [record["image"] for record in records if record["image"]]
    moved = iter(shown[len(shown) // 2 :] + shown[: len(shown) // 2])
    return [record | {"image": next(moved)} if record["image"] else record for record in records]


def shuffled(folder: Path) -> Report:
    """Both stages on records whose pictures belong to others: what is learned then is language alone."""
    preset = PRESETS["tiny"]
    model = checkpoints.from_bases(preset.vision_tower, preset.language_model, seed=0)
    for name, make in (("stage1", store.captions), ("stage2", store.instructions)):
        stage = preset.stages[name]
        train_stage(model, stage, other_pictures(make("train", stage.samples).to_list()), folder, seed=0)
    return evaluate(model, "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipe"))
    args = parser.parse_args()
    made = [reproduce(args.folder / f"seed-{seed}", seed=seed) for seed in range(args.seeds)]
    others = {
        "without stage 1": without_stage1(args.folder / "without-stage1"),
        "with others' pictures": shuffled(args.folder / "shuffled"),
    }
    print(to_markdown([run.report for run in made], others))
    for seed, run in enumerate(made):
        f1 = ", ".join(f"{when} {value:.2f}" for when, value in run.caption_f1.items())
        text = ", ".join(f"{when} {value:.3f}" for when, value in run.text_loss.items())
        print(f"seed {seed}: caption F1 {f1}; loss on text {text} nats; {run.seconds / 60:.1f} minutes")
    print(f"The control: {args.folder / 'shuffled' / 'stage2' / 'model'}")


if __name__ == "__main__":
    main()
