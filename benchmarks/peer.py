"""minillava against transformers' LlavaForConditionalGeneration under its own Trainer, on one CPU thread.

    python benchmarks/peer.py                          # all of it, about six minutes on a quiet machine
    python benchmarks/peer.py --parts step --rounds 8  # a part of it

Both sides start from one export and see the same samples in the same order, with AdamW and float32; a run
whose losses part by more than 0.001 nats at any step stops. Seconds are CPU seconds of one thread; sides
take turns, and a ratio's interval comes from drawing rounds with replacement. Prints markdown tables, and
leaves the numbers of every round in --folder.
"""

import argparse
import json
import os
import platform
import time
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
    parser.add_argument("--rounds", type=int, default=24, help="of the model step; default: 24")
    parser.add_argument("--runs", type=int, default=4, help="whole runs of each side; default: 4")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a run; default: 10")
    parser.add_argument("--samples", type=int, default=512, help="records to train on; default: 512")
    parser.add_argument("--batch", type=int, help="default: the tiny preset's, 32 and 16")
    parser.add_argument("--folder", type=Path, default=Path("runs/peer"), help="default: runs/peer")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    begun, parts = time.perf_counter(), set(args.parts)
    found: dict = {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "lightning")},
        "load": os.getloadavg()[0],
        "stages": {stage: {} for stage in args.stages},
    }
    work = None
    for stage in args.stages:
        work, results = Work.of(stage, args.samples, args.batch), found["stages"][stage]
        if "step" in parts:
            results["step"] = measure.model_step(work, args.rounds)
        if "train" in parts:
            results["train"] = measure.end_to_end(work, args.runs, args.steps)
        if "memory" in parts:
            results["memory"] = measure.memory(stage, args.batch, args.samples, args.steps)
    if "growth" in parts:
        found["growth"] = measure.growth(work, max(1, args.rounds // 8))
    if "generation" in parts:
        found["generation"] = measure.generation(work, max(1, args.rounds // 3))
    if "startup" in parts:
        found["startup"] = costs.start_times(max(1, args.rounds // 8))
    found["minutes"] = (time.perf_counter() - begun) / 60

    args.folder.mkdir(parents=True, exist_ok=True)
    tables = [table.speed(found["stages"]), table.peak(found["stages"]) if "step" in parts else ""]
    for part in ("growth", "generation", "startup"):
        tables.append(getattr(table, part)(found[part]) if part in found else "")
    text = "\n\n".join(filter(None, tables))
    (args.folder / "peer.json").write_text(json.dumps(found, indent=1))
    (args.folder / "peer.md").write_text(text + "\n")
    print(f"{text}\n\n{found['minutes']:.1f} minutes, load {found['load']:.1f}, on {found['machine']}. "
          f"In {args.folder}/peer.md and peer.json.")  # fmt: skip


if __name__ == "__main__":
    main()
