"""Where a model looks, and what depends on it: `python benchmarks/attention.py --model tiny --pictures 500`.

Leaves attention.md and attention.json in --folder, with the goals of the shipped tiny-LLaVA beside what was
found, and two figures: how often each head points (heads.png) and what is lost by cutting edges (damage.png).
"""

import argparse
import time
from pathlib import Path

import torch

import minillava
from minillava.attention_plots import damage_by_layer
from minillava.evaluation.attention import evaluate_attention
from minillava.evaluation.damage import by_layer
from minillava.plots import head_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a preset's name, a llava-hf folder or a hub id")
    parser.add_argument("--pictures", type=int, default=500, help="of each seed; default: 500")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--explained", type=int, default=200, help="pictures to compare methods on")
    parser.add_argument("--ablated", type=int, default=500, help="pictures to ask about again; 0: none")
    parser.add_argument("--control", action="append", default=[], metavar="NAME=FOLDER",
                        help="measure this model too, such as one trained on shuffled answers")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("runs/attention"), help="default: runs/attention")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    report = evaluate_attention(
        minillava.load(args.model),
        pictures=args.pictures,
        seeds=args.seeds,
        controls={name: minillava.load(folder) for name, folder in (c.split("=", 1) for c in args.control)},
        explained=args.explained,
        ablated=args.ablated,
    )
    files = report.save(args.folder)
    chance = next(line.baselines["other object"] for line in report.models["model"])
    figures = {
        "heads.png": head_grid(
            report.grids["referring word"],
            "Does the word's row point at its object?",
            baseline=float(chance[chance == chance].mean()),
        )
    }
    if report.costs:
        figures["damage.png"] = damage_by_layer(*by_layer(report.costs), "Cutting edges to the object")
    for name, figure in figures.items():
        files.append(args.folder / name)
        files[-1].write_bytes(figure.png())
    print(report.to_markdown())
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes. In {', '.join(map(str, files))}.")


if __name__ == "__main__":
    main()
