"""minillava against transformers' LlavaForConditionalGeneration under its own Trainer, on one CPU thread.

    python benchmarks/peer.py                          # all of it, about six minutes on a quiet machine
    python benchmarks/peer.py --parts step --rounds 6  # a part of it

Both sides start from one export and see the same samples in the same order, with AdamW and float32; a run
whose losses part by more than 0.001 nats at any step stops. Seconds are CPU seconds of one thread; sides
take turns, and a ratio's interval comes from drawing rounds, or whole runs, with replacement. Prints markdown
tables, and leaves the numbers of every round in --folder.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from versus import costs, measure, table
from versus.work import Work

PARTS = ("step", "train", "memory", "growth", "generation", "startup")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--stages", nargs="+", choices=("stage1", "stage2"), default=["stage1", "stage2"])
    parser.add_argument("--rounds", type=int, default=12, help="of the model step; default: 12")
    parser.add_argument("--runs", type=int, default=3, help="whole runs of each side; default: 3")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of a run; default: 6")
    parser.add_argument("--samples", type=int, default=512, help="records to train on; default: 512")
    parser.add_argument("--batch", type=int, help="default: the tiny preset's")
    parser.add_argument("--folder", type=Path, default=Path("runs/peer"), help="default: runs/peer")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    begun, parts = time.perf_counter(), set(args.parts)
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict = {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "lightning")},
        "load": os.getloadavg()[0],
        "stages": {stage: {} for stage in args.stages},
    }

    def keep(into: dict, part: str, measured: Callable[[], dict]) -> None:
        """Measure a part if it was asked for, and write down at once what there is."""
        if part in parts:
            into[part] = measured()
            found["minutes"] = (time.perf_counter() - begun) / 60
            (args.folder / "peer.json").write_text(json.dumps(found, indent=1))
            print(f"{part} done, {found['minutes']:.1f} minutes", file=sys.stderr)

    for stage, results in found["stages"].items():
        work = Work.of(stage, args.samples, args.batch)
        keep(results, "step", partial(measure.model_step, work, args.rounds))
        keep(results, "train", partial(measure.end_to_end, work, args.runs, args.steps))
        keep(results, "memory", partial(measure.memory, stage, args.batch, args.samples, args.steps))
    keep(found, "growth", partial(measure.growth, work, max(1, args.rounds // 6)))
    keep(found, "generation", partial(measure.generation, work, max(1, args.rounds // 2)))
    keep(found, "startup", partial(costs.start_times, max(1, args.rounds // 6)))

    tables = [table.speed(found["stages"]), table.peak(found["stages"]) if "step" in parts else ""]
    for part in ("growth", "generation", "startup"):
        tables.append(getattr(table, part)(found[part]) if part in found else "")
    text = "\n\n".join(filter(None, tables))
    (args.folder / "peer.md").write_text(text + "\n")
    print(f"{text}\n\n{found['minutes']:.1f} minutes, load {found['load']:.1f}, on {found['machine']}. "
          f"In {args.folder}/peer.md and peer.json.")  # fmt: skip


if __name__ == "__main__":
    main()
