"""The memory of one side by itself: `python benchmarks/alone.py ours stage1`, or `peer`. Prints JSON.

The process imports what that side's user would, trains a few steps of the tiny preset, and says how much it
held at its fullest, and how much when all was imported and the model open.
"""

import argparse
import json
import tempfile
from dataclasses import replace

from versus.costs import peak_rss


def train_ours(stage, records, steps: int) -> int:
    import minillava
    from minillava.training import train_stage

    model = minillava.load("tiny")
    opened = peak_rss()
    with tempfile.TemporaryDirectory() as folder:
        train_stage(model, stage, records, folder, max_steps=steps)
    return opened


def train_peer(stage, records, steps: int) -> int:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor
    from versus import hf

    from minillava.config import PRESETS
    from minillava.records import modality_length
    from minillava.sampler import GroupedSampler

    folder = PRESETS["tiny"].finished
    model = hf.trains_as(LlavaForConditionalGeneration.from_pretrained(folder), stage)
    collator = hf.PeerCollator(LlavaProcessor.from_pretrained(folder), stage)
    opened = peak_rss()
    order = GroupedSampler([modality_length(record) for record in records], stage.batch_size).order()
    with tempfile.TemporaryDirectory() as target:
        hf.fit(model, stage, hf.opened(records.select(order)), collator, target, steps, stage.batch_size)
    return opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("stage", choices=("stage1", "stage2"))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, help="default: the preset's")
    args = parser.parse_args()

    import torch

    from minillava.config import PRESETS
    from minillava.toybox import store

    torch.set_num_threads(1)
    stage = PRESETS["tiny"].stages[args.stage]
    stage = replace(stage, batch_size=args.batch or stage.batch_size)
    records = (store.captions if args.stage == "stage1" else store.instructions)("train", args.samples)
    opened = {"ours": train_ours, "peer": train_peer}[args.side](stage, records, args.steps)
    print("\n" + json.dumps({"peak_bytes": peak_rss(), "opened_bytes": opened}))


if __name__ == "__main__":
    main()
